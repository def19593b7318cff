"""Slots: the prompts that are decoded side by side, and what has come of all.

N prompts, G completions of each, T tokens a prompt, C tokens a completion, S
slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens import models
from gradlens.models.kernels import KeyValue
from gradlens.rollout.distribution import How, draw


class Completions(NamedTuple):
  """What was sampled.

  Attributes:
    tokens_NxGxC: int32; zero after a stop token.
    mask_NxGxC: bool, True on sampled tokens, a stop token included.
    logprobs_NxGxC: float32 log-probabilities under the distribution sampled
      from; zero where the mask is False.
  """

  tokens_NxGxC: jax.Array
  mask_NxGxC: jax.Array
  logprobs_NxGxC: jax.Array


class Slots(NamedTuple):
  """What is decoded side by side, S prompts at a time.

  Attributes:
    prompt_S: which prompt each slot works on; its last one if none is left.
    index_S: how many tokens its completions have.
    fresh_S: its next logits are those of the prefill.
    done_SxG: which completions have ended.
    cache: of the S prompts.
    waiting: the next prompt that has no slot yet.
    out: of all N prompts.
  """

  prompt_S: jax.Array
  index_S: jax.Array
  fresh_S: jax.Array
  done_SxG: jax.Array
  cache: models.Cache
  waiting: jax.Array
  out: Completions


def _empty(mask_NxT: jax.Array) -> jax.Array:
  """Which prompts are none: they fill up a queue."""
  return ~jnp.any(mask_NxT, axis=-1)


def start(
    read: KeyValue, mask_NxT: jax.Array, num_slots: int, num_completions: int,
    max_new_tokens: int,
) -> Slots:
  """The first prompts, and room for all completions."""
  s = num_slots
  shape = (len(mask_NxT), num_completions, max_new_tokens)
  return Slots(
      prompt_S=jnp.arange(s),
      index_S=jnp.zeros(s, jnp.int32),
      fresh_S=jnp.ones(s, bool),
      done_SxG=jnp.broadcast_to(
          _empty(mask_NxT[:s])[:, None], (s, num_completions)
      ),
      cache=models.make_cache(
          jax.tree.map(lambda a: a[:, :s], read), mask_NxT[:s],
          num_completions, max_new_tokens,
      ),
      waiting=jnp.int32(s),
      out=Completions(
          jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool),
          jnp.zeros(shape),
      ),
  )


def emit(
    slots: Slots, logits_SxGxV: jax.Array, keys_NxG: jax.Array, how: How
) -> Slots:
  """Draws a token of each completion that has not ended."""
  tokens_SxG, logprobs_SxG = draw(
      logits_SxGxV, keys_NxG[slots.prompt_S], slots.index_S, how
  )
  live_SxG = ~slots.done_SxG
  new = Completions(
      jnp.where(live_SxG, tokens_SxG, 0).astype(jnp.int32),
      live_SxG,
      jnp.where(live_SxG, logprobs_SxG, 0.0),
  )
  # A slot without a prompt goes on past the end, where nothing is kept.
  out = jax.tree.map(
      lambda old, a: old.at[slots.prompt_S, :, slots.index_S].set(
          a, mode='drop'
      ),
      slots.out, new,
  )
  index_S = slots.index_S + 1
  stopped_SxG = jnp.isin(tokens_SxG, jnp.array(how.stop_tokens, jnp.int32))
  full_Sx1 = (index_S >= out.tokens_NxGxC.shape[-1])[:, None]
  return slots._replace(
      index_S=index_S,
      fresh_S=jnp.zeros_like(slots.fresh_S),
      done_SxG=slots.done_SxG | stopped_SxG | full_Sx1,
      out=out,
  )


def refill(slots: Slots, read: KeyValue, mask_NxT: jax.Array) -> Slots:
  """Gives waiting prompts the slots whose completions have all ended."""
  free_S = jnp.all(slots.done_SxG, axis=1)
  next_S = slots.waiting + jnp.cumsum(free_S) - 1
  free_S &= next_S < len(mask_NxT)
  prompt_S = jnp.where(free_S, next_S, slots.prompt_S)

  def swap(old, new, axis):
    own = jnp.expand_dims(free_S, [i for i in range(old.ndim) if i != axis])
    return jnp.where(own, jnp.take(new, prompt_S, axis), old)

  return slots._replace(
      prompt_S=prompt_S,
      index_S=jnp.where(free_S, 0, slots.index_S),
      fresh_S=free_S,
      done_SxG=jnp.where(
          free_S[:, None], _empty(mask_NxT)[prompt_S][:, None], slots.done_SxG
      ),
      cache=slots.cache._replace(
          prompt=jax.tree.map(
              lambda old, new: swap(old, new, 1), slots.cache.prompt, read
          ),
          mask_NxT=swap(slots.cache.mask_NxT, mask_NxT, 0),
      ),
      waiting=slots.waiting + jnp.sum(free_S),
  )
