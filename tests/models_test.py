"""The decoder against transformers' torch models, and its weights on disk."""

import json
import pathlib
import shutil

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file
import torch
from transformers import AutoModelForCausalLM, ByT5Tokenizer

from gradlens import models
from gradlens.models import config as config_lib

# Head width is not hidden_size / heads, and the ratio of heads is 2.
_SIZES = dict(
    vocab_size=40, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    max_position_embeddings=64, initializer_range=0.2,
)


def _model(model_type='qwen3', tie=True, **changes):
  """A random model in which no parameter is at its trivial value."""
  config = models.DecoderConfig(
      model_type=model_type, tie_word_embeddings=tie, **(_SIZES | changes)
  )
  model = models.build(config)
  leaves, treedef = jax.tree.flatten(models.init(model, jax.random.key(0)))
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return model, treedef.unflatten([
      leaf + 0.2 * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys, strict=True)
  ])


class DecoderTest(parameterized.TestCase):

  @parameterized.product(
      model_type=('qwen2', 'qwen3', 'llama'), tie=(True, False)
  )
  def test_logits_are_those_of_transformers(self, model_type, tie):
    model, params = _model(model_type, tie)
    folder = self.create_tempdir().full_path
    models.save(model, params, folder, ByT5Tokenizer())
    reference = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation='eager'
    ).eval()
    tokens = np.random.default_rng(0).integers(3, 40, (2, 11))
    with torch.no_grad():
      want = reference(torch.tensor(tokens)).logits.numpy()
    got = models.logits(model, params, jnp.asarray(tokens))
    self.assertGreater(np.abs(want).max(), 1.0)
    np.testing.assert_allclose(got, want, atol=2e-5)

  def test_padding_on_the_left_is_not_seen(self):
    model, params = _model()
    tokens = jnp.arange(3, 9)[None]
    padded = jnp.concatenate([jnp.full((1, 4), 7), tokens], axis=1)
    mask = jnp.arange(10)[None] >= 4
    got = models.logits(model, params, padded, mask, start=4)
    np.testing.assert_allclose(
        got, models.logits(model, params, tokens), atol=1e-5
    )
    seen = models.logits(model, params, padded, start=4)
    self.assertGreater(float(jnp.abs(seen - got).max()), 1e-2)

  def test_a_token_sees_only_what_is_before_it(self):
    model, params = _model()
    tokens = jnp.arange(3, 11)[None]
    changed = tokens.at[0, 5].set(20)
    a, b = (models.logits(model, params, t) for t in (tokens, changed))
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    self.assertGreater(float(jnp.abs(a[:, 5:] - b[:, 5:]).min(-1).max()), 0)

  def test_models_are_hashable_and_hold_no_arrays(self):
    model, _ = _model()
    self.assertEqual(hash(model), hash(_model()[0]))
    self.assertEmpty([
        leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)
    ])


class WeightsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.model, self.params = _model(tie=False)
    models.save(self.model, self.params, self.folder, ByT5Tokenizer())
    self.weights = self.folder / 'model.safetensors'

  def assert_same_params(self, got):
    jax.tree.map(np.testing.assert_array_equal, got, self.params)

  def test_round_trip_is_exact(self):
    model, params = models.load(self.folder)
    self.assertEqual(model, self.model)
    self.assert_same_params(params)

  def test_round_trip_in_bfloat16_is_exact_in_the_stored_dtype(self):
    models.save(
        self.model, self.params, self.folder, ByT5Tokenizer(), jnp.bfloat16
    )
    _, params = models.load(self.folder, jnp.bfloat16)
    jax.tree.map(
        lambda got, own: np.testing.assert_array_equal(
            got, own.astype(jnp.bfloat16)
        ),
        params, self.params,
    )

  def test_reads_several_files_by_their_index(self):
    tensors = load_file(self.weights)
    names = sorted(tensors)
    parts = {'a.safetensors': names[::2], 'b.safetensors': names[1::2]}
    for file, part in parts.items():
      save_file({name: tensors[name] for name in part}, self.folder / file)
    index = {name: file for file, part in parts.items() for name in part}
    (self.folder / 'model.safetensors.index.json').write_text(
        json.dumps(dict(weight_map=index))
    )
    self.weights.unlink()
    self.assert_same_params(models.load(self.folder)[1])

  def test_wrong_tensors_are_listed_by_name(self):
    tensors = load_file(self.weights)
    del tensors['model.norm.weight']
    tensors['model.extra'] = np.zeros(3, np.float32)
    name = 'model.layers.1.mlp.up_proj.weight'
    tensors[name] = tensors[name][1:]
    save_file(tensors, self.weights)
    with self.assertRaises(ValueError) as caught:
      models.load(self.folder)
    self.assertIn('model.norm.weight is missing', str(caught.exception))
    self.assertIn('model.extra is not expected', str(caught.exception))
    self.assertIn(f'{name} has shape (24, 39)', str(caught.exception))

  def test_a_truncated_file_is_named(self):
    self.weights.write_bytes(self.weights.read_bytes()[:5000])
    with self.assertRaisesRegex(ValueError, 'model.safetensors cannot be read'):
      models.load(self.folder)

  def test_a_folder_without_a_model_is_named(self):
    shutil.rmtree(self.folder)
    with self.assertRaisesRegex(FileNotFoundError, 'holds no config.json'):
      models.load(self.folder)

  @parameterized.parameters(
      (dict(hidden_act='gelu'), "hidden_act='gelu' is not supported"),
      (dict(attention_bias=True), 'attention_bias=True is not supported'),
      (dict(rope_parameters=dict(rope_type='linear', rope_theta=1e4,
                                 factor=2.0)),
       "rope_type='linear' is not supported"),
  )
  def test_options_that_are_not_built_are_refused(self, changes, message):
    hf = config_lib.to_huggingface(self.model.config)
    for key, value in changes.items():
      setattr(hf, key, value)
    with self.assertRaisesRegex(ValueError, message):
      config_lib.from_huggingface(hf)

  def test_a_family_that_is_not_built_is_refused(self):
    with self.assertRaisesRegex(ValueError, "model_type='gpt2'"):
      models.DecoderConfig(model_type='gpt2', **_SIZES)


if __name__ == '__main__':
  absltest.main()
