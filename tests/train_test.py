"""A training run: what it is given, what it records, and where it starts."""

import json
import os
import pathlib
import shutil
import signal
import tempfile
from unittest import mock

from absl.testing import absltest
from folders import snapshot
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

import gradlens as gl
from gradlens import tasks, train
from gradlens.report import history
from gradlens.setup import build
from gradlens.workdir import checkpoint


class Writer:
  """Keeps what it is given; at one step asks the process to end."""

  def __init__(self, ends_at=None):
    self.scalars, self.texts, self.flushed = {}, {}, 0
    self.ends_at = ends_at

  def write_scalars(self, step, scalars):
    self.scalars.setdefault(step, {}).update(scalars)
    if step == self.ends_at and 'heldout/long' in scalars:
      os.kill(os.getpid(), signal.SIGTERM)

  def write_texts(self, step, texts):
    self.texts.setdefault(step, {}).update(texts)

  def flush(self):
    self.flushed += 1


def by_step(series):
  """{tag: {step: value}} as {step: {tag: value}}."""
  steps = {}
  for tag, values in series.items():
    for step, value in values.items():
      steps.setdefault(step, {})[tag] = value
  return steps


def params(workdir):
  return checkpoint.load_model(workdir)[1]


def assert_same(got, expected):
  jax.tree.map(np.testing.assert_array_equal, got, expected)


def files(workdir):
  """What a run holds, without TensorBoard's files, one for every start."""
  return {
      name: content for name, content in snapshot(workdir).items()
      if not name.startswith('tensorboard/')
  }


@pytest.mark.slow
class TrainTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.workdir = pathlib.Path(root) / 'run'
    cls.mine = gl.stateless(lambda gram_KxK: jnp.array([0.5, 2.0]), 'mine')
    cls.writer = Writer()
    cls.run_ = train.train(
        tiny_config.get_config(), cls.workdir, weighting=cls.mine,
        writers=[cls.writer],
    )

  def setUp(self):
    super().setUp()
    self.new = pathlib.Path(self.create_tempdir().full_path) / 'run'

  def test_returns_the_history(self):
    self.assertEqual(self.run_.workdir, self.workdir)
    np.testing.assert_array_equal(self.run_.steps, [1, 2, 3, 4])
    self.assertEqual(self.run_.tasks, ['long', 'short'])
    self.assertCountEqual(self.run_.evals, [0, 2, 4])
    for rewards in self.run_.evals.values():
      self.assertEqual(
          {task: r.shape for task, r in rewards.items()},
          dict(long=(256,), short=(256,)),
      )
    self.assertEqual(self.run_.versions['jax'], jax.__version__)
    np.testing.assert_equal(
        self.run_.scalars, history.load(self.workdir).scalars
    )

  def test_the_given_weighting_is_used_and_recorded(self):
    np.testing.assert_array_equal(
        self.run_.per_task('weight'), [[0.5, 2.0]] * 4
    )
    self.assertEqual(self.run_.setting('correction.name'), 'mine')
    self.assertEqual(tiny_config.get_config().correction.name, 'total')

  def test_the_given_writer_sees_what_the_history_holds(self):
    # NaN, which is equal to itself here, stands for what is undefined.
    np.testing.assert_equal(self.writer.scalars, by_step(self.run_.scalars))
    self.assertEqual(self.writer.texts, by_step(self.run_.texts))
    self.assertCountEqual(self.writer.texts, [0, 2, 4])
    samples = json.loads(self.writer.texts[4]['samples/short'])
    self.assertCountEqual(
        samples[0], ['prompt', 'completion', 'answer', 'reward', 'reason']
    )
    self.assertGreater(self.writer.flushed, 0)

  def test_another_call_changes_nothing(self):
    before = files(self.workdir)
    writer = Writer()
    again = train.train(
        tiny_config.get_config(), self.workdir, weighting=self.mine,
        writers=[writer],
    )
    self.assertEqual(files(self.workdir), before)
    np.testing.assert_equal(again.scalars, self.run_.scalars)
    self.assertEmpty(writer.scalars)

  def test_starts_from_the_parameters_of_another_run(self):
    config = tiny_config.get_config(
        f'init_from={self.workdir},num_steps=1,evaluate.every=9'
    )
    # The first step's learning rate is 0, and leaves them as they were.
    run = train.train(config, self.new)
    self.assertEqual(run.scalars['learning_rate'], {1: 0.0})
    assert_same(params(self.new), params(self.workdir))
    for task in run.tasks:
      np.testing.assert_array_equal(
          run.evals[0][task], self.run_.evals[4][task]
      )
    drawn = build.load_model(tiny_config.get_config())[1]
    with self.assertRaises(AssertionError):
      assert_same(params(self.new), drawn)

  def test_measures_as_often_as_asked(self):
    losses, measured = {}, {}
    for every in (0, 1, 2):
      config = tiny_config.get_config(
          'objective=supervised,num_steps=3,optimizer.learning_rate=1e-2,'
          f'instrument_every={every}'
      )
      run = train.train(config, self.new / str(every))
      losses[every] = run.per_task('loss')
      measured[every] = sorted(run.scalars.get('norm_sq/naive/long', {}))
      for tag in ('norm_sq/unbiased/short', 'weight/long', 'share/after/long'):
        self.assertEqual(sorted(run.scalars.get(tag, {})), measured[every])
    self.assertEqual(measured, {0: [], 1: [1, 2, 3], 2: [1, 3]})
    # Measuring changes the rounding only.
    for every in (0, 2):
      np.testing.assert_allclose(losses[every], losses[1], rtol=1e-5)
    self.assertGreater(np.abs(losses[1][2] / losses[1][1] - 1).min(), 1e-3)

  def test_measuring_now_and_then_needs_an_uncorrected_run(self):
    config = tiny_config.get_config('instrument_every=2,correction=pcgrad')
    with self.assertRaisesRegex(ValueError, "instrument_every=2.*'pcgrad'"):
      train.train(config, self.new)
    config = tiny_config.get_config('instrument_every=0')
    with self.assertRaisesRegex(ValueError, "instrument_every=0.*'mine'"):
      train.train(config, self.new, weighting=self.mine)
    self.assertFalse(self.new.exists())

  def test_a_schedule_lasts_for_all_inner_epochs(self):
    config = tiny_config.get_config(
        'objective=supervised,inner_epochs=3,optimizer.schedule=cosine'
    )
    run = train.train(config, self.new)
    # From 0 over one step to 1e-3, and down to 0 over the other three.
    np.testing.assert_allclose(
        run.values('learning_rate'), [0, 1e-3, 7.5e-4, 2.5e-4], atol=1e-9
    )
    # In steps of 3 updates. In steps of one the schedule, over after 4
    # updates, would have left the third step without effect.
    norms = run.values('update_norm')
    self.assertEqual(norms[0], 0.0)
    self.assertGreater(norms[1:].min(), 1e-3)
    once = train.train(
        tiny_config.get_config(
            'objective=supervised,optimizer.schedule=cosine,num_steps=4'
        ), self.new.with_name('once'),
    )
    # Three updates on a batch go further down than one.
    after = [run.per_task('loss')[3].sum() for run in (run, once)]
    self.assertLess(after[0], after[1] - 1e-3)

  def test_what_is_done_again_has_the_same_places_and_nothing_else_has(self):
    places, whole = [], tasks.Late.places

    def noted(late, items):
      places.append(whole(late, items))
      return places[-1]

    # The policy stays as it is, and so do the completions of evaluations.
    config = tiny_config.get_config(
        'optimizer.learning_rate=0,evaluate.temperature=0,num_steps=2,'
        'evaluate.every=1,checkpoint.every=1'
    )
    with mock.patch.object(tasks.Late, 'places', noted):
      train.train(config, self.new)
      first = places.copy()
      places.clear()
      shutil.rmtree(self.new / 'checkpoints' / '2')
      train.train(config, self.new)
    # Evaluations at 0, 1 and 2, each with what is shown of both tasks, and two
    # steps; the second step and its evaluation once more.
    self.assertLen(first, 3 * (1 + 2) + 2)
    self.assertEqual(places, first[-4:])
    everywhere = [place for batch in first for place in batch]
    self.assertLen(set(everywhere), len(everywhere))

  def test_asked_to_end_while_it_evaluates_it_saves(self):
    config = tiny_config.get_config('checkpoint.every=100')
    before = signal.getsignal(signal.SIGTERM)
    run = train.train(config, self.new, writers=[Writer(ends_at=2)])
    np.testing.assert_array_equal(run.steps, [1, 2])
    with checkpoint.Checkpoints(self.new) as saved:
      self.assertEqual(saved.latest, 2)
    self.assertIs(signal.getsignal(signal.SIGTERM), before)


if __name__ == '__main__':
  absltest.main()
