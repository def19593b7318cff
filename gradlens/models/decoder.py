"""The decoder: Flax NNX modules, layers stacked and scanned."""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from gradlens.models.config import LINEAR, DecoderConfig, Lora
from gradlens.models.kernels import KeyValue
from gradlens.models.positions import View, kinds_of_layers, rotate

# attend(q, new, layer_cache, view) -> out; q, new and out cover the new tokens.
Attend = Callable[[jax.Array, KeyValue, Any, View], jax.Array]

_ACTIVATIONS = dict(silu=jax.nn.silu, gelu_pytorch_tanh=jax.nn.gelu)


class AdaptedLinear(nnx.Linear):
  """A linear layer with a low-rank adapter, which begins at zero."""

  def __init__(
      self, size_in: int, size_out: int, *, lora: Lora, rngs: nnx.Rngs,
      **options: Any,
  ):
    super().__init__(size_in, size_out, rngs=rngs, **options)
    init = nnx.initializers.normal(size_in**-0.5)
    self.lora_a = nnx.Param(init(rngs.params(), (size_in, lora.rank)))
    self.lora_b = nnx.Param(jnp.zeros((lora.rank, size_out)))
    self.scale = lora.alpha / lora.rank

  def __call__(self, x: jax.Array) -> jax.Array:
    adapted = x @ self.lora_a[...] @ self.lora_b[...]
    return super().__call__(x) + adapted * self.scale


def _linear(
    config: DecoderConfig, size_in: int, size_out: int, rngs: nnx.Rngs,
    use_bias: bool = False, lora: Lora | None = None, **options: Any,
) -> nnx.Linear:
  options |= dict(
      use_bias=use_bias, rngs=rngs,
      kernel_init=nnx.initializers.normal(config.initializer_range),
  )
  if lora is None:
    return nnx.Linear(size_in, size_out, **options)
  return AdaptedLinear(size_in, size_out, lora=lora, **options)


def _targets(lora: Lora | None) -> dict[str, Lora | None]:
  """The adapter of each linear layer, if it has one."""
  return {
      name: lora if lora is not None and name in lora.targets else None
      for name in LINEAR
  }


class OffsetNorm(nnx.Module):
  """RMSNorm that stores how far its scale is from 1 (Gemma)."""

  def __init__(self, size: int, epsilon: float, rngs: nnx.Rngs):
    self.normalize = nnx.RMSNorm(
        size, epsilon=epsilon, use_scale=False, rngs=rngs
    )
    self.scale = nnx.Param(jnp.zeros(size))

  def __call__(self, x: jax.Array) -> jax.Array:
    normal = self.normalize(x.astype(jnp.float32))
    scale = 1 + self.scale[...].astype(jnp.float32)
    scale = jnp.expand_dims(scale, range(x.ndim - 1))
    return (normal * scale).astype(x.dtype)


def _norm(config: DecoderConfig, size: int, rngs: nnx.Rngs) -> nnx.Module:
  build = OffsetNorm if config.family.offset_norms else nnx.RMSNorm
  return build(size, epsilon=config.rms_norm_eps, rngs=rngs)


class Embed(nnx.Module):
  """Tokens to vectors, which some families scale; tied heads do not.

  Computes in the dtype it is given, which `nnx.Embed` does not.
  """

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    init = nnx.initializers.normal(config.initializer_range)
    size = config.hidden_size
    self.embedding = nnx.Param(init(rngs.params(), (config.vocab_size, size)))
    self.multiplier = size**0.5 if config.family.scaled_embedding else None

  def __call__(self, tokens: jax.Array) -> jax.Array:
    x = self.embedding[...][tokens]
    return x if self.multiplier is None else x * self.multiplier

  def attend(self, x: jax.Array) -> jax.Array:
    """Float32 logits of a tied head."""
    return jnp.einsum(
        '...d,vd->...v', x, self.embedding[...],
        preferred_element_type=jnp.float32,
    )


class Attention(nnx.Module):
  """Grouped-query attention with rotary positions."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, lora: Lora | None):
    self.config = config
    width = config.head_dim
    heads = config.num_attention_heads * width
    kv_heads = config.num_key_value_heads * width
    bias = config.family.qkv_bias or config.attention_bias
    size, of = config.hidden_size, _targets(lora)
    self.q = _linear(config, size, heads, rngs, bias, of['q'])
    self.k = _linear(config, size, kv_heads, rngs, bias, of['k'])
    self.v = _linear(config, size, kv_heads, rngs, bias, of['v'])
    self.o = _linear(config, heads, size, rngs, config.attention_bias, of['o'])
    if config.family.qk_norm:
      self.q_norm = _norm(config, width, rngs)
      self.k_norm = _norm(config, width, rngs)

  def __call__(
      self, x_BxLxD: jax.Array, view: View, attend: Attend, cache: Any
  ) -> tuple[jax.Array, KeyValue]:
    split = (*x_BxLxD.shape[:2], -1, self.config.head_dim)
    q, k, v = (f(x_BxLxD).reshape(split) for f in (self.q, self.k, self.v))
    if self.config.family.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    q, k = (rotate(a, view.cos, view.sin) for a in (q, k))
    scalar = self.config.query_pre_attn_scalar or self.config.head_dim
    new = KeyValue(k, v)
    out_BxLxHxE = attend(q * scalar**-0.5, new, cache, view)
    return self.o(out_BxLxHxE.reshape(*x_BxLxD.shape[:2], -1)), new


class FeedForward(nnx.Module):
  """SwiGLU, or GeGLU (Shazeer, 2020)."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, lora: Lora | None):
    self.activation = _ACTIVATIONS[config.family.activation]
    size, inner = config.hidden_size, config.intermediate_size
    of = _targets(lora)
    self.gate = _linear(config, size, inner, rngs, lora=of['gate'])
    self.up = _linear(config, size, inner, rngs, lora=of['up'])
    self.down = _linear(config, inner, size, rngs, lora=of['down'])

  def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
    return self.down(self.activation(self.gate(x_BxLxD)) * self.up(x_BxLxD))


class Layer(nnx.Module):
  """One transformer layer: norms before each part, and in some after too."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, lora: Lora | None):
    size = config.hidden_size
    self.post_norms = config.family.post_norms
    self.attention_norm = _norm(config, size, rngs)
    self.attention = Attention(config, rngs, lora)
    self.feed_forward_norm = _norm(config, size, rngs)
    self.feed_forward = FeedForward(config, rngs, lora)
    if self.post_norms:
      self.attention_post_norm = _norm(config, size, rngs)
      self.feed_forward_post_norm = _norm(config, size, rngs)

  def __call__(
      self, x_BxLxD: jax.Array, view: View, attend: Attend, cache: Any
  ) -> tuple[jax.Array, KeyValue]:
    out_BxLxD, new = self.attention(
        self.attention_norm(x_BxLxD), view, attend, cache
    )
    if self.post_norms:
      out_BxLxD = self.attention_post_norm(out_BxLxD)
    x_BxLxD = x_BxLxD + out_BxLxD
    out_BxLxD = self.feed_forward(self.feed_forward_norm(x_BxLxD))
    if self.post_norms:
      out_BxLxD = self.feed_forward_post_norm(out_BxLxD)
    return x_BxLxD + out_BxLxD, new


class Decoder(nnx.Module):
  """Embedding, layers, final norm and head (or the tied embedding)."""

  def __init__(
      self, config: DecoderConfig, rngs: nnx.Rngs, lora: Lora | None = None
  ):
    self.config = config
    self.embed = Embed(config, rngs)

    @nnx.split_rngs(splits=config.num_hidden_layers)
    @nnx.vmap
    def layers(rngs: nnx.Rngs) -> Layer:
      return Layer(config, rngs, lora)

    self.layers = layers(rngs)
    self.norm = _norm(config, config.hidden_size, rngs)
    if not config.tie_word_embeddings:
      self.head = _linear(
          config, config.hidden_size, config.vocab_size, rngs,
          preferred_element_type=jnp.float32,
      )

  def hidden(
      self, tokens_BxL: jax.Array, view: View, attend: Attend, cache: Any = None
  ) -> tuple[jax.Array, KeyValue]:
    """Final hidden states, and every layer's keys and values of the tokens.

    `view` has a leading axis of kinds of attention. `cache` has one of layers;
    `attend` gets each layer's slice.
    """
    graphdef, layers = nnx.split(self.layers)

    def step(x_BxLxD, of_layer):
      layer, kind, layer_cache = of_layer
      return nnx.merge(graphdef, layer)(
          x_BxLxD, view.of(kind), attend, layer_cache
      )

    x_BxLxD, new = jax.lax.scan(
        step,
        self.embed(tokens_BxL),
        (layers, kinds_of_layers(self.config), cache),
    )
    return self.norm(x_BxLxD), new

  def logits(self, x_BxLxD: jax.Array) -> jax.Array:
    """Float32 next-token logits of final hidden states."""
    if self.config.tie_word_embeddings:
      return self.embed.attend(x_BxLxD)
    return self.head(x_BxLxD)
