"""One compiled loop: prefill, then a token of every slot at a time.

N prompts, G completions of each, T tokens a prompt, C tokens a completion; S of
the prompts are decoded side by side (see slots.py).
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradlens import models
from gradlens.models.kernels import KeyValue
from gradlens.rollout.distribution import How
from gradlens.rollout.slots import Completions, emit, refill, start


def _prefill(
    model: models.Model, params: Any, prompts_NxT: jax.Array,
    mask_NxT: jax.Array, size: int,
) -> tuple[jax.Array, KeyValue]:
  """Last logits and keys of all prompts, `size` of them at a time.

  So that what comes out for one does not depend on how many there are.
  """
  n = len(prompts_NxT)
  if n == size:
    return models.prefill(model, params, prompts_NxT, mask_NxT)
  logits_MxSxV, read = jax.lax.map(
      lambda part: models.prefill(model, params, *part),
      (prompts_NxT.reshape(n // size, size, -1),
       mask_NxT.reshape(n // size, size, -1)),
  )
  return logits_MxSxV.reshape(n, -1), jax.tree.map(
      lambda a: jnp.moveaxis(a, 0, 1).reshape(
          a.shape[1], n, *a.shape[3:]
      ),
      read,
  )


def _check(
    config: models.DecoderConfig, max_new_tokens: int, how: How,
    num_slots: int | None,
) -> None:
  """Refuses what makes no sense, before anything is compiled."""
  if num_slots is not None and num_slots < 1:
    raise ValueError(f'num_slots={num_slots} must be None or at least 1.')
  if max_new_tokens < 1:
    raise ValueError(f'max_new_tokens={max_new_tokens} must be at least 1.')
  if how.temperature < 0:
    raise ValueError(
        f'temperature={how.temperature} must be positive, or 0 for the'
        ' likeliest token.'
    )
  if how.top_k is not None and not 1 <= how.top_k <= config.vocab_size:
    raise ValueError(
        f'top_k={how.top_k} must be None or between 1 and the vocabulary of'
        f' {config.vocab_size}.'
    )
  if not 0 < how.top_p <= 1:
    raise ValueError(f'top_p={how.top_p} must be above 0 and at most 1.')
  for token in how.stop_tokens:
    if not 0 <= token < config.vocab_size:
      raise ValueError(
          f'stop token {token} is outside of the vocabulary of'
          f' {config.vocab_size}.'
      )


_STATIC = (
    'model', 'max_new_tokens', 'temperature', 'top_k', 'top_p', 'stop_tokens',
    'num_slots',
)


@functools.partial(jax.jit, static_argnames=_STATIC)
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
  completion depends on its own prompt and key only, not on its neighbours, not
  on the slot, and not on how many prompts there are.

  Args:
    model: from `models.load` or `models.build`.
    params: its parameters.
    prompts_NxT: int32 tokens, padded on the left.
    mask_NxT: bool, True on tokens. A prompt without any has no completions.
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
  how = How(temperature, top_k, top_p, stop_tokens)
  _check(model.config, max_new_tokens, how, num_slots)
  given, g = keys_NxG.shape
  s = given if num_slots is None else num_slots
  padding = -given % s
  prompts_NxT, mask_NxT = (
      jnp.pad(a, [(0, padding), (0, 0)]) for a in (prompts_NxT, mask_NxT)
  )
  keys_NxG = keys_NxG[jnp.arange(given + padding) % given]
  n = given + padding
  # Once, and not at every token.
  params = model.compute.cast(params)
  first_NxV, read = _prefill(model, params, prompts_NxT, mask_NxT, s)

  def step(slots):
    if s < n:
      free = jnp.any(jnp.all(slots.done_SxG, axis=1))
      slots = jax.lax.cond(
          free & (slots.waiting < n),
          lambda slots: refill(slots, read, mask_NxT),
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
    return emit(slots._replace(cache=cache), logits_SxGxV, keys_NxG, how)

  def unfinished(slots):
    return (slots.waiting < n) | ~jnp.all(slots.done_SxG)

  first_SxGxV = jnp.broadcast_to(
      first_NxV[:s, None], (s, g, first_NxV.shape[-1])
  )
  slots = emit(
      start(read, mask_NxT, s, g, max_new_tokens), first_SxGxV, keys_NxG, how
  )
  out = jax.lax.while_loop(unfinished, step, slots).out
  return jax.tree.map(lambda a: a[:given], out)


@functools.lru_cache
def generate_on(mesh: Mesh | None) -> Callable[..., Completions]:
  """`generate`, by each group of devices of a mesh for prompts of its own.

  Parameters are cast, and gathered over the data axes, while it runs; they may
  come from another mesh of the same devices. Completions stay where they were
  sampled, whole rows, over 'tensor' too: hosts read them.
  """
  if mesh is None:
    return generate
  rows = PartitionSpec(models.DATA)

  def run(model, params, prompts_NxT, mask_NxT, keys_NxG, **options):
    params = model.compute.cast(params)
    # Shards are exchanged first; otherwise the compiler would gather the whole
    # model of another mesh, and then take a part.
    for data in (True, False):
      own = models.shardings(mesh, models.specs(params, data=data))
      params = jax.lax.with_sharding_constraint(params, own)
    return jax.shard_map(
        functools.partial(generate, model, **options), mesh=mesh,
        in_specs=(PartitionSpec(), *[rows] * 3), out_specs=rows,
        axis_names={*models.DATA}, check_vma=False,
    )(params, prompts_NxT, mask_NxT, keys_NxG)

  return jax.jit(
      run, static_argnames=_STATIC,
      out_shardings=Completions(*[NamedSharding(mesh, rows)] * 3),
  )
