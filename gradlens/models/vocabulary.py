"""What the head says of given tokens, without all logits at once."""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Logits alive at a time, of all rows of a device together: 1 GB. The gradient
# of the head is added up once for as many.
MAX_LOGITS = 2**28


@dataclasses.dataclass(frozen=True)
class Head:
  """What hidden states are read with.

  Attributes:
    project: `[..., D]` to float32 logits `[..., V]`.
    vocab_size: V.
    max_logits: how many may be alive at a time.
  """

  project: Callable[[jax.Array], jax.Array]
  vocab_size: int
  max_logits: int = MAX_LOGITS

  def __call__(self, x: jax.Array) -> jax.Array:
    """All logits."""
    return self.project(x)


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
    head: Head, x: jax.Array, tokens: jax.Array, *, temperature: float
) -> Scores:
  """Log-probabilities of tokens and entropies of the policy.

  Where all logits would be too many, they are computed for some positions at a
  time, and again on the way back.

  Args:
    head: of the model.
    x: `[..., D]`, the hidden states that the tokens are to be read from.
    tokens: int32, of the shape of `x` without its last axis.
    temperature: of the policy.
  """

  def one(x, tokens):
    logprobs = policy_logprobs(head(x), temperature)
    chosen = jnp.take_along_axis(logprobs, tokens[..., None], axis=-1)[..., 0]
    return Scores(chosen, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1))

  most = max(1, head.max_logits // head.vocab_size)
  if tokens.size <= most:
    return one(x, tokens)
  count = -(-tokens.size // most)
  size = -(-tokens.size // count)
  padding = count * size - tokens.size

  def in_chunks(a, width):
    flat = a.reshape(-1, *width)
    flat = jnp.pad(flat, [(0, padding)] + [(0, 0)] * len(width))
    return flat.reshape(count, size, *width)

  found = jax.lax.map(
      jax.checkpoint(lambda pair: one(*pair), prevent_cse=False),
      (in_chunks(x, x.shape[-1:]), in_chunks(tokens, ())),
  )
  return jax.tree.map(
      lambda a: a.reshape(-1)[:tokens.size].reshape(tokens.shape), found
  )
