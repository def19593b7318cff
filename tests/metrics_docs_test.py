"""docs/metrics.md names all metrics that there are, and no others."""

import math
import re

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import metrics_test
from metrics_test import K, S
import numpy as np
from pages import ROOT

from gradlens import experience
from gradlens.workdir import record

NAMES = metrics_test._NAMES


def documented():
  rows = re.findall(
      r'^\| `([^`]+)` \|([^|]+)\|', (ROOT / 'docs/metrics.md').read_text(), re.M
  )
  assert all(formula.strip() for _, formula in rows), rows
  return [name for name, _ in rows]


def general(tag):
  """With TASK and BLOCK where a task's name and a block's are."""
  words = ['TASK' if word in NAMES else word for word in tag.split('/')]
  if words[0] in ('layer_norm_sq', 'layer_weight'):
    words[1] = 'BLOCK'
  if words[0] == 'reward_part':
    words[-1] = 'REWARD'
  return '/'.join(words)


class Writer:

  def __init__(self):
    self.scalars = {}

  def write_scalars(self, step, scalars):
    self.scalars[step] = scalars


def sampled(rewards=0.5):
  one_KxBxG = np.ones((K, S, 2))
  none_K = np.zeros(K, int)
  return experience.Sampled(
      None, np.ones((K, S), bool),
      experience.Drawn(
          rewards * one_KxBxG, one_KxBxG, one_KxBxG > 0,
          np.ones((K, S, 2, 2)), np.ones((K, S), bool),
      ),
      one_KxBxG, np.ones((K, S), bool), *[none_K] * 5,
      dict(rollout=1.0, verify=1.0),
  )


def recorder(window=1, rewards=(), names=NAMES, schedule=lambda step: 1e-3):
  writer = Writer()
  found = record.Recorder(
      record.Writers([writer]), lambda *unused: None,
      record.Gains(names, window, dict(rewards)), names,
      [['math', 'format']] * len(names), S, schedule,
  )
  return found, writer


class NamesTest(absltest.TestCase):

  def test_docs_and_steps_name_the_same_metrics(self):
    recording, writer = recorder()
    for step, weights in enumerate(
        (metrics_test._WEIGHTS_K, metrics_test._BY_LAYER, np.ones(K)), 1
    ):
      measured = metrics_test._measured(metrics_test._rows(), weights=weights)
      recording.push(step, sampled(), measured, 0.0)
    recording.flush()
    tags = {general(tag) for own in writer.scalars.values() for tag in own}
    names = documented()
    self.assertLen(set(names), len(names))
    # What an evaluation writes is no step's.
    self.assertEqual(tags | {'heldout/TASK'}, set(names))


class RecorderTest(absltest.TestCase):

  def test_nothing_is_asked_of_a_device_that_is_at_a_step(self):
    busy, places = jax.devices()[3], []

    def schedule(step):
      places.append(jnp.zeros(()).device)
      return 1e-3

    recording, writer = recorder(schedule=schedule)
    with jax.default_device(busy):
      measured = metrics_test._measured(metrics_test._rows())
      recording.push(1, sampled(), measured, 0.0)
      recording.flush()
      self.assertEqual(jnp.zeros(()).device, busy)
    self.assertEqual(places, [jax.devices('cpu')[0]])
    self.assertIn('learning_rate', writer.scalars[1])


class GainsTest(parameterized.TestCase):

  @parameterized.parameters(1, 3, 4)
  def test_the_mean_of_the_steps_after_less_that_of_those_before(self, window):
    rewards_T = np.random.default_rng(0).uniform(size=20)
    gains = record.Gains(['a'], window, {})
    for t, reward in enumerate(rewards_T):
      found = gains({'reward/a': reward})
      center = t - window
      if center < window:
        self.assertEmpty(found)
        continue
      want = (rewards_T[center + 1: center + window + 1].mean()
              - rewards_T[center - window: center].mean())
      self.assertAlmostEqual(found['learning_gain/a'], want, 12)

  def test_goes_on_where_it_was(self):
    rewards_T = np.random.default_rng(1).uniform(size=20).tolist()
    whole = record.Gains(['a'], 3, {})
    expected = [whole({'reward/a': reward}) for reward in rewards_T]
    for first in (0, 2, 5, 13):
      again = record.Gains(['a'], 3, {'a': rewards_T[:first]})
      found = [again({'reward/a': reward}) for reward in rewards_T[first:]]
      self.assertEqual(found, expected[first:])

  def test_steps_without_the_task_are_left_out(self):
    gains = record.Gains(['a'], 2, {'a': [0.5, math.nan, 0.25, math.nan]})
    self.assertEqual(gains({'reward/a': 1.0}), {'learning_gain/a': 0.5})
    gains = record.Gains(['a'], 1, {'a': [math.nan, 0.5]})
    self.assertTrue(math.isnan(gains({'reward/a': 1.0})['learning_gain/a']))


if __name__ == '__main__':
  absltest.main()
