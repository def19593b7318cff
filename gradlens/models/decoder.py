"""The decoder: Flax NNX modules, layers stacked and scanned."""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from gradlens.models.attention import KeyValue
from gradlens.models.config import DecoderConfig
from gradlens.models.positions import View, kinds_of_layers, rotate

# attend(q, new, layer_cache, mask) -> out; q, new and out cover the new tokens.
Attend = Callable[[jax.Array, KeyValue, Any, Any], jax.Array]

_ACTIVATIONS = dict(silu=jax.nn.silu, gelu_pytorch_tanh=jax.nn.gelu)


def _linear(
    config: DecoderConfig, size_in: int, size_out: int, rngs: nnx.Rngs,
    use_bias: bool = False,
) -> nnx.Linear:
  init = nnx.initializers.normal(config.initializer_range)
  return nnx.Linear(
      size_in, size_out, use_bias=use_bias, kernel_init=init, rngs=rngs
  )


class OffsetNorm(nnx.Module):
  """RMSNorm that stores how far its scale is from 1 (Gemma)."""

  def __init__(self, size: int, epsilon: float, rngs: nnx.Rngs):
    self.normalize = nnx.RMSNorm(
        size, epsilon=epsilon, use_scale=False, rngs=rngs
    )
    self.scale = nnx.Param(jnp.zeros(size))

  def __call__(self, x: jax.Array) -> jax.Array:
    normal = self.normalize(x.astype(jnp.float32))
    scale = jnp.expand_dims(1 + self.scale[...], range(x.ndim - 1))
    return (normal * scale).astype(x.dtype)


def _norm(config: DecoderConfig, size: int, rngs: nnx.Rngs) -> nnx.Module:
  build = OffsetNorm if config.family.offset_norms else nnx.RMSNorm
  return build(size, epsilon=config.rms_norm_eps, rngs=rngs)


class Embed(nnx.Embed):
  """Tokens to vectors, which some families scale; tied heads do not."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    init = nnx.initializers.normal(config.initializer_range)
    super().__init__(
        config.vocab_size, config.hidden_size, embedding_init=init, rngs=rngs
    )
    scaled = config.family.scaled_embedding
    self.multiplier = config.hidden_size**0.5 if scaled else None

  def __call__(self, tokens: jax.Array) -> jax.Array:
    x = super().__call__(tokens)
    return x if self.multiplier is None else x * self.multiplier


class Attention(nnx.Module):
  """Grouped-query attention with rotary positions."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.config = config
    width = config.head_dim
    heads = config.num_attention_heads * width
    kv_heads = config.num_key_value_heads * width
    bias = config.family.qkv_bias or config.attention_bias
    self.q = _linear(config, config.hidden_size, heads, rngs, bias)
    self.k = _linear(config, config.hidden_size, kv_heads, rngs, bias)
    self.v = _linear(config, config.hidden_size, kv_heads, rngs, bias)
    self.o = _linear(
        config, heads, config.hidden_size, rngs, config.attention_bias
    )
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
    out_BxLxHxE = attend(q * scalar**-0.5, new, cache, view.mask)
    return self.o(out_BxLxHxE.reshape(*x_BxLxD.shape[:2], -1)), new


class FeedForward(nnx.Module):
  """SwiGLU, or GeGLU (Shazeer, 2020)."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.activation = _ACTIVATIONS[config.family.activation]
    inner = config.intermediate_size
    self.gate = _linear(config, config.hidden_size, inner, rngs)
    self.up = _linear(config, config.hidden_size, inner, rngs)
    self.down = _linear(config, inner, config.hidden_size, rngs)

  def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
    return self.down(self.activation(self.gate(x_BxLxD)) * self.up(x_BxLxD))


class Layer(nnx.Module):
  """One transformer layer: norms before each part, and in some after too."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    size = config.hidden_size
    self.post_norms = config.family.post_norms
    self.attention_norm = _norm(config, size, rngs)
    self.attention = Attention(config, rngs)
    self.feed_forward_norm = _norm(config, size, rngs)
    self.feed_forward = FeedForward(config, rngs)
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

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.config = config
    self.embed = Embed(config, rngs)

    @nnx.split_rngs(splits=config.num_hidden_layers)
    @nnx.vmap
    def layers(rngs: nnx.Rngs) -> Layer:
      return Layer(config, rngs)

    self.layers = layers(rngs)
    self.norm = _norm(config, config.hidden_size, rngs)
    if not config.tie_word_embeddings:
      self.head = _linear(config, config.hidden_size, config.vocab_size, rngs)

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
      return self.embed.attend(x_BxLxD).astype(jnp.float32)
    return self.head(x_BxLxD).astype(jnp.float32)
