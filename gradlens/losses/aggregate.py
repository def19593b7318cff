"""Aggregates: per-row sums and counts, kept apart so that losses add up.

A row is a task's split: B prompts, G completions of each, C tokens. Dividing
by counts that are known before the backward pass makes each row's loss a
contribution: rows sum to the batch loss.
"""

import jax
import jax.numpy as jnp

from gradlens import masked


def _token_mean(values_BxGxC, mask_BxGxC):
  return masked.sum(values_BxGxC, mask_BxGxC)


def _sequence_mean(values_BxGxC, mask_BxGxC):
  return jnp.sum(masked.mean(values_BxGxC, mask_BxGxC, axis=-1))


_SUMS = dict(
    token_mean=_token_mean,
    sequence_mean=_sequence_mean,
    fixed_length=_token_mean,
)
_COUNTS = dict(
    token_mean=lambda mask_BxGxC: masked.count(mask_BxGxC),
    sequence_mean=lambda mask_BxGxC: masked.count(mask_BxGxC.any(axis=-1)),
    fixed_length=lambda mask_BxGxC: (
        masked.count(mask_BxGxC.any(axis=-1)) * mask_BxGxC.shape[-1]
    ),
)


AGGREGATES = tuple(_SUMS)
NORMALIZES = ('batch', 'task')


def couples_splits(*, aggregate: str, mask_truncated: bool) -> bool:
  """Whether a split's loss is divided by what was sampled in others.

  Splits are then not independent, and no estimate from them is unbiased.

  Args:
    aggregate: as in `row_sum`; 'token_mean' divides by the tokens of the batch.
    mask_truncated: whether truncated completions are left out; then the number
      of those that are left follows from what was sampled.
  """
  return aggregate == 'token_mean' or mask_truncated


def row_sum(
    values_BxGxC: jax.Array, mask_BxGxC: jax.Array, *, aggregate: str
) -> jax.Array:
  """A row's loss before division: float32 scalar.

  Args:
    values_BxGxC: a loss per token.
    mask_BxGxC: which tokens count.
    aggregate: 'token_mean' (every token of the batch weighs the same),
      'sequence_mean' (every completion does) or 'fixed_length' (token sums
      over the longest possible completion: Dr. GRPO, arXiv 2503.20783).
  """
  return _SUMS[aggregate](values_BxGxC, mask_BxGxC)


def row_count(mask_BxGxC: jax.Array, *, aggregate: str) -> jax.Array:
  """What `row_sum` is to be divided by: tokens, completions or positions."""
  return _COUNTS[aggregate](mask_BxGxC)


def denominators(counts_KxS: jax.Array, *, normalize: str) -> jax.Array:
  """What each row's sum is divided by, so that rows add up to the loss.

  Args:
    counts_KxS: from `row_count`.
    normalize: 'batch' divides every task by the whole batch's count; 'task'
      by the task's own and by the number of tasks.

  Returns:
    float32 `[K, S]`, never 0: a task without tokens contributes 0.

  Raises:
    ValueError: an unknown `normalize`.
  """
  if normalize not in NORMALIZES:
    raise ValueError(f"normalize={normalize!r}: choose 'batch' or 'task'.")
  if normalize == 'batch':
    totals_KxS = jnp.broadcast_to(jnp.sum(counts_KxS), counts_KxS.shape)
  else:
    totals_Kx1 = jnp.sum(counts_KxS, axis=1, keepdims=True)
    totals_KxS = jnp.broadcast_to(
        totals_Kx1 * counts_KxS.shape[0], counts_KxS.shape
    )
  return jnp.maximum(totals_KxS, 1.0)


def task_shares(counts_KxS: jax.Array, *, normalize: str) -> jax.Array:
  """Each task's share of the batch loss's weight: `[K]`, sums to 1.

  A contribution divided by its share is the gradient of the task's own
  normalized loss (its intrinsic gradient).
  """
  counts_K = jnp.sum(counts_KxS, axis=1)
  if normalize == 'task':
    return jnp.full(counts_K.shape, 1 / counts_K.size)
  return masked.divide(counts_K, jnp.sum(counts_K))
