"""Weightings: from the tasks' Gram matrix to one weight per task.

Each is algebra on `gram_KxK`, by kind of method in one module each. Every one
is finite for gradients of any scale between 1e-10 and 1e10, for zero, equal and
dependent gradients, and for a debiased Gram matrix that is indefinite.
"""

from gradlens.weightings.base import stateless
from gradlens.weightings.fixed import constant, mean, random_weights, total
from gradlens.weightings.losses import dwa, famo, stch, uncertainty_weighting
from gradlens.weightings.norms import equalize_norms, imtl_g
from gradlens.weightings.projections import gradvac, pcgrad
from gradlens.weightings.quadratic import cagrad, dual_proj, mgda, upgrad
from gradlens.weightings.roots import fairgrad, nash_mtl
from gradlens.weightings.selection import krum, pcd
from gradlens.weightings.spectral import aligned_mtl, conflict_free
from gradlens.weightings.stateful import gradnorm, modo, mt_grpo, sdmgrad
from gradlens.weightings.wrappers import clip_weights, cr_mogm, ema_gram

__all__ = [
    'aligned_mtl',
    'cagrad',
    'clip_weights',
    'conflict_free',
    'constant',
    'cr_mogm',
    'dual_proj',
    'dwa',
    'ema_gram',
    'equalize_norms',
    'fairgrad',
    'famo',
    'gradnorm',
    'gradvac',
    'imtl_g',
    'krum',
    'mean',
    'mgda',
    'modo',
    'mt_grpo',
    'nash_mtl',
    'pcd',
    'pcgrad',
    'random_weights',
    'sdmgrad',
    'stateless',
    'stch',
    'total',
    'uncertainty_weighting',
    'upgrad',
]
