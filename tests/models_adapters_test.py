"""Adapters: what is trained is little, and what is computed is the sum."""

import functools
import os
import signal

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_models
import tiny_config
import torch
from transformers import AutoModelForCausalLM

import gradlens as gl
from gradlens import models, rollout, train
from gradlens.workdir import checkpoint

LORA = models.Lora(rank=3, alpha=5.0, targets=('q', 'v', 'o', 'up', 'down'))
_TOKENS = np.random.default_rng(0).integers(0, 40, (2, 2, 15)).astype(np.int32)
_MASK = np.ones(_TOKENS.shape, bool)
_MASK[0, 1, :4] = _MASK[1, 0, 12:] = False


@functools.cache
def _adapted(family='qwen2'):
  """A model whose adapters have moved, and its parameters in two parts."""
  model, frozen = random_models.with_params(random_models.config(family, 0))
  model, adapters = models.adapt(model, LORA, jax.random.key(2))
  leaves, treedef = jax.tree.flatten(adapters)
  keys = jax.random.split(jax.random.key(3), len(leaves))
  return model, treedef.unflatten([
      leaf + 0.1 * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys, strict=True)
  ]), frozen


def _row_loss(logits_NxLxV, tokens_NxL):
  logprobs = jax.nn.log_softmax(logits_NxLxV[:, :-1])
  chosen = jnp.take_along_axis(logprobs, tokens_NxL[:, 1:, None], -1)
  return jnp.sum(jnp.sin(chosen))


class AdaptersTest(parameterized.TestCase):

  @parameterized.parameters(*random_models.FAMILIES)
  def test_nothing_has_changed_at_first(self, family):
    plain, params = random_models.with_params(random_models.config(family, 2))
    model, adapters = models.adapt(plain, LORA, jax.random.key(2))
    np.testing.assert_array_equal(
        models.logits(plain, params, _TOKENS[0]),
        models.logits(model, models.join(adapters, params), _TOKENS[0]),
    )
    trained, frozen = models.split(models.join(adapters, params))
    jax.tree.map(np.testing.assert_array_equal, trained, adapters)
    jax.tree.map(np.testing.assert_array_equal, frozen, params)

  def test_what_has_an_adapter(self):
    _, adapters, frozen = _adapted()
    named = {
        jax.tree_util.keystr(path, simple=True, separator='.')
        for path, _ in jax.tree_util.tree_leaves_with_path(adapters)
    }
    self.assertEqual(named, {
        f'layers.{layer}.lora_{part}' for part in 'ab' for layer in (
            'attention.q', 'attention.v', 'attention.o', 'feed_forward.up',
            'feed_forward.down',
        )
    })
    layers, size = frozen['layers']['attention']['q']['kernel'].shape[:2]
    q = adapters['layers']['attention']['q']
    self.assertEqual(q['lora_a'].shape, (layers, size, 3))
    self.assertEqual(models.split(frozen), (frozen, {}))

  @parameterized.parameters('qwen2', 'gemma3_text')
  def test_adapted_is_merged(self, family):
    model, adapters, frozen = _adapted(family)
    params = models.join(adapters, frozen)
    plain, merged = models.merge(model, params)
    self.assertIsNone(plain.lora)
    q = frozen['layers']['attention']['q']['kernel'][1]
    a, b = (adapters['layers']['attention']['q'][f'lora_{n}'][1] for n in 'ab')
    np.testing.assert_allclose(
        merged['layers']['attention']['q']['kernel'][1],
        np.float64(q) + 5 / 3 * np.float64(a) @ np.float64(b), atol=1e-6,
    )
    want = models.logits(plain, merged, _TOKENS[0])
    got = models.logits(model, params, _TOKENS[0])
    np.testing.assert_allclose(got, want, atol=1e-4)
    base = models.logits(plain, frozen, _TOKENS[0])
    self.assertGreater(float(jnp.abs(got - base).max()), 0.1)

    keys = rollout.request_keys(jax.random.key(0), (2, 1))
    options = dict(max_new_tokens=10, temperature=0.0, stop_tokens=())
    np.testing.assert_array_equal(*(
        rollout.generate(
            *pair, _TOKENS[0], _MASK[0], keys, **options
        ).tokens_NxGxC
        for pair in ((model, params), (plain, merged))
    ))

  def test_what_is_saved_is_merged(self):
    model, adapters, frozen = _adapted()
    params, folder = models.join(adapters, frozen), self.create_tempdir()
    models.save(model, params, folder.full_path)
    theirs = AutoModelForCausalLM.from_pretrained(folder.full_path).eval()
    with torch.no_grad():
      want = theirs(torch.tensor(_TOKENS[0], dtype=torch.long)).logits
    np.testing.assert_allclose(
        models.logits(model, params, _TOKENS[0]), want, atol=1e-4, rtol=1e-4
    )

  @parameterized.parameters('qwen2', 'llama')
  def test_gradients_and_grams_are_those_of_the_adapters(self, family):
    model, adapters, frozen = _adapted(family)

    def readout(head, x_NxLxD, tokens_NxL):
      return _row_loss(head(x_NxLxD), tokens_NxL)

    def losses_fn(adapters, probes, tokens_RxNxL, mask_RxNxL):
      return models.tapped(
          model, models.join(adapters, frozen), probes,
          models.Sequences(tokens_RxNxL, mask_RxNxL), readout, tokens_RxNxL,
      )

    probes = dict(layers=gl.Probe(2, model.config.num_hidden_layers))
    losses_R, grads, grams = jax.jit(gl.value_grad_gram(losses_fn))(
        adapters, probes, jnp.asarray(_TOKENS), jnp.asarray(_MASK)
    )

    def loss(adapters, row):
      plain, merged = models.merge(model, models.join(adapters, frozen))
      logits = models.logits(plain, merged, _TOKENS[row], _MASK[row])
      return _row_loss(logits, _TOKENS[row])

    values, rows = zip(*(
        jax.value_and_grad(loss)(adapters, row) for row in range(2)
    ), strict=True)
    np.testing.assert_allclose(losses_R, values, rtol=1e-4)
    vectors_RxN = np.stack([
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(row)])
        for row in rows
    ]).astype(np.float64)
    scale = np.abs(vectors_RxN).max()
    got = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])
    np.testing.assert_allclose(got, vectors_RxN.sum(0), atol=2e-4 * scale)
    gram_RxR = vectors_RxN @ vectors_RxN.T
    np.testing.assert_allclose(
        grams['layers'].sum(0), gram_RxR, atol=1e-3 * gram_RxR.max()
    )

  @parameterized.parameters(
      (models.Lora(0, 1.0, ('q',)), 'lora.rank=0 must be at least 1'),
      (models.Lora(1, 1.0, ('q', 'head')), r"'q\+head' must name some of q, k"),
      (models.Lora(1, 1.0, ()), "lora.targets='' must name some"),
  )
  def test_refused(self, lora, message):
    model, _ = random_models.with_params(random_models.config('llama', 0))
    with self.assertRaisesRegex(ValueError, message):
      models.adapt(model, lora, jax.random.key(0))


def _config(rank, **changes):
  config = tiny_config.get_config()
  with config.unlocked():
    config.lora.rank = rank
    config.correction.update(name='pcgrad', apply='two_pass')
    config.update(changes)
  return config


class _Interrupt:
  """A writer that asks its process to end."""

  def write_scalars(self, step, scalars):
    if step == 2 and 'loss/long' in scalars:
      os.kill(os.getpid(), signal.SIGTERM)

  def write_texts(self, step, texts):
    pass

  def flush(self):
    pass


@pytest.mark.slow
class RunTest(absltest.TestCase):

  def test_only_adapters_are_trained_kept_and_resumed(self):
    whole, parts, other = (
        self.create_tempdir().full_path for _ in range(3)
    )
    run = train.train(_config(2), whole)
    self.assertGreater(run.scalars['norm_sq/naive/long'][4], 0)
    stopped = train.train(_config(2), parts, writers=[_Interrupt()])
    self.assertLess(stopped.steps[-1], 4)
    resumed = train.train(_config(2), parts)
    for tag in ('update_norm', 'norm_sq/naive/long', 'heldout/short'):
      self.assertEqual(resumed.scalars[tag], run.scalars[tag])

    model, frozen = checkpoint.load_frozen(whole)
    self.assertEqual(model.lora.rank, 2)
    like = jax.eval_shape(
        lambda: models.split(models.init(model, jax.random.key(0)))[0]
    )
    with checkpoint.Checkpoints(whole) as states:
      adapters = states.restore_params(like)
    _, merged, _ = checkpoint.load_model(whole)
    jax.tree.map(
        np.testing.assert_array_equal, merged,
        models.merge(model, models.join(adapters, frozen))[1],
    )
    q, base = (
        tree['layers']['attention']['q']['kernel'] for tree in (merged, frozen)
    )
    self.assertGreater(float(jnp.abs(q - base).max()), 1e-4)
    np.testing.assert_array_equal(
        merged['embed']['embedding'], frozen['embed']['embedding']
    )
    # Another run goes on from all of it, and trains it in full.
    config = _config(0, init_from=whole, num_steps=1)
    other = train.train(config, other)
    self.assertIn('layer_norm_sq/embed/long', other.scalars)
    self.assertNotIn('layer_norm_sq/embed/long', run.scalars)
    np.testing.assert_allclose(
        other.evals[0]['long'], run.evals[4]['long'], atol=0.2
    )


if __name__ == '__main__':
  absltest.main()
