"""Rollout: samples completions of prompts from the current policy.

N prompts, G completions of each, T tokens a prompt, C tokens a completion; S of
the prompts are decoded side by side.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlens import models
from gradlens.models.attention import KeyValue


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


class _Slots(NamedTuple):
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


def request_keys(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """One key per request, from its number alone."""
  numbers = jnp.arange(functools.reduce(int.__mul__, shape, 1))
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers).reshape(shape)


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


class _How(NamedTuple):
  """How tokens are drawn; static."""

  temperature: float
  top_k: int | None
  top_p: float
  stop_tokens: tuple[int, ...]


def _draw(
    logits_SxGxV: jax.Array, keys_SxG: jax.Array, index_S: jax.Array, how: _How
) -> tuple[jax.Array, jax.Array]:
  """Tokens number `index_S`, and their log-probabilities."""
  if how.temperature == 0:
    tokens_SxG = jnp.argmax(logits_SxGxV, axis=-1)
    return tokens_SxG, jnp.zeros(tokens_SxG.shape)
  logprobs_SxGxV = sampling_logprobs(
      logits_SxGxV, how.temperature, how.top_k, how.top_p
  )
  fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)))
  categorical = jax.vmap(jax.vmap(jax.random.categorical))
  tokens_SxG = categorical(fold_in(keys_SxG, index_S), logprobs_SxGxV)
  chosen = jnp.take_along_axis(logprobs_SxGxV, tokens_SxG[..., None], axis=-1)
  return tokens_SxG, chosen[..., 0]


def _start(
    read: KeyValue, mask_NxT: jax.Array, num_slots: int, num_completions: int,
    max_new_tokens: int,
) -> _Slots:
  """The first prompts, and room for all completions."""
  s = num_slots
  shape = (len(mask_NxT), num_completions, max_new_tokens)
  return _Slots(
      prompt_S=jnp.arange(s),
      index_S=jnp.zeros(s, jnp.int32),
      fresh_S=jnp.ones(s, bool),
      done_SxG=jnp.zeros((s, num_completions), bool),
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


def _emit(
    slots: _Slots, logits_SxGxV: jax.Array, keys_NxG: jax.Array, how: _How
) -> _Slots:
  """Draws a token of each completion that has not ended."""
  tokens_SxG, logprobs_SxG = _draw(
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


def _refill(slots: _Slots, read: KeyValue, mask_NxT: jax.Array) -> _Slots:
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
      done_SxG=slots.done_SxG & ~free_S[:, None],
      cache=slots.cache._replace(
          prompt=jax.tree.map(
              lambda old, new: swap(old, new, 1), slots.cache.prompt, read
          ),
          mask_NxT=swap(slots.cache.mask_NxT, mask_NxT, 0),
      ),
      waiting=slots.waiting + jnp.sum(free_S),
  )


def _check(
    config: models.DecoderConfig, max_new_tokens: int, temperature: float,
    top_k: int | None, top_p: float, stop_tokens: tuple[int, ...],
    num_slots: int | None,
) -> None:
  """Refuses what makes no sense, before anything is compiled."""
  if num_slots is not None and num_slots < 1:
    raise ValueError(f'num_slots={num_slots} must be None or at least 1.')
  if max_new_tokens < 1:
    raise ValueError(f'max_new_tokens={max_new_tokens} must be at least 1.')
  if temperature < 0:
    raise ValueError(
        f'temperature={temperature} must be positive, or 0 for the likeliest'
        ' token.'
    )
  if top_k is not None and not 1 <= top_k <= config.vocab_size:
    raise ValueError(
        f'top_k={top_k} must be None or between 1 and the vocabulary of'
        f' {config.vocab_size}.'
    )
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p={top_p} must be above 0 and at most 1.')
  for token in stop_tokens:
    if not 0 <= token < config.vocab_size:
      raise ValueError(
          f'stop token {token} is outside of the vocabulary of'
          f' {config.vocab_size}.'
      )


@functools.partial(
    jax.jit,
    static_argnames=(
        'model', 'max_new_tokens', 'temperature', 'top_k', 'top_p',
        'stop_tokens', 'num_slots',
    ),
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
    stop_tokens: tuple[int, ...],
    top_k: int | None = None,
    top_p: float = 1.0,
    num_slots: int | None = None,
) -> Completions:
  """Samples completions; ends early when every one has stopped.

  Each prompt is run once, and its completions share its keys and values. With
  fewer slots than prompts, a prompt whose completions have all stopped makes
  room for the next one: a long completion holds up its own prompt only. A
  completion depends on its own prompt and key only, not on its neighbours, and
  not on the slot.

  Args:
    model: from `models.load` or `models.build`.
    params: its parameters.
    prompts_NxT: int32 tokens, padded on the left.
    mask_NxT: bool, True on tokens.
    keys_NxG: typed PRNG keys, one a completion (see `request_keys`).
    max_new_tokens: C.
    temperature: of the sampling distribution; 0 takes the likeliest token.
    stop_tokens: any of them ends a completion, and belongs to it.
    top_k: sample from that many likeliest tokens; None from all.
    top_p: and of these from the fewest with that probability together.
    num_slots: how many prompts are decoded side by side; None is all.

  Returns:
    `Completions`.

  Raises:
    ValueError: an argument that makes no sense, with its value.
  """
  _check(
      model.config, max_new_tokens, temperature, top_k, top_p, stop_tokens,
      num_slots,
  )
  how = _How(temperature, top_k, top_p, stop_tokens)
  n, g = keys_NxG.shape
  s = min(num_slots or n, n)
  first_NxV, read = models.prefill(model, params, prompts_NxT, mask_NxT)

  def step(slots):
    if s < n:
      free = jnp.any(jnp.all(slots.done_SxG, axis=1))
      slots = jax.lax.cond(
          free & (slots.waiting < n),
          lambda slots: _refill(slots, read, mask_NxT),
          lambda slots: slots,
          slots,
      )
    # Of a fresh slot, what is decoded here is not used.
    last_S = jnp.maximum(slots.index_S - 1, 0)
    logits_SxGxV, cache = models.decode(
        model, params, slots.out.tokens_NxGxC[slots.prompt_S, :, last_S],
        last_S, slots.cache,
    )
    logits_SxGxV = jnp.where(
        slots.fresh_S[:, None, None], first_NxV[slots.prompt_S][:, None],
        logits_SxGxV,
    )
    return _emit(slots._replace(cache=cache), logits_SxGxV, keys_NxG, how)

  def unfinished(slots):
    return (slots.waiting < n) | ~jnp.all(slots.done_SxG)

  first_SxGxV = jnp.broadcast_to(
      first_NxV[:s, None], (s, g, first_NxV.shape[-1])
  )
  slots = _emit(
      _start(read, mask_NxT, s, g, max_new_tokens), first_SxGxV, keys_NxG, how
  )
  return jax.lax.while_loop(unfinished, step, slots).out
