"""Checkpoints: a run's states return bit for bit, or not at all."""

from concurrent import futures
import itertools
import math
import multiprocessing
import os
import pathlib
import shutil

from absl.testing import absltest, parameterized
from folders import snapshot
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transformers import ByT5Tokenizer

import gradlens as gl
from gradlens import models
from gradlens.step.train_step import TrainState
from gradlens.workdir import checkpoint


def make_state(seed=0):
  """A state of which no part is at its first value; a typed key, and another
  in the correction's state."""
  model = models.build(models.DecoderConfig(
      model_type='qwen3', vocab_size=384, hidden_size=8, intermediate_size=8,
      num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
      head_dim=4, max_position_embeddings=16,
  ))
  params = models.init(model, jax.random.key(seed))
  tx = optax.chain(
      gl.correct(gl.pcgrad(jax.random.key(seed)), num_tasks=3, num_splits=2),
      optax.adamw(1e-3),
  )
  grads_RxP = jax.tree.map(
      lambda a: jax.random.normal(jax.random.key(seed + 1), (6, *a.shape)),
      params,
  )
  _, opt_state = tx.update(grads_RxP, tx.init(params), params)
  return model, TrainState(params, opt_state, jax.random.key(seed + 2), {}, {})


def numbers(tree):
  """Leaves as numpy arrays, keys as their data."""
  return [
      np.asarray(jax.random.key_data(leaf))
      if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)
      for leaf in jax.tree.leaves(tree)
  ]


def assert_same(got, expected):
  """Structure, shapes, dtypes and every bit."""
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(numbers(got), numbers(expected), strict=True):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


_DAMAGES = dict(cut=cut, deleted=pathlib.Path.unlink)


def read_damaged(workdir):
  """{(damage, file of step 2): why it cannot be read then; None if it can}.

  Raises:
    AssertionError: it was read, and wrong.
  """
  jax.config.update('jax_platforms', 'cpu')
  states, whole, results = workdir / 'checkpoints', workdir / 'whole', {}
  shutil.copytree(states, whole)
  _, like = make_state(seed=5)
  with checkpoint.Checkpoints(workdir) as saved:
    expected, _ = saved.restore(like)
  files = [path for path in states.rglob('2/**/*') if path.is_file()]
  for path, (name, damage) in itertools.product(files, _DAMAGES.items()):
    damage(path)
    message = None
    with checkpoint.Checkpoints(workdir) as saved:
      try:
        assert_same(saved.restore(like)[0], expected)
      except ValueError as error:
        message = str(error)
    results[name, path.relative_to(states / '2')] = message
    shutil.rmtree(states)
    shutil.copytree(whole, states)
  return results


class StatesTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.model, self.state = make_state()
    _, self.like = make_state(seed=5)
    self.states = self.workdir / 'checkpoints'

  def save(self, *steps, keep=2):
    with checkpoint.Checkpoints(self.workdir, keep=keep) as saved:
      for step in steps:
        params = jax.tree.map(lambda a, n=step: a + n, self.state.params)
        saved.save(
            step, self.state._replace(params=params),
            {'step': step, 'tasks': {'a': 'f00'}},
        )

  def test_round_trip_is_bit_for_bit(self):
    with checkpoint.Checkpoints(self.workdir) as saved:
      self.assertIsNone(saved.latest)
      saved.save(4, self.state, {'step': 4, 'tasks': {'a': 'f00'}})
    with checkpoint.Checkpoints(self.workdir) as saved:
      self.assertEqual(saved.latest, 4)
      state, data = saved.restore(self.like)
    assert_same(state, self.state)
    self.assertEqual(data, {'step': 4, 'tasks': {'a': 'f00'}})
    # `like` gives no numbers, only shapes.
    for a, b in zip(numbers(self.like.params), numbers(state.params),
                    strict=True):
      self.assertFalse(np.array_equal(a, b) and a.std() > 0)
    # The restored keys draw what the saved ones would have drawn.
    for get in (lambda s: s.key, lambda s: s.opt_state[0].weighting_state):
      self.assertEqual(
          jax.random.bits(get(state)), jax.random.bits(get(self.state))
      )
      self.assertNotEqual(
          jax.random.bits(get(state)), jax.random.bits(get(self.like))
      )

  def test_parameters_alone_of_the_newest(self):
    self.save(1, 2)
    with checkpoint.Checkpoints(self.workdir) as saved:
      params = saved.restore_params(self.like.params)
    assert_same(params, jax.tree.map(lambda a: a + 2, self.state.params))

  def test_no_parameters_yet(self):
    with checkpoint.Checkpoints(self.workdir) as saved:
      with self.assertRaisesRegex(ValueError, f'{self.states} holds no check'):
        saved.restore_params(self.like.params)

  @parameterized.parameters((1, ['4']), (2, ['3', '4']), (9, list('1234')))
  def test_keeps_the_newest(self, keep, expected):
    self.save(1, 2, 3, 4, keep=keep)
    present = [path.name for path in self.states.iterdir()]
    self.assertCountEqual(present, expected)

  @parameterized.parameters(
      # Kept are the last two and the best, of equal ones the newest; a step
      # that was not evaluated is never the best.
      ([0.1, 0.5, 0.2, 0.3, 0.4], '2', '245'),
      ([0.9, 0.5, 0.2, 0.9, 0.4], '4', '45'),
      ([0.1, None, 0.2, None, None], '3', '345'),
  )
  def test_keeps_the_best(self, scores, best, expected):
    with checkpoint.Checkpoints(self.workdir, best='heldout') as saved:
      for step, score in enumerate(scores, 1):
        params = jax.tree.map(lambda a, n=step: a + n, self.state.params)
        scored = score and dict(heldout=score, other=-score)
        saved.save(
            step, self.state._replace(params=params), {'step': step}, scored
        )
    present = [path.name for path in self.states.iterdir()]
    self.assertCountEqual(present, expected)
    # What a run resumes from is the newest.
    with checkpoint.Checkpoints(self.workdir, best='heldout') as saved:
      self.assertEqual(saved.latest, 5)
      self.assertEqual(saved.find('best'), int(best))
      self.assertEqual(saved.find(''), 5)
      params = saved.restore_params(self.like.params, 'best')
      self.assertEqual(saved.restore_data('best'), {'step': int(best)})
    assert_same(
        params, jax.tree.map(lambda a: a + int(best), self.state.params)
    )

  def test_keeps_the_lowest(self):
    values = [0.4, -0.2, math.nan, 0.1, -math.inf]
    with checkpoint.Checkpoints(
        self.workdir, keep=1, best='-loss/a'
    ) as saved:
      for step, value in enumerate(values, 1):
        saved.save(step, self.state, {}, {'loss/a': value, 'heldout': step})
    # What is no number is never the best.
    present = [path.name for path in self.states.iterdir()]
    self.assertCountEqual(present, '25')
    with checkpoint.Checkpoints(self.workdir, best='-loss/a') as saved:
      self.assertEqual(saved.find('best'), 2)

  def test_finds_no_other(self):
    self.save(1, 2)
    with checkpoint.Checkpoints(self.workdir) as saved:
      self.assertEqual(saved.find('1'), 1)
      with self.assertRaisesRegex(ValueError, "no checkpoint '7'.* are 1, 2"):
        saved.find('7')
      with self.assertRaisesRegex(ValueError, "checkpoint.best='heldout'"):
        saved.find('best')

  @parameterized.parameters(
      ('runs/a', ('runs/a', '')), ('runs/a@40', ('runs/a', '40')),
      ('gs://b/a@best', ('gs://b/a', 'best')), ('a@b/c', ('a@b/c', '')),
      ('a@b@best', ('a@b', 'best')), ('a@bests', ('a@bests', '')),
  )
  def test_which_checkpoint_a_path_names(self, path, expected):
    folder, which = checkpoint.split_step(path)
    self.assertEqual((os.fspath(folder), which), expected)

  def test_a_step_is_saved_once(self):
    self.save(1)
    before = snapshot(self.states)
    self.save(1)
    self.assertEqual(snapshot(self.states), before)

  @pytest.mark.slow
  def test_damage_to_any_file_is_named_or_harmless(self):
    self.save(1, 2)
    # In a process of its own: Orbax's readers that are still at work when one
    # of them fails complain about that long after.
    with futures.ProcessPoolExecutor(
        1, multiprocessing.get_context('spawn')
    ) as pool:
      results = pool.submit(read_damaged, self.workdir).result()
    for (damage, path), message in results.items():
      if message is not None:
        self.assertStartsWith(
            message, f'checkpoint {self.states / "2"} cannot be read; ',
            f'{path} {damage}',
        )
        self.assertIn('Remove that folder to go on', message)
        self.assertNotIn('\n', message)
    refused = {
        (damage, path.parts[0])
        for (damage, path), message in results.items() if message
    }
    self.assertContainsSubset(
        set(itertools.product(_DAMAGES, ('params', 'rest', 'data'))), refused
    )

  def test_goes_on_as_the_message_says(self):
    self.save(1, 2)
    (self.states / '2' / 'data' / 'metadata').write_text('{"cut')
    with checkpoint.Checkpoints(self.workdir) as saved:
      with self.assertRaisesRegex(ValueError, 'Remove that folder'):
        saved.restore(self.like)
    shutil.rmtree(self.states / '2')
    with checkpoint.Checkpoints(self.workdir) as saved:
      state, data = saved.restore(self.like)
    self.assertEqual(data['step'], 1)
    assert_same(
        state.params, jax.tree.map(lambda a: a + 1, self.state.params)
    )

  def test_parameters_of_another_model_are_refused(self):
    self.save(1)
    like = self.like.params | dict(head=jnp.ones(3))
    with checkpoint.Checkpoints(self.workdir) as saved:
      with self.assertRaisesRegex(ValueError, f'{self.states / "1"} cannot be'):
        saved.restore_params(like)

  def test_model_of_a_workdir(self):
    models.save_model(self.model, self.workdir / 'model', ByT5Tokenizer())
    self.save(1, 2)
    model, params, tokenizer = checkpoint.load_model(self.workdir)
    self.assertEqual(model, self.model)
    assert_same(params, jax.tree.map(lambda a: a + 2, self.state.params))
    self.assertEqual(tokenizer.encode('ab'), ByT5Tokenizer().encode('ab'))

  def test_model_of_a_huggingface_directory(self):
    models.save(self.model, self.state.params, self.workdir, ByT5Tokenizer())
    model, params, _ = checkpoint.load_model(self.workdir)
    self.assertEqual(model, self.model)
    assert_same(params, self.state.params)

  def test_model_of_nothing(self):
    with self.assertRaisesRegex(FileNotFoundError, f'{self.workdir} holds no'):
      checkpoint.load_model(self.workdir)


if __name__ == '__main__':
  absltest.main()
