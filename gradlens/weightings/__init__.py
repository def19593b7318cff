"""Weightings: from the tasks' Gram matrix to one weight per task.

Each is algebra on `gram_KxK`, by kind of method in one module each. Every one
is finite for gradients of any scale between 1e-10 and 1e10, for zero, equal and
dependent gradients, and for a debiased Gram matrix that is indefinite.
"""

from gradlens.weightings.fixed import (
    constant,
    mean,
    random_weights,
    stateless,
    total,
)
from gradlens.weightings.norms import equalize_norms, imtl_g
from gradlens.weightings.projections import pcgrad
from gradlens.weightings.quadratic import cagrad, dual_proj, mgda, upgrad
from gradlens.weightings.roots import fairgrad, nash_mtl
from gradlens.weightings.spectral import aligned_mtl, conflict_free

__all__ = [
    'aligned_mtl',
    'cagrad',
    'conflict_free',
    'constant',
    'dual_proj',
    'equalize_norms',
    'fairgrad',
    'imtl_g',
    'mean',
    'mgda',
    'nash_mtl',
    'pcgrad',
    'random_weights',
    'stateless',
    'total',
    'upgrad',
]
