"""A run that is killed, or asked to end, comes to the very same end."""

import json
import pathlib
import re
import signal
import tempfile

from absl.testing import absltest
import jax
import numpy as np
from program import Program
import pytest

from gradlens.workdir import checkpoint

# The correction draws from a key of its own. Checkpoints after steps 3, 6, 8;
# evaluations at other steps than these.
_STEPS = 'num_steps=8,checkpoint.every=3,evaluate.every=4'
_GRPO = f'{_STEPS},correction=pcgrad,optimizer.learning_rate=1e-2'
_SUPERVISED = f'{_STEPS},objective=supervised,instrument_every=2'


def started(workdir):
  """Whether a run has come to its loop."""
  return (workdir / 'tensorboard').exists()


def recorded(workdir):
  """Whether a step is in the history."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().split('\n')[:-1] if path.exists() else []
  return any('"update_norm"' in line for line in lines)


def saving(step):
  """Whether the checkpoint of a step is being written."""
  return lambda workdir: any(
      'tmp' in path.name for path in (workdir / 'checkpoints').glob(f'{step}*')
  )


def records(workdir):
  """Every line of the history, without what the clock says."""
  text = (workdir / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  for line in lines:
    for tag in [t for t in line.get('scalars', {}) if 'seconds/' in t]:
      del line['scalars'][tag]
  return lines


def evaluations(workdir):
  return {
      path.name: {task: r.tobytes() for task, r in np.load(path).items()}
      for path in (workdir / 'evals').iterdir()
  }


@pytest.mark.slow
class ResumeTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.whole = {_GRPO: cls.root / 'grpo', _SUPERVISED: cls.root / 'supervised'}
    for program in [cls.start(path, arg) for arg, path in cls.whole.items()]:
      program.ends(0)

  @classmethod
  def start(cls, workdir, arg):
    return Program(workdir, arg)

  def assert_comes_to_the_same_end(self, workdir, arg):
    whole = self.whole[arg]
    self.start(workdir, arg).ends(0)
    got, expected = (checkpoint.load_model(w)[1] for w in (workdir, whole))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    # NaN, which is equal to itself here, stands for what is undefined.
    np.testing.assert_equal(records(workdir), records(whole))
    self.assertEqual(evaluations(workdir), evaluations(whole))
    self.assertCountEqual(
        [path.name for path in (workdir / 'checkpoints').iterdir()], ['6', '8']
    )
    # The comparison would show a run that went another way.
    line = [line for line in records(workdir) if line['step'] == 8][0]
    self.assertGreater(line['scalars']['update_norm'], 0)

  def test_stopped_three_times(self):
    workdir = self.root / 'stopped'
    self.start(workdir, _GRPO).send_when(recorded, signal.SIGKILL)

    (workdir / 'tensorboard').rename(workdir / 'tensorboard_before')
    output = self.start(workdir, _GRPO).send_when(started, signal.SIGTERM)
    said = re.search(r'saved step (\d+); run again to go on', output)
    with checkpoint.Checkpoints(workdir) as saved:
      self.assertEqual(saved.latest, int(said[1]))
    self.assertLess(saved.latest, 6)

    self.start(workdir, _GRPO).send_when(saving(6), signal.SIGKILL)
    self.assertTrue((workdir / 'checkpoints' / '3').exists())
    self.assert_comes_to_the_same_end(workdir, _GRPO)

  def test_supervised_killed(self):
    workdir = self.root / 'killed_once'
    self.start(workdir, _SUPERVISED).send_when(saving(6), signal.SIGKILL)
    self.assertTrue((workdir / 'checkpoints' / '3').exists())
    self.assert_comes_to_the_same_end(workdir, _SUPERVISED)


if __name__ == '__main__':
  absltest.main()
