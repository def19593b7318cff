"""A trace holds the steps that were asked for, and no others."""

import collections
import pathlib
import re
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import pytest
import tiny_config

from gradlens import hosts, train
from gradlens.workdir.profile import tracing


def named(name):
  """A compiled function whose calls a trace shows under a name."""
  def double(x):
    return 2 * x
  double.__name__ = name
  return jax.jit(double)


_STEPS = [named(f'step_{number}') for number in range(6)]


def traced(folder):
  """The events in each trace under a folder, counted by name."""
  found = []
  for path in sorted(pathlib.Path(folder).rglob('*.xplane.pb')):
    assert path.match('plugins/profile/*/*'), path  # where TensorBoard looks
    data = jax.profiler.ProfileData.from_file(str(path))
    found.append(collections.Counter(
        event.name
        for plane in data.planes for line in plane.lines
        for event in line.events
    ))
  return found


def steps_in(events):
  """Numbers of the steps that a trace holds, each called once."""
  found = {
      int(match[1]): count for event, count in events.items()
      if (match := re.fullmatch(r'PjitFunction\(step_(\d)\)', event))
  }
  assert set(found.values()) <= {2}, found
  return sorted(found)


class TracingTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = self.create_tempdir().full_path

  def run_steps(self, start, steps, first=0, fails_at=None):
    x = jnp.ones(())
    with tracing(self.folder, start=start, steps=steps) as before:
      for number in range(first, 6):
        before(number, x)
        if number == fails_at:
          raise OSError
        x = _STEPS[number](x)

  @parameterized.parameters(
      dict(start=1, steps=2, want=[1, 2]),
      dict(start=0, steps=1, want=[0]),
      # The run ends before the trace does.
      dict(start=4, steps=9, want=[4, 5]),
      # It goes on from the middle of what was to be traced.
      dict(start=1, steps=3, first=2, want=[2, 3]),
  )
  def test_exactly_these_steps(self, want, **kwargs):
    self.run_steps(**kwargs)
    events, = traced(self.folder)
    self.assertEqual(steps_in(events), want)

  @parameterized.parameters(
      dict(start=0, steps=0), dict(start=6, steps=3),
      dict(start=1, steps=2, first=3),
  )
  def test_none(self, **kwargs):
    self.run_steps(**kwargs)
    self.assertEmpty(list(pathlib.Path(self.folder).iterdir()))

  def test_first_host_only(self):
    with mock.patch.object(hosts, 'first', lambda: False):
      self.run_steps(1, 2)
    self.assertEmpty(list(pathlib.Path(self.folder).iterdir()))

  def test_ends_with_a_run_that_fails(self):
    with self.assertRaises(OSError):
      self.run_steps(1, 9, fails_at=3)
    events, = traced(self.folder)
    self.assertEqual(steps_in(events), [1, 2])
    # Nothing goes on: another trace can begin.
    with jax.profiler.trace(self.create_tempdir().full_path):
      pass

  @pytest.mark.slow
  def test_of_a_run_and_free_to_change_when_it_goes_on(self):
    config = tiny_config.get_config()
    config.profile.update(start=1, steps=2)
    run = train.train(config, self.folder)
    self.assertEqual(run.steps.tolist(), [1, 2, 3, 4])
    events, = traced(f'{self.folder}/tensorboard')
    # A call leaves two events, as in the tests above.
    self.assertEqual(events['PjitFunction(train_step)'], 4)
    config.profile.update(start=9, steps=1)
    train.train(config, self.folder)


if __name__ == '__main__':
  absltest.main()
