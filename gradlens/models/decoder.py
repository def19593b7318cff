"""The decoder: Flax NNX modules, layers stacked and scanned."""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from gradlens.models import attention
from gradlens.models.attention import KeyValue
from gradlens.models.config import DecoderConfig

# attend(q, new, layer_cache) -> out; q, new and out cover the new tokens.
Attend = Callable[[jax.Array, KeyValue, Any], jax.Array]


def _linear(
    config: DecoderConfig, size_in: int, size_out: int, rngs: nnx.Rngs,
    use_bias: bool = False,
) -> nnx.Linear:
  init = nnx.initializers.normal(config.initializer_range)
  return nnx.Linear(
      size_in, size_out, use_bias=use_bias, kernel_init=init, rngs=rngs
  )


def _norm(config: DecoderConfig, size: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
  return nnx.RMSNorm(size, epsilon=config.rms_norm_eps, rngs=rngs)


class Attention(nnx.Module):
  """Grouped-query attention with rotary positions."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.config = config
    width = config.head_dim
    heads = config.num_attention_heads * width
    kv_heads = config.num_key_value_heads * width
    bias = config.family.attention_bias
    self.q = _linear(config, config.hidden_size, heads, rngs, bias)
    self.k = _linear(config, config.hidden_size, kv_heads, rngs, bias)
    self.v = _linear(config, config.hidden_size, kv_heads, rngs, bias)
    self.o = _linear(config, heads, config.hidden_size, rngs)
    if config.family.qk_norm:
      self.q_norm = _norm(config, width, rngs)
      self.k_norm = _norm(config, width, rngs)

  def __call__(
      self, x_BxLxD: jax.Array, positions_BxL: jax.Array, attend: Attend,
      cache: Any,
  ) -> tuple[jax.Array, KeyValue]:
    split = (*x_BxLxD.shape[:2], -1, self.config.head_dim)
    q, k, v = (f(x_BxLxD).reshape(split) for f in (self.q, self.k, self.v))
    if self.config.family.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    q, k = (
        attention.rotate(a, positions_BxL, self.config.rope_theta)
        for a in (q, k)
    )
    new = KeyValue(k, v)
    out_BxLxHxE = attend(q, new, cache)
    return self.o(out_BxLxHxE.reshape(*x_BxLxD.shape[:2], -1)), new


class FeedForward(nnx.Module):
  """SwiGLU (Shazeer, 2020)."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    inner = config.intermediate_size
    self.gate = _linear(config, config.hidden_size, inner, rngs)
    self.up = _linear(config, config.hidden_size, inner, rngs)
    self.down = _linear(config, inner, config.hidden_size, rngs)

  def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
    return self.down(jax.nn.silu(self.gate(x_BxLxD)) * self.up(x_BxLxD))


class Layer(nnx.Module):
  """One pre-norm transformer layer."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.attention_norm = _norm(config, config.hidden_size, rngs)
    self.attention = Attention(config, rngs)
    self.feed_forward_norm = _norm(config, config.hidden_size, rngs)
    self.feed_forward = FeedForward(config, rngs)

  def __call__(
      self, x_BxLxD: jax.Array, positions_BxL: jax.Array, attend: Attend,
      cache: Any,
  ) -> tuple[jax.Array, KeyValue]:
    out_BxLxD, new = self.attention(
        self.attention_norm(x_BxLxD), positions_BxL, attend, cache
    )
    x_BxLxD = x_BxLxD + out_BxLxD
    x_BxLxD = x_BxLxD + self.feed_forward(self.feed_forward_norm(x_BxLxD))
    return x_BxLxD, new


class Decoder(nnx.Module):
  """Embedding, layers, final norm and head (or the tied embedding)."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.config = config
    init = nnx.initializers.normal(config.initializer_range)
    self.embed = nnx.Embed(
        config.vocab_size, config.hidden_size, embedding_init=init, rngs=rngs
    )

    @nnx.split_rngs(splits=config.num_hidden_layers)
    @nnx.vmap
    def layers(rngs: nnx.Rngs) -> Layer:
      return Layer(config, rngs)

    self.layers = layers(rngs)
    self.norm = _norm(config, config.hidden_size, rngs)
    if not config.tie_word_embeddings:
      self.head = _linear(config, config.hidden_size, config.vocab_size, rngs)

  def hidden(
      self, tokens_BxL: jax.Array, positions_BxL: jax.Array, attend: Attend,
      cache: Any = None,
  ) -> tuple[jax.Array, KeyValue]:
    """Final hidden states, and every layer's keys and values of the tokens.

    `cache` has a leading axis of layers; `attend` gets each layer's slice.
    """
    graphdef, layers = nnx.split(self.layers)

    def step(x_BxLxD, layer_and_cache):
      layer, layer_cache = layer_and_cache
      return nnx.merge(graphdef, layer)(
          x_BxLxD, positions_BxL, attend, layer_cache
      )

    x_BxLxD, new = jax.lax.scan(step, self.embed(tokens_BxL), (layers, cache))
    return self.norm(x_BxLxD), new

  def logits(self, x_BxLxD: jax.Array) -> jax.Array:
    """Float32 next-token logits of final hidden states."""
    if self.config.tie_word_embeddings:
      return self.embed.attend(x_BxLxD).astype(jnp.float32)
    return self.head(x_BxLxD).astype(jnp.float32)
