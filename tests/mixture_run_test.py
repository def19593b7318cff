"""Runs whose quotas are learned: what follows from what, and resuming."""

import pathlib
import shutil
import tempfile

from absl.testing import absltest
import jax
from metrics_docs_test import documented
import numpy as np
import pytest
import tiny_config

from gradlens import train
from gradlens.mixture import exact_quotas
from gradlens.report import history
from gradlens.workdir import checkpoint


def scalars(workdir):
  """Without what the clock says."""
  return {
      tag: values for tag, values in history.load(workdir).scalars.items()
      if not tag.startswith('seconds/')
  }


@pytest.mark.slow
class MixtureRunTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    root = self.enterContext(tempfile.TemporaryDirectory())
    self.workdir = pathlib.Path(root) / 'run'

  def run_(self, arg, **kwargs):
    config = tiny_config.get_config(f'evaluate.every=99,{arg}')
    config.mixture.kwargs = kwargs
    return train.train(config, self.workdir)

  def test_resumed_it_comes_to_the_same_end(self):
    arg = (
        'mixture.kind=sec,mixture.max_prompts=12,mixture.refill_rounds=1,'
        'num_steps=6,checkpoint.every=3,gain_window=2,seed=3'
    )
    run = self.run_(arg, temperature=0.1)
    quotas = run.per_task('prompts')
    np.testing.assert_array_equal(quotas.sum(1), 16)
    self.assertLessEqual(quotas.max(), 12)
    self.assertFalse((quotas % 2).any())
    np.testing.assert_array_equal(quotas[:2], 8)  # nothing is learned yet
    self.assertGreater(len(np.unique(quotas, axis=0)), 1)
    self.assertGreater(run.per_task('refilled').min(), 0)
    # One more for each prompt with equal rewards, and what was left is counted.
    equal = run.per_task('zero_advantage') * quotas
    np.testing.assert_allclose(run.per_task('refilled'), equal)
    left = run.per_task('unfilled')
    self.assertTrue((left <= equal).all())
    self.assertLess(left.sum(), equal.sum())
    expected = scalars(self.workdir)
    self.assertEqual(
        list(expected['learning_gain/long']), [5, 6]  # of steps 3 and 4
    )
    words = {tag.split('/')[0] for tag in run.scalars}
    self.assertContainsSubset(words, {t.split('/')[0] for t in documented()})
    params = checkpoint.load_model(self.workdir)[1]
    shutil.rmtree(self.workdir / 'checkpoints' / '6')
    self.run_(arg, temperature=0.1)
    np.testing.assert_equal(scalars(self.workdir), expected)
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.load_model(self.workdir)[1],
        params,
    )

  def test_quotas_follow_the_norms_of_two_steps_before(self):
    run = self.run_(
        'objective=supervised,mixture.kind=gradient,mixture.max_prompts=12,'
        'num_steps=6,optimizer.learning_rate=3e-2', power=8.0, smoothing=0.5,
        estimate='naive',
    )
    quotas = run.per_task('prompts').astype(int)
    norms = run.per_task('intrinsic_norm_sq/naive')
    np.testing.assert_array_equal(quotas[:2], 8)
    for t in range(2, 6):
      mean = 0.5 ** np.arange(t - 2, -1, -1) @ norms[: t - 1]
      want = exact_quotas(
          mean**4 / (mean**4).sum(), total=16, unit=2, most=12
      )
      np.testing.assert_array_equal(quotas[t], want)
    self.assertGreater(len(np.unique(quotas, axis=0)), 1)
    # All tokens that are learned from, and no others, are counted.
    np.testing.assert_allclose(
        run.per_task('tokens'), run.per_task('length') * quotas
    )


if __name__ == '__main__':
  absltest.main()
