"""The shipped weights: what they are, where they come from, and again."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest
import jax
import numpy as np
import pytest

from gradlens import models, tasks
from gradlens.configs import default, toy, warm_start
from gradlens.report import history
from gradlens.setup import build
from gradlens.workdir import checkpoint

ORIGIN = json.loads((models.WARM / 'training.json').read_text())

# What the best answer to all of a task's prompts scores: '92', '113', 'zdeedz'
# and 'eiiaieeres'.
CONSTANT = dict(
    angles=0.016, chain_sum=0.023, palindrome=0.051, spell_backward=0.137)

# Trains as `make warm-start` does, until its third step is written.
FIRST_STEPS = """
import os, signal, sys
from gradlens import train
from gradlens.configs import warm_start

class EndAfterThree:
  def write_scalars(self, step, scalars):
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)
  def write_texts(self, step, texts):
    pass
  def flush(self):
    pass

train.train(warm_start.get_config(), sys.argv[1], writers=[EndAfterThree()])
"""


def first_steps(workdir: pathlib.Path) -> tuple[dict, dict]:
  """Losses by task, and parameters, of a process of its own."""
  done = subprocess.run(
      [sys.executable, '-c', FIRST_STEPS, workdir], capture_output=True,
      text=True, env=os.environ | {'JAX_PLATFORMS': 'cpu'})
  assert done.returncode == 0, done.stderr
  run = history.load(workdir)
  losses = {task: run.values(f'loss/{task}') for task in run.tasks}
  return losses, checkpoint.load_model(workdir)[1]


class ShippedTest(absltest.TestCase):

  def test_config_is_the_one_in_the_repository(self):
    config = warm_start.get_config()
    # Keys that came after the training have the value that changes nothing.
    trained = default.get_config()
    trained.update(ORIGIN['config'])
    trained.compute.remat = config.compute.remat  # memory, and no number
    self.assertEqual(*(json.loads(c.to_json()) for c in (config, trained)))
    self.assertEqual(config.num_steps, ORIGIN['steps'])

  def test_data_has_the_recorded_hash(self):
    loaded = build.load_tasks(toy.get_config())
    self.assertEqual(
        {task.name: tasks.fingerprint(task) for task in loaded}, ORIGIN['data'])

  def test_every_task_is_begun_and_none_is_finished(self):
    for task, reward in ORIGIN['heldout'].items():
      with self.subTest(task):
        self.assertBetween(reward['last'], 0.1 + CONSTANT[task], 0.7)

  def test_weights_are_small_and_finite(self):
    files = list(models.WARM.glob('*.safetensors'))
    self.assertLess(sum(file.stat().st_size for file in files), 8e6)
    _, params = models.load(models.WARM)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    self.assertBetween(sum(sizes), 0.5e6, 3e6)
    for leaf in jax.tree.leaves(params):
      self.assertTrue(np.isfinite(leaf).all())


@pytest.mark.slow
class AgainTest(absltest.TestCase):

  def test_first_steps_repeat_bit_for_bit(self):
    with tempfile.TemporaryDirectory() as folder:
      folder = pathlib.Path(folder)
      losses, params = first_steps(folder / 'one')
      losses_2, params_2 = first_steps(folder / 'two')
    jax.tree.map(np.testing.assert_array_equal, params, params_2)
    self.assertEqual(set(losses), set(ORIGIN['losses']))
    for task, recorded in ORIGIN['losses'].items():
      np.testing.assert_array_equal(losses[task], losses_2[task])
      # On another processor sums are rounded in another order.
      np.testing.assert_allclose(losses[task][:3], recorded[:3], rtol=1e-4)
      # They fall, by more than the tolerance: 0.012 and more in five steps.
      self.assertGreater(recorded[0] - recorded[4], 0.01)


if __name__ == '__main__':
  absltest.main()
