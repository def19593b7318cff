"""Elementwise corrections: entry by entry on stacked gradients, not by weights.

Each takes `[K, *param]` and gives `[*param]`, first in its chain, as `correct`
does with `apply='stacked'`.
"""

from gradlens.elementwise.entries import graddrop, trimmed_mean
from gradlens.elementwise.tracked import excess_mtl, moco

__all__ = ['excess_mtl', 'graddrop', 'moco', 'trimmed_mean']
