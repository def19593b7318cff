"""Random small models of every family, and transformers' models of the same.

Every option of a family occurs within three seeds; see `config`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from transformers import AutoModelForCausalLM, ByT5Tokenizer

import gradlens as gl
from gradlens import models
from gradlens.models import config as config_lib
from gradlens.models import families

FAMILIES = sorted(families.FAMILIES)
SEEDS = (0, 1, 2)
VOCAB = 40
# Three times as long as the context that scaled rotary bases start from.
ORIGINAL, LENGTH = 16, 48

_LLAMA3 = dict(
    rope_type='llama3', factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=ORIGINAL,
)
_SCALINGS = (None, _LLAMA3, dict(rope_type='linear', factor=3.0))


def config(model_type: str, seed: int) -> models.DecoderConfig:
  """A configuration whose sizes are drawn, and whose options are in turn."""
  rng = np.random.default_rng(seed)
  options = families.FAMILIES[model_type].options
  kv_heads, ratio = int(rng.integers(1, 3)), (1, 3, 5)[seed]
  heads, layers = kv_heads * ratio, int(rng.integers(3, 5))
  changes = {}
  if 'attention_bias' in options:
    changes['attention_bias'] = seed == 1
  if 'layer_types' in options and seed != 1:
    kinds = rng.permutation([config_lib.SLIDING] * (layers - 1) + [
        config_lib.FULL
    ])
    changes |= dict(
        layer_types=tuple(map(str, kinds)),
        sliding_window=int(rng.integers(3, 9)),
    )
  if 'rope_local_base_freq' in options:
    changes['rope_local_base_freq'] = 100.0
  if 'query_pre_attn_scalar' in options:
    changes['query_pre_attn_scalar'] = 12
  return models.DecoderConfig(
      model_type=model_type,
      vocab_size=VOCAB,
      hidden_size=heads * int(rng.integers(3, 6)),
      intermediate_size=int(rng.integers(20, 50)),
      num_hidden_layers=layers,
      num_attention_heads=heads,
      num_key_value_heads=kv_heads,
      head_dim=2 * int(rng.integers(3, 7)),
      max_position_embeddings=LENGTH,
      initializer_range=0.3,
      rope_theta=1000.0,
      rope_scaling=_SCALINGS[seed],
      tie_word_embeddings=seed % 2 == 0,
      eos_token_id=((), (1,), (1, 5))[seed],
      **changes,
  )


def with_params(config: models.DecoderConfig) -> tuple[models.Model, Any]:
  """A model in which no parameter is at its trivial value."""
  model = models.build(config)
  leaves, treedef = jax.tree.flatten(models.init(model, jax.random.key(0)))
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return model, treedef.unflatten([
      leaf + 0.2 * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys, strict=True)
  ])


def losses_fn(model: models.Model) -> Any:
  """By taps: the log-likelihood of each row's sequences."""

  def readout(head, x_NxLxD, tokens_NxL):
    found = models.scores(
        head, x_NxLxD[:, :-1], tokens_NxL[:, 1:], temperature=1.0
    )
    return jnp.sum(found.logprobs)

  def losses(params, probes, tokens_RxNxL, mask_RxNxL):
    return models.tapped(
        model, params, probes, models.Sequences(tokens_RxNxL, mask_RxNxL),
        readout, tokens_RxNxL,
    )

  return losses


def probes(model: models.Model, num_rows: int) -> dict[str, gl.Probe]:
  """One for each block."""
  layers = model.config.num_hidden_layers
  return {
      name: gl.Probe(num_rows, layers if name == 'layers' else None)
      for name in models.BLOCKS
  }


def reference(model: models.Model, params: Any, folder: str) -> Any:
  """transformers' model of the directory that `models.save` writes."""
  models.save(model, params, folder, ByT5Tokenizer())
  return AutoModelForCausalLM.from_pretrained(
      folder, attn_implementation='eager'
  ).eval()
