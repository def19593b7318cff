"""Forward passes: a whole sequence, a prompt's prefill, one decoded token.

`model` holds no arrays and is hashable; `params` is the pytree that is
trained. N prompts, G completions, T a prompt's tokens, C a completion's.
"""

import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from gradlens.models import attention, positions
from gradlens.models.config import Compute, DecoderConfig, Lora
from gradlens.models.decoder import Attend, Decoder
from gradlens.models.kernels import KeyValue


class Model(NamedTuple):
  """A decoder without its parameters.

  Attributes:
    config: its sizes and options.
    graphdef: its modules.
    lora: its adapters; None is without.
    compute: how it is computed.
  """

  config: DecoderConfig
  graphdef: Any
  lora: Lora | None
  compute: Compute

  @property
  def attend(self) -> Attend:
    """Attention of whole sequences."""
    return functools.partial(
        attention.attend, kernel=self.compute.attention,
        windows=self.config.windows,
    )


class Cache(NamedTuple):
  """Keys and values of all layers; completions of a prompt share its part."""

  prompt: KeyValue  # [layers, N, T, J, E]
  completion: KeyValue  # [layers, N, G, J, C, E]
  mask_NxT: jax.Array


@functools.lru_cache
def build(config: DecoderConfig, lora: Lora | None = None) -> Model:
  """The model of a configuration; makes no arrays.

  `model._replace(compute=...)` is computed another way.
  """
  abstract = nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0), lora))
  return Model(config, nnx.graphdef(abstract), lora, Compute())


@functools.partial(jax.jit, static_argnums=0)
def init(model: Model, key: jax.Array) -> Any:
  """Random float32 parameters, normal with `initializer_range`."""
  decoder = Decoder(model.config, nnx.Rngs(key), model.lora)
  return nnx.to_pure_dict(nnx.state(decoder, nnx.Param))


def _sequence(
    model: Model, params: Any, tokens_BxL: jax.Array, segments_BxL: jax.Array
) -> tuple[Decoder, jax.Array, KeyValue]:
  decoder = nnx.merge(model.graphdef, model.compute.cast(params))
  x_BxLxD, new = decoder.hidden(
      tokens_BxL,
      positions.view(model.config, segments_BxL),
      model.attend,
  )
  return decoder, x_BxLxD, new


def logits(
    model: Model, params: Any, tokens_BxL: jax.Array,
    segments_BxL: jax.Array | None = None, start: int = 0,
) -> jax.Array:
  """Next-token logits at every position from `start` on.

  Args:
    model: from `load` or `build`.
    params: its parameters.
    tokens_BxL: int32 tokens.
    segments_BxL: which sequence a token belongs to, where several are packed,
      each in one piece; or a mask, False where a position is padding (on
      either side). All are one sequence by default.
    start: positions before it get no logits.

  Returns:
    float32 `[B, L - start, V]`; undefined, but finite, at padding.
  """
  if segments_BxL is None:
    segments_BxL = jnp.ones(tokens_BxL.shape, bool)
  decoder, x_BxLxD, _ = _sequence(model, params, tokens_BxL, segments_BxL)
  return decoder.logits(x_BxLxD[:, start:])


def prefill(
    model: Model, params: Any, tokens_NxT: jax.Array, mask_NxT: jax.Array
) -> tuple[jax.Array, KeyValue]:
  """Runs each prompt once; returns its last logits `[N, V]` and its keys.

  Prompts are padded on the left: the last position is the last token.
  """
  decoder, x_NxTxD, prompt = _sequence(model, params, tokens_NxT, mask_NxT)
  last_Nx1xD = x_NxTxD[:, -1:]
  return decoder.logits(last_Nx1xD)[:, 0], prompt


def make_cache(
    prompt: KeyValue, mask_NxT: jax.Array, num_completions: int,
    max_new_tokens: int,
) -> Cache:
  """Of prompts from `prefill`, with room for completions."""
  layers, n, _, heads, width = prompt.k.shape
  shape = (layers, n, num_completions, heads, max_new_tokens, width)
  empty = KeyValue(*(jnp.zeros(shape, a.dtype) for a in prompt))
  return Cache(prompt, empty, mask_NxT)


def decode(
    model: Model, params: Any, tokens_NxG: jax.Array, index_N: jax.Array,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
  """Feeds each prompt's completion token number `index_N`.

  Returns:
    `[N, G, V]` logits of the token after it, and the cache with it.
  """
  decoder = nnx.merge(model.graphdef, model.compute.cast(params))
  room = cache.completion.k.shape[4]

  # The completions of a prompt stand where a sequence's tokens do; the layer
  # sees N sequences of G tokens, all at the same position.
  x_NxGxD, new = decoder.hidden(
      tokens_NxG,
      positions.decode_view(model.config, cache.mask_NxT, room, index_N),
      attention.attend_cached,
      (cache.prompt, cache.completion),
  )

  def put(n, completion):
    # One prompt at a time, in place: a scatter would copy the whole cache.
    return jax.tree.map(
        lambda old, a: jax.lax.dynamic_update_slice(
            old,
            jax.lax.dynamic_slice_in_dim(a, n, 1, 1)[:, :, :, :, None],
            (0, n, 0, 0, index_N[n], 0),
        ),
        completion, new,
    )

  completion = jax.lax.fori_loop(0, len(index_N), put, cache.completion)
  return decoder.logits(x_NxGxD), cache._replace(completion=completion)
