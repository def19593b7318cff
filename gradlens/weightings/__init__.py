"""Weightings: from the tasks' Gram matrix to one weight per task.

Each is algebra on `gram_KxK`, by kind of method in one module each. Every one
is finite for gradients of any scale between 1e-10 and 1e10, for zero, equal and
dependent gradients, and for a debiased Gram matrix that is indefinite.
"""

from gradlens.weightings.fixed import constant, mean, stateless, total
from gradlens.weightings.norms import equalize_norms
from gradlens.weightings.projections import pcgrad

__all__ = [
    'constant',
    'equalize_norms',
    'mean',
    'pcgrad',
    'stateless',
    'total',
]
