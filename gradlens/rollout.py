"""Rollout: samples completions of prompts from the current policy.

N prompts, G completions of each, T tokens a prompt, C tokens a completion.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlens import models


class Completions(NamedTuple):
  """What was sampled.

  Attributes:
    tokens_NxGxC: int32; zero after the stop token.
    mask_NxGxC: bool, True on sampled tokens, the stop token included.
    logprobs_NxGxC: float32 log-probabilities under the distribution sampled
      from; zero where the mask is False.
  """

  tokens_NxGxC: jax.Array
  mask_NxGxC: jax.Array
  logprobs_NxGxC: jax.Array


class _Loop(NamedTuple):
  index: jax.Array
  done_NxG: jax.Array
  cache: models.Cache
  out: Completions


def request_keys(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """One key per request, from its number alone."""
  numbers = jnp.arange(functools.reduce(int.__mul__, shape, 1))
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers).reshape(shape)


def policy_logprobs(logits: jax.Array, temperature: float) -> jax.Array:
  """Log-probabilities of the policy: the model at the sampling temperature."""
  return jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)


def _sample(
    logits_NxGxV: jax.Array, keys_NxG: jax.Array, index: jax.Array,
    temperature: float,
) -> tuple[jax.Array, jax.Array]:
  if temperature == 0:
    tokens_NxG = jnp.argmax(logits_NxGxV, axis=-1)
    return tokens_NxG, jnp.zeros(tokens_NxG.shape)
  logprobs_NxGxV = policy_logprobs(logits_NxGxV, temperature)
  fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))
  categorical = jax.vmap(jax.vmap(jax.random.categorical))
  tokens_NxG = categorical(fold_in(keys_NxG, index), logprobs_NxGxV)
  chosen = jnp.take_along_axis(logprobs_NxGxV, tokens_NxG[..., None], axis=-1)
  return tokens_NxG, chosen[..., 0]


@functools.partial(
    jax.jit,
    static_argnames=('model', 'max_new_tokens', 'temperature', 'stop_token'),
)
def generate(
    model: models.Model,
    params: Any,
    prompts_NxT: jax.Array,
    mask_NxT: jax.Array,
    keys_NxG: jax.Array,
    *,
    max_new_tokens: int,
    temperature: float,
    stop_token: int,
) -> Completions:
  """Samples completions; ends early when every one has stopped.

  Each prompt is run once, and its completions share its keys and values. A
  completion depends on its own prompt and key only, not on its neighbours.

  Args:
    model: from `models.load` or `models.build`.
    params: its parameters.
    prompts_NxT: int32 tokens, padded on the left.
    mask_NxT: bool, True on tokens.
    keys_NxG: typed PRNG keys, one a completion (see `request_keys`).
    max_new_tokens: C.
    temperature: of the sampling distribution; 0 takes the likeliest token.
    stop_token: ends a completion, and belongs to it.

  Returns:
    `Completions`.
  """
  n, g = keys_NxG.shape
  logits_NxV, cache = models.prefill(
      model, params, prompts_NxT, mask_NxT, g, max_new_tokens
  )

  def emit(logits_NxGxV, index, done_NxG, out):
    tokens_NxG, logprobs_NxG = _sample(
        logits_NxGxV, keys_NxG, index, temperature
    )
    live_NxG = ~done_NxG
    new = Completions(
        jnp.where(live_NxG, tokens_NxG, 0).astype(jnp.int32),
        live_NxG,
        jnp.where(live_NxG, logprobs_NxG, 0.0),
    )
    out = jax.tree.map(lambda old, a: old.at[:, :, index].set(a), out, new)
    return done_NxG | (tokens_NxG == stop_token), out

  def step(loop):
    last_NxG = jax.lax.dynamic_index_in_dim(
        loop.out.tokens_NxGxC, loop.index - 1, axis=2, keepdims=False
    )
    logits_NxGxV, cache = models.decode(
        model, params, last_NxG, loop.index - 1, loop.cache
    )
    done_NxG, out = emit(logits_NxGxV, loop.index, loop.done_NxG, loop.out)
    return _Loop(loop.index + 1, done_NxG, cache, out)

  def unfinished(loop):
    return (loop.index < max_new_tokens) & ~jnp.all(loop.done_NxG)

  shape = (n, g, max_new_tokens)
  out = Completions(
      jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool), jnp.zeros(shape)
  )
  logits_NxGxV = jnp.broadcast_to(
      logits_NxV[:, None], (n, g, logits_NxV.shape[-1])
  )
  done_NxG, out = emit(logits_NxGxV, 0, jnp.zeros((n, g), bool), out)
  return jax.lax.while_loop(
      unfinished, step, _Loop(jnp.int32(1), done_NxG, cache, out)
  ).out
