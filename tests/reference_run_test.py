"""A run with a reference policy and several updates a step, and its end."""

import json
import pathlib
import shutil
import tempfile
from unittest import mock

from absl.testing import absltest
import jax
import numpy as np
import pytest
import tiny_config

from gradlens import measurement, train
from gradlens.workdir import checkpoint

ARG = (
    'loss.kl_coef=0.2,loss.importance_cap=2,num_mini_batches=2,inner_epochs=2,'
    'optimizer.learning_rate=1e-2'
)

def records(workdir):
  """What every step measured, without what the clock says."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  for line in found:
    for tag in [t for t in line.get('scalars', {}) if 'seconds/' in t]:
      del line['scalars'][tag]
  return found


@pytest.mark.slow
class RunTest(absltest.TestCase):

  def test_goes_on_to_the_very_same_end(self):
    root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    workdir = root / 'run'
    run = train.train(tiny_config.get_config(ARG), workdir)
    for name in ('short', 'long'):
      kl, clipped = (
          run.scalars[f'{tag}/{name}'] for tag in ('kl', 'clip_fraction')
      )
      # The warm-up's first step learns nothing, and stays at the reference.
      self.assertLess(kl[1], 1e-6)
      self.assertGreater(kl[4], 1e-4)
      self.assertGreaterEqual(min(clipped.values()), 0.0)
    end, seen = checkpoint.load_model(workdir)[1], records(workdir)
    # Back to step 2, where the policy is another than the reference.
    shutil.rmtree(workdir / 'checkpoints' / '4')
    half = checkpoint.load_model(workdir)[1]
    self.assertGreater(max(jax.tree.leaves(jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), half, end
    ))), 1e-4)
    train.train(tiny_config.get_config(ARG), workdir)
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.load_model(workdir)[1], end
    )
    self.assertEqual(records(workdir), seen)


class MeasureTest(absltest.TestCase):

  def test_measures_without_reference_and_masks(self):
    config = tiny_config.get_config(
        'loss.kl_coef=0.2,loss.mask_truncated=True,num_mini_batches=2'
    )
    with (
        mock.patch.object(
            measurement.build, 'setup', side_effect=ZeroDivisionError
        ) as setup,
        self.assertLogs('gradlens.measurement') as logs,
        self.assertRaises(ZeroDivisionError),
    ):
      measurement.measure(config, num_prompts=24, num_splits=3)
    (used,), _ = setup.call_args
    self.assertEqual(used.loss.kl_coef, 0.0)
    self.assertFalse(used.loss.mask_truncated)
    self.assertEqual(used.num_mini_batches, 1)
    said = ' '.join(logs.output)
    self.assertIn('without config.loss.kl_coef', said)
    self.assertIn('without config.loss.mask_truncated', said)
    self.assertEqual(config.loss.kl_coef, 0.2)


if __name__ == '__main__':
  absltest.main()
