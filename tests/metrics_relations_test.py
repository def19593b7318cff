"""How tasks lie to each other, step by step: conflict and rank."""

from absl.testing import absltest
from metrics_test import S, _measured, _rows, _tasks
import numpy as np

from gradlens.workdir import metrics

NAMES = ('a', 'b', 'c')
PROMPTS_K = np.full(3, S)


class RelationsTest(absltest.TestCase):

  def test_conflict_of_different_splits_and_rank_of_the_sum(self):
    rows = _rows()
    # Task c against task b in each split; a away from both.
    rows['embed'][2] = -rows['embed'][1]
    rows['layers'][2] = -rows['layers'][1]
    scalars = metrics.gradient_scalars(
        _measured(rows), S, NAMES, PROMPTS_K
    )
    pairs = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
      pairs.append(sum(
          np.sum(b[i, 0] * b[j, 1]) + np.sum(b[i, 1] * b[j, 0])
          for b in rows.values()
      ))
    self.assertLess(pairs[2], 0)
    self.assertAlmostEqual(
        scalars['conflict_rate'], np.mean(np.array(pairs) < 0), 5
    )
    tasks = _tasks(rows)
    values = np.maximum(np.linalg.eigvalsh(tasks @ tasks.T), 1e-300)
    shares = values / values.sum()
    want = np.exp(-np.sum(shares * np.log(shares)))
    self.assertLess(want, 2.01)
    np.testing.assert_allclose(scalars['effective_rank'], want, rtol=1e-4)

  def test_a_skipped_task_takes_no_part(self):
    rows = _rows()
    rows['embed'][1] = np.nan
    for block in rows.values():
      block[2] = -block[0]
    measured = _measured(rows, skipped_K=np.array([0, 1, 0]))
    scalars = metrics.gradient_scalars(measured, S, NAMES, PROMPTS_K)
    self.assertTrue(np.isfinite(scalars['effective_rank']))
    # Of three pairs only a-c is left, and it is in conflict.
    self.assertEqual(scalars['conflict_rate'], 1.0)
    # What its rows' products were does not matter, and is not a share.
    self.assertEqual(scalars['share/optimizer/b'], 0.0)
    self.assertAlmostEqual(scalars['share/optimizer/a'], 3 / 9, 6)

  def test_a_task_without_prompts_takes_no_part(self):
    rows = _rows()
    for block in rows.values():
      block[1], block[2] = 0.0, -2 * block[0]
    scalars = metrics.gradient_scalars(
        _measured(rows), S, NAMES, PROMPTS_K * [1, 0, 1]
    )
    self.assertEqual(scalars['conflict_rate'], 1.0)
    self.assertAlmostEqual(scalars['imbalance'], 4.0, 5)
    self.assertAlmostEqual(scalars['effective_rank'], 1.0, 4)
    # With prompts, and a gradient of 0 nevertheless, it has its part.
    scalars = metrics.gradient_scalars(_measured(rows), S, NAMES, PROMPTS_K)
    self.assertAlmostEqual(scalars['conflict_rate'], 1 / 3, 6)
    self.assertTrue(np.isnan(scalars['imbalance']))

  def test_of_one_task_alone_no_pair_is_left(self):
    scalars = metrics.gradient_scalars(
        _measured(_rows()), S, NAMES, PROMPTS_K * [0, 1, 0]
    )
    self.assertTrue(np.isnan(scalars['conflict_rate']))
    self.assertEqual(scalars['imbalance'], 1.0)


if __name__ == '__main__':
  absltest.main()
