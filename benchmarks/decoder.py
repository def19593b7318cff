"""The decoders that benchmarks measure, and one batch for them."""

from typing import Any

import jax
import jax.numpy as jnp

from gradlens import models

# Llama's layout, untied: what every peer can take.
SIZES = {
    'small': dict(hidden_size=128, intermediate_size=384, num_hidden_layers=4,
                  num_attention_heads=4, head_dim=32, vocab_size=384),
    'medium': dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
                   num_attention_heads=4, head_dim=64, vocab_size=2048),
    'large': dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=6,
                  num_attention_heads=8, head_dim=64, vocab_size=4096),
}


def build(size: str, length: int) -> tuple[models.Model, Any]:
  """A decoder of that size with random parameters."""
  config = models.DecoderConfig(
      model_type='llama', num_key_value_heads=2, max_position_embeddings=length,
      initializer_range=0.02, tie_word_embeddings=False, **SIZES[size],
  )
  model = models.build(config)
  return model, models.init(model, jax.random.key(0))


def random_batch(
    vocab_size: int, num_sequences: int, length: int
) -> tuple[jax.Array, jax.Array]:
  """Tokens `[N, L]` and an advantage of each sequence, `[N]`."""
  keys = jax.random.split(jax.random.key(1))
  tokens = jax.random.randint(keys[0], (num_sequences, length), 0, vocab_size)
  return tokens, jax.random.normal(keys[1], (num_sequences,))


def in_rows(batch: Any, num_rows: int) -> Any:
  """`[N, ...]` to `[R, N / R, ...]`."""
  return jax.tree.map(lambda a: a.reshape(num_rows, -1, *a.shape[1:]), batch)


def losses_fn(model: models.Model) -> Any:
  """A policy gradient: each row's sum over its sequences of a token mean."""

  def readout(head, x_NxLxD, tokens_NxL, advantages_N):
    found = models.scores(
        head, x_NxLxD[:, :-1], tokens_NxL[:, 1:], temperature=1.0
    )
    return -jnp.sum(found.logprobs.mean(axis=1) * advantages_N)

  def losses(params, probes, tokens_RxNxL, advantages_RxN):
    return models.tapped(
        model, params, probes,
        models.Sequences(tokens_RxNxL, jnp.ones(tokens_RxNxL.shape, bool)),
        readout, tokens_RxNxL, advantages_RxN,
    )

  return losses
