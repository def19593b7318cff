"""Forward passes: a whole sequence, a prompt's prefill, one decoded token.

`model` holds no arrays and is hashable; `params` is the pytree that is
trained. N prompts, G completions, T a prompt's tokens, C a completion's.
"""

import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from gradlens.models import attention
from gradlens.models.attention import KeyValue
from gradlens.models.config import DecoderConfig
from gradlens.models.decoder import Decoder


class Model(NamedTuple):
  """A decoder without its parameters."""

  config: DecoderConfig
  graphdef: Any


class Cache(NamedTuple):
  """Keys and values of all layers; completions of a prompt share its part."""

  prompt: KeyValue  # [layers, N, T, J, E]
  completion: KeyValue  # [layers, N, G, C, J, E]
  mask_NxT: jax.Array


@functools.lru_cache
def build(config: DecoderConfig) -> Model:
  """The model of a configuration; makes no arrays."""
  abstract = nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0)))
  return Model(config, nnx.graphdef(abstract))


@functools.partial(jax.jit, static_argnums=0)
def init(model: Model, key: jax.Array) -> Any:
  """Random float32 parameters, normal with `initializer_range`."""
  decoder = Decoder(model.config, nnx.Rngs(key))
  return nnx.to_pure_dict(nnx.state(decoder, nnx.Param))


def positions(mask: jax.Array) -> jax.Array:
  """Counts real tokens only, so that padding on the left is not seen.

  `[..., L]`, as the mask.
  """
  return jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)


def causal_mask(mask: jax.Array) -> jax.Array:
  """Which keys a query sees, `[..., L, L]`, from which tokens are real."""
  length = mask.shape[-1]
  before = jnp.arange(length)[:, None] >= jnp.arange(length)[None, :]
  return jnp.broadcast_to(before, (*mask.shape, length)) & mask[..., None, :]


def _sequence(
    model: Model, params: Any, tokens_BxL: jax.Array, mask_BxL: jax.Array
) -> tuple[Decoder, jax.Array, KeyValue]:
  decoder = nnx.merge(model.graphdef, params)
  mask_BxLxM = causal_mask(mask_BxL)
  x_BxLxD, new = decoder.hidden(
      tokens_BxL,
      positions(mask_BxL),
      lambda q, new, _: attention.attend(q, new, mask_BxLxM),
  )
  return decoder, x_BxLxD, new


def logits(
    model: Model, params: Any, tokens_BxL: jax.Array,
    mask_BxL: jax.Array | None = None, start: int = 0,
) -> jax.Array:
  """Next-token logits at every position from `start` on.

  Args:
    model: from `load` or `build`.
    params: its parameters.
    tokens_BxL: int32 tokens.
    mask_BxL: bool, False where a position is padding (on either side); all
      True by default.
    start: positions before it get no logits.

  Returns:
    float32 `[B, L - start, V]`; undefined, but finite, where the mask is False.
  """
  if mask_BxL is None:
    mask_BxL = jnp.ones(tokens_BxL.shape, bool)
  decoder, x_BxLxD, _ = _sequence(model, params, tokens_BxL, mask_BxL)
  return decoder.logits(x_BxLxD[:, start:])


def prefill(
    model: Model, params: Any, tokens_NxT: jax.Array, mask_NxT: jax.Array,
    num_completions: int, max_new_tokens: int,
) -> tuple[jax.Array, Cache]:
  """Runs each prompt once; returns its last logits `[N, V]` and the cache.

  Prompts are padded on the left: the last position is the last token.
  """
  decoder, x_NxTxD, prompt = _sequence(model, params, tokens_NxT, mask_NxT)
  layers, n, _, heads, width = prompt.k.shape
  shape = (layers, n, num_completions, max_new_tokens, heads, width)
  empty = KeyValue(*(jnp.zeros(shape, a.dtype) for a in prompt))
  last_Nx1xD = x_NxTxD[:, -1:]
  return decoder.logits(last_Nx1xD)[:, 0], Cache(prompt, empty, mask_NxT)


def decode(
    model: Model, params: Any, tokens_NxG: jax.Array, index: jax.Array,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
  """Feeds completion token number `index`; returns `[N, G, V]` logits."""
  decoder = nnx.merge(model.graphdef, params)
  mask_C = jnp.arange(cache.completion.k.shape[3]) < index
  positions_Nx1 = jnp.sum(cache.mask_NxT, axis=-1, keepdims=True) + index

  def attend(q_NxGxHxE, new, layer_cache):
    return attention.attend_cached(
        q_NxGxHxE, new, *layer_cache, cache.mask_NxT, mask_C
    )

  # The completions of a prompt stand where a sequence's tokens do; the layer
  # sees N sequences of G tokens, all at the same position.
  x_NxGxD, new = decoder.hidden(
      tokens_NxG,
      jnp.broadcast_to(positions_Nx1, tokens_NxG.shape),
      attend,
      (cache.prompt, cache.completion),
  )
  completion = jax.tree.map(
      lambda old, a: jax.lax.dynamic_update_index_in_dim(old, a, index, 3),
      cache.completion, new,
  )
  return decoder.logits(x_NxGxD), cache._replace(completion=completion)
