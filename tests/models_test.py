"""The decoder's masks, and its weights on disk."""

import dataclasses
import json
import pathlib
import shutil

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import random_models
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, ByT5Tokenizer

from gradlens import models


def _model(tie=True):
  """A random model of every kind of layer."""
  return random_models.with_params(dataclasses.replace(
      random_models.config('gemma3_text', 0), tie_word_embeddings=tie
  ))


class DecoderTest(parameterized.TestCase):

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

  @parameterized.parameters(jnp.bfloat16, jnp.float16, jnp.float32)
  def test_round_trip_is_exact_in_the_stored_dtype(self, dtype):
    models.save(self.model, self.params, self.folder, dtype=dtype)
    stored = self.weights.read_bytes()
    model, params = models.load(self.folder, dtype)
    jax.tree.map(
        lambda got, own: np.testing.assert_array_equal(got, own.astype(dtype)),
        params, self.params,
    )
    again = pathlib.Path(self.create_tempdir().full_path)
    models.save(model, params, again)
    self.assertEqual((again / 'model.safetensors').read_bytes(), stored)
    config = json.loads((again / 'config.json').read_text())
    self.assertEqual(config['dtype'], jnp.dtype(dtype).name)

  def test_ends_of_turns_are_read_from_the_generation_config(self):
    self.assertEqual(self.model.config.eos_token_id, ())
    (self.folder / 'generation_config.json').write_text(
        json.dumps(dict(eos_token_id=[9, 4]))
    )
    config = json.loads((self.folder / 'config.json').read_text())
    (self.folder / 'config.json').write_text(
        json.dumps(config | dict(eos_token_id=4))
    )
    self.assertEqual(
        models.load_model(self.folder).config.eos_token_id, (4, 9)
    )

  def test_large_models_are_several_files_and_an_index(self):
    models.save(
        self.model, self.params, self.folder, max_shard_size=4000
    )
    self.assertFalse(self.weights.exists())
    self.assertGreater(len(list(self.folder.glob('model-*.safetensors'))), 2)
    self.assert_same_params(models.load(self.folder)[1])
    theirs = AutoModelForCausalLM.from_pretrained(self.folder).state_dict()
    np.testing.assert_array_equal(
        theirs['model.embed_tokens.weight'], self.params['embed']['embedding']
    )
    # And one file again: what is left of before would be read instead.
    doubled = jax.tree.map(lambda a: 2 * a, self.params)
    models.save(self.model, doubled, self.folder)
    self.assertLen(list(self.folder.glob('*.safetensors*')), 1)
    jax.tree.map(
        np.testing.assert_array_equal, models.load(self.folder)[1], doubled
    )

  def test_who_may_read_the_config_may_read_the_weights(self):
    for size in ('5GB', 4000):
      models.save(self.model, self.params, self.folder, max_shard_size=size)
      self.assertLen({f.stat().st_mode for f in self.folder.iterdir()}, 1)

  def test_tensors_go_into_their_shards(self):
    mesh = jax.make_mesh(
        (4, 2), ('fsdp', 'tensor'), (jax.sharding.AxisType.Auto,) * 2
    )

    def sharding(path, leaf):
      # Where an axis divides; never that of the layers.
      spec = [None] * leaf.ndim
      start = 1 if path[0].key == 'layers' else 0
      for i, name in enumerate(('fsdp', 'tensor')[:leaf.ndim - start], start):
        if leaf.shape[i] % mesh.shape[name] == 0:
          spec[i] = name
      return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

    shardings = jax.tree_util.tree_map_with_path(sharding, self.params)
    spread = [s for s in jax.tree.leaves(shardings) if set(s.spec) != {None}]
    self.assertGreater(len(spread), 5)
    _, params = models.load(self.folder, shardings=shardings)
    self.assert_same_params(params)
    for leaf, own in zip(
        jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True
    ):
      self.assertTrue(leaf.sharding.is_equivalent_to(own, leaf.ndim))

  def test_wrong_tensors_are_listed_by_name(self):
    tensors = load_file(self.weights)
    del tensors['model.norm.weight']
    tensors['model.extra'] = np.zeros(3, np.float32)
    tensors['vision_tower.extra'] = np.zeros(3, np.float32)
    name = 'model.layers.1.mlp.up_proj.weight'
    tensors[name] = tensors[name][1:]
    small = 'model.layers.0.mlp.gate_proj.weight'
    tensors[small] = tensors[small].astype(np.int8)
    save_file(tensors, self.weights)
    with self.assertRaises(ValueError) as caught:
      models.load(self.folder)
    self.assertIn(f'{small} is stored as I8; gradlens reads F32, BF16, F16',
                  str(caught.exception))
    self.assertIn('model.norm.weight is missing', str(caught.exception))
    for extra in ('model.extra', 'vision_tower.extra'):
      self.assertIn(f'{extra} is not expected', str(caught.exception))
    d, f = self.model.config.hidden_size, self.model.config.intermediate_size
    self.assertIn(f'{name} has shape {(f - 1, d)}, expected {(f, d)}',
                  str(caught.exception))

  def test_a_truncated_file_is_named(self):
    self.weights.write_bytes(self.weights.read_bytes()[:5000])
    with self.assertRaisesRegex(ValueError, 'model.safetensors cannot be read'):
      models.load(self.folder)

  def test_a_file_that_the_index_names_and_is_not_there_is_named(self):
    models.save(self.model, self.params, self.folder, max_shard_size=4000)
    name = sorted(self.folder.glob('model-*.safetensors'))[1]
    name.unlink()
    with self.assertRaisesRegex(FileNotFoundError, f'lacks {name.name}, which'):
      models.load(self.folder)

  def test_a_folder_without_a_model_is_named(self):
    shutil.rmtree(self.folder)
    with self.assertRaisesRegex(FileNotFoundError, 'holds no config.json'):
      models.load(self.folder)


if __name__ == '__main__':
  absltest.main()
