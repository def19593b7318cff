"""What the head says of given tokens, without all logits at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Logits of a row alive at a time: 128 MB.
_LOGITS = 2**25

# x `[..., D]` -> float32 logits `[..., V]`.
Head = Callable[[jax.Array], jax.Array]


class Scores(NamedTuple):
  """Of given tokens, float32 `[..., M]`.

  Attributes:
    logprobs: of the tokens, under the policy.
    entropy: of the policy, in nats.
  """

  logprobs: jax.Array
  entropy: jax.Array


def policy_logprobs(logits: jax.Array, temperature: float) -> jax.Array:
  """Log-probabilities of the policy: the model at the sampling temperature."""
  return jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)


def scores(
    head: Head, x: jax.Array, tokens: jax.Array, *, vocab_size: int,
    temperature: float, max_logits: int = _LOGITS,
) -> Scores:
  """Log-probabilities of tokens and entropies of the policy.

  Where all logits would be too many, they are computed for some positions at a
  time, and again on the way back.

  Args:
    head: `head(x) -> logits`.
    x: `[..., D]`, the hidden states that the tokens are to be read from.
    tokens: int32, of the shape of `x` without its last axis.
    vocab_size: V.
    temperature: of the policy.
    max_logits: how many may be alive at a time.
  """

  def one(x, tokens):
    logprobs = policy_logprobs(head(x), temperature)
    chosen = jnp.take_along_axis(logprobs, tokens[..., None], axis=-1)[..., 0]
    return Scores(chosen, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1))

  size = max(1, max_logits // vocab_size)
  if tokens.size <= size:
    return one(x, tokens)
  count = -(-tokens.size // size)
  padding = count * size - tokens.size

  def in_chunks(a, width):
    flat = a.reshape(-1, *width)
    flat = jnp.pad(flat, [(0, padding)] + [(0, 0)] * len(width))
    return flat.reshape(count, size, *width)

  found = jax.lax.map(
      jax.checkpoint(lambda pair: one(*pair)),
      (in_chunks(x, x.shape[-1:]), in_chunks(tokens, ())),
  )
  return jax.tree.map(
      lambda a: a.reshape(-1)[:tokens.size].reshape(tokens.shape), found
  )
