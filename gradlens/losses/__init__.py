"""Losses: of tokens, and per-row sums and counts of them."""

from gradlens.losses.aggregate import (
    AGGREGATES,
    NORMALIZES,
    couples_splits,
    denominators,
    row_count,
    row_sum,
    task_shares,
)
from gradlens.losses.penalties import (
    ESTIMATORS,
    importance_weights,
    kl_divergence,
)
from gradlens.losses.surrogates import (
    SURROGATES,
    MakeSurrogate,
    Surrogate,
    clipped,
    dual_clipped,
    log_ratio,
    sequence_clipped,
    sequence_token_clipped,
    weight_clipped,
)

__all__ = [
    'AGGREGATES', 'ESTIMATORS', 'MakeSurrogate', 'NORMALIZES', 'SURROGATES',
    'Surrogate',
    'clipped', 'couples_splits', 'denominators', 'dual_clipped',
    'importance_weights',
    'kl_divergence', 'log_ratio', 'row_count', 'row_sum', 'sequence_clipped',
    'sequence_token_clipped', 'task_shares', 'weight_clipped',
]
