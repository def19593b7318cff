"""Places: N prompts as the K x B places of a batch, some without a prompt.

A batch has as many places for every task, and is compiled once, whatever the
quotas. A place without a prompt holds another's tokens, none of which counts.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlens.experience.experience import (
    Answer,
    Batch,
    Collect,
    Drawn,
    Found,
    Records,
    Sampled,
)


def places(
    quotas_K: np.ndarray, num_places: int, num_splits: int
) -> tuple[np.ndarray, np.ndarray]:
  """Where the prompts of a step are.

  The splits of a task hold equally many prompts, spread over their places, so
  that any part of these has about its share.

  Args:
    quotas_K: prompts of each task, multiples of S up to B.
    num_places: B, a multiple of S.
    num_splits: S.

  Returns:
    Numbers of prompts, int `[K, B]`, task after task; and bool `[K, B]`, True
    where there is a prompt. Elsewhere the number is another prompt's.

  >>> import numpy as np
  >>> index_KxB, filled_KxB = places(np.array([4, 2]), 4, num_splits=2)
  >>> print(index_KxB)
  [[0 1 2 3]
   [4 4 5 5]]
  >>> print(filled_KxB)
  [[ True  True  True  True]
   [False  True False  True]]
  """
  per_split = num_places // num_splits
  ends = np.arange(1, per_split + 1)
  counts_Kx1x1 = (np.asarray(quotas_K) // num_splits)[:, None, None]
  before = (ends - 1) * counts_Kx1x1 // per_split
  filled = ends * counts_Kx1x1 // per_split > before
  splits = np.arange(num_splits)[:, None]
  starts_Kx1x1 = (np.cumsum(quotas_K) - quotas_K)[:, None, None]
  index = starts_Kx1x1 + splits * counts_Kx1x1 + before
  shape = len(quotas_K), num_places
  index = np.minimum(index, sum(quotas_K) - 1).reshape(shape)
  filled = np.broadcast_to(filled, (len(quotas_K), num_splits, per_split))
  return index, filled.reshape(shape)


@jax.jit
def _taken(a: jax.Array, index: np.ndarray, kept: np.ndarray) -> jax.Array:
  kept = kept.reshape(kept.shape + (1,) * (a.ndim - 1))
  return jnp.where(kept, a[index], jnp.zeros((), a.dtype))


@jax.jit
def _merged(old: jax.Array, new: jax.Array, index: np.ndarray) -> jax.Array:
  keep = (index < 0).reshape(index.shape + (1,) * (old.ndim - 1))
  return jnp.where(keep, old, new[jnp.maximum(index, 0)])


def take(a: Any, index: np.ndarray, kept: np.ndarray) -> Any:
  """Entries of an array, 0 where they are not kept; a numpy one stays one."""
  if isinstance(a, jax.Array):
    return _taken(a, index, kept)
  kept = kept.reshape(kept.shape + (1,) * (a.ndim - 1))
  return np.where(kept, a[index], np.zeros((), a.dtype))


def replace(old: Any, new: Any, index: np.ndarray) -> Any:
  """Entry n of `new` number `index[n]`, or of `old` where that is below 0."""
  if isinstance(old, jax.Array):
    return _merged(old, new, index)
  keep = (index < 0).reshape(index.shape + (1,) * (old.ndim - 1))
  return np.where(keep, old, new[np.maximum(index, 0)])


def put(old: Found, new: Found, index_N: np.ndarray) -> Found:
  """Prompts of `new` in place of those of `old`; see `replace`."""
  merged = jax.tree.map(
      functools.partial(replace, index=index_N),
      old._replace(seconds={}), new._replace(seconds={}),
  )
  return merged._replace(seconds={
      name: seconds + new.seconds[name]
      for name, seconds in old.seconds.items()
  })


def drawn(found: Found, index_KxB: np.ndarray, filled_KxB: np.ndarray) -> Drawn:
  """What came of prompts, in their places."""
  return Drawn(*(
      take(a, index_KxB, filled_KxB)
      for a in (
          found.rewards_NxG, found.lengths_NxG, found.truncated_NxG,
          found.parts_NxGxM, found.equal_N,
      )
  ))


def mean_of_prompts(
    values_KxB: np.ndarray, filled_KxB: np.ndarray
) -> np.ndarray:
  """Over the prompts of each task, `[K]` in float64; NaN without any."""
  counts_K = filled_KxB.sum(1)
  sums_K = np.where(filled_KxB, values_KxB, 0.0).sum(1, np.float64)
  none_K = np.full(len(counts_K), np.nan)
  return np.divide(sums_K, counts_K, where=counts_K > 0, out=none_K)


def arrange(
    found: Found, index_KxB: np.ndarray, filled_KxB: np.ndarray,
    num_splits: int,
) -> Batch:
  """The batch of the prompts that were found.

  Where there is no prompt, rewards are the mean of the split: statistics of a
  task's rewards are then those of its prompts, and no completion has been
  better than another.
  """
  if filled_KxB.all():
    # As they lie.
    prompts, prompt_mask, out, rewards, parts = jax.tree.map(
        lambda a: a.reshape(*index_KxB.shape, *a.shape[1:]),
        tuple(found[:5]),
    )
    return Batch(prompts, prompt_mask, *out, rewards, parts)
  anywhere_KxB = np.ones_like(filled_KxB)
  prompts, prompt_mask = (
      take(a, index_KxB, anywhere_KxB) for a in found[:2]
  )
  tokens, mask, logprobs = (
      take(a, index_KxB, filled_KxB) for a in found.completions
  )
  rewards = _imputed(found.rewards_NxG[index_KxB], filled_KxB, num_splits)
  parts = take(found.parts_NxGxM, index_KxB, filled_KxB)
  return Batch(prompts, prompt_mask, tokens, mask, logprobs, rewards, parts)


def _imputed(
    rewards_KxBxG: np.ndarray, filled_KxB: np.ndarray, num_splits: int
) -> np.ndarray:
  k, _, g = rewards_KxBxG.shape
  filled = filled_KxB.reshape(k, num_splits, -1, 1)
  rewards = rewards_KxBxG.reshape(k, num_splits, -1, g)
  sums = np.where(filled, rewards, 0).sum((2, 3), np.float64, keepdims=True)
  counts = np.maximum(g * filled.sum((2, 3), keepdims=True), 1)
  means = (sums / counts).astype(rewards.dtype)
  return np.where(filled, rewards, means).reshape(rewards_KxBxG.shape)


def collect(answer: Answer, names: Sequence[str]) -> Collect:
  """Experience of as many prompts from every task, all of which are kept.

  Returns:
    `collect(params, records, key) -> Sampled`, where `records` holds B records
    of each of the K tasks.
  """

  def collected(params: Any, records_KxB: Records, key: jax.Array) -> Sampled:
    quotas_K = np.array([len(records) for records in records_KxB])
    asked = [
        (name, record)
        for name, records in zip(names, records_KxB, strict=True)
        for record in records
    ]
    found = answer(params, asked, key, len(asked))()
    index_KxB, filled_KxB = places(quotas_K, quotas_K[0], 1)
    none_K = np.zeros(len(names), int)
    first = drawn(found, index_KxB, filled_KxB)
    return Sampled(
        arrange(found, index_KxB, filled_KxB, 1), filled_KxB, first,
        first.lengths_KxBxG, first.equal_KxB,
        *(a.reshape(len(names), -1).sum(1)
          for a in (
              found.errors_NxG, found.timeouts_NxG, found.verify_seconds_NxG
          )),
        none_K, none_K, found.seconds,
    )

  return collected
