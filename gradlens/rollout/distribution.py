"""The distribution that tokens are drawn from."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens import models


def sampling_logprobs(
    logits: jax.Array, temperature: float, top_k: int | None = None,
    top_p: float = 1.0,
) -> jax.Array:
  """Log-probabilities of the distribution that is sampled from.

  The policy, cut to its `top_k` likeliest tokens, and of these to the fewest
  that have a probability of `top_p` together. -inf for all others.

  Args:
    logits: `[..., V]`.
    temperature: of the policy, above 0.
    top_k: None keeps all.
    top_p: 1 keeps all.

  Returns:
    float32 `[..., V]`.
  """
  logprobs = models.policy_logprobs(logits, temperature)
  if top_k is None and top_p == 1:
    return logprobs
  order = jnp.argsort(logprobs, axis=-1, descending=True)
  ranked = jnp.take_along_axis(logprobs, order, axis=-1)
  place = jax.lax.broadcasted_iota(jnp.int32, ranked.shape, ranked.ndim - 1)
  kept = place < (top_k or ranked.shape[-1])
  probs = jax.nn.softmax(jnp.where(kept, ranked, -jnp.inf))
  # What is likelier has less than top_p together: the first one always stays.
  kept &= jnp.cumsum(probs, axis=-1) - probs < top_p
  kept = jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1)
  return jax.nn.log_softmax(jnp.where(kept, logprobs, -jnp.inf))


class How(NamedTuple):
  """How tokens are drawn; static."""

  temperature: float
  top_k: int | None
  top_p: float
  stop_tokens: tuple[int, ...]


def _first_above(sums: jax.Array, level: jax.Array) -> jax.Array:
  """Where running sums, not all zero, first exceed a level below the last."""
  level = jnp.minimum(level, jnp.nextafter(sums[..., -1], 0.0))
  return jnp.sum(sums <= level[..., None], axis=-1)


def inverse(probs: jax.Array, uniform: jax.Array) -> jax.Array:
  """The token at a height of the cumulative distribution.

  One random number for a token, where Gumbel noise takes one for each in the
  vocabulary. Sums run over blocks, and then inside of one: they are shorter,
  and so more exact. What has no probability is never chosen.

  Args:
    probs: `[..., V]`; their sum need not be 1.
    uniform: `[...]`, in [0, 1).

  Returns:
    int32 `[...]`.
  """
  size = probs.shape[-1]
  block = math.isqrt(size - 1) + 1
  count = -(-size // block)
  padding = [(0, 0)] * (probs.ndim - 1) + [(0, count * block - size)]
  blocks = jnp.pad(probs, padding).reshape(*probs.shape[:-1], count, block)
  sums = jnp.cumsum(jnp.sum(blocks, axis=-1), axis=-1)
  level = uniform * sums[..., -1]
  chosen = _first_above(sums, level)
  before = jnp.pad(sums, [(0, 0)] * (sums.ndim - 1) + [(1, 0)])
  level -= jnp.take_along_axis(before, chosen[..., None], axis=-1)[..., 0]
  own = jnp.take_along_axis(blocks, chosen[..., None, None], axis=-2)[..., 0, :]
  inside = _first_above(jnp.cumsum(own, axis=-1), level)
  return chosen * block + inside


def draw(
    logits_SxGxV: jax.Array, keys_SxG: jax.Array, index_S: jax.Array, how: How
) -> tuple[jax.Array, jax.Array]:
  """Tokens number `index_S`, and their log-probabilities."""
  if how.temperature == 0:
    tokens_SxG = jnp.argmax(logits_SxGxV, axis=-1)
    return tokens_SxG, jnp.zeros(tokens_SxG.shape)
  logprobs_SxGxV = sampling_logprobs(
      logits_SxGxV, how.temperature, how.top_k, how.top_p
  )

  def uniform(key, index):
    return jax.random.uniform(jax.random.fold_in(key, index))

  uniform_SxG = jax.vmap(jax.vmap(uniform, (0, None)))(keys_SxG, index_S)
  tokens_SxG = inverse(jnp.exp(logprobs_SxGxV), uniform_SxG)
  chosen = jnp.take_along_axis(logprobs_SxGxV, tokens_SxG[..., None], axis=-1)
  return tokens_SxG, chosen[..., 0]
