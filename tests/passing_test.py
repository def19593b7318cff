"""Pass rates, against all subsets by hand and intervals by simulation."""

import itertools

from absl.testing import absltest, parameterized
import numpy as np

from gradlens.evaluation import passing


class PassAtKTest(parameterized.TestCase):

  @parameterized.product(total=(1, 2, 5), passes=(0, 1, 2, 5))
  def test_is_the_share_of_subsets_with_a_pass(self, total, passes):
    own = np.arange(total) < passes
    for k in range(1, total + 1):
      subsets = list(itertools.combinations(own.tolist(), k))
      want = sum(map(any, subsets)) / len(subsets)
      [got] = passing.pass_at_k(own[None], k)
      self.assertAlmostEqual(got, want, places=12)

  def test_many_completions(self):
    own = np.arange(1024) < 1
    [got] = passing.pass_at_k(own[None], 256)
    self.assertAlmostEqual(got, 0.25, places=9)

  @parameterized.parameters(0, 4, -1)
  def test_more_than_there_are(self, k):
    with self.assertRaisesRegex(ValueError, f'pass@{k} needs .* there are 3'):
      passing.pass_at_k(np.zeros((2, 3), bool), k)


class PassRateTest(parameterized.TestCase):

  @parameterized.parameters((7, 20), (0, 20), (20, 20), (1, 1))
  def test_of_one_completion_is_wilsons(self, passes, total):
    got = passing.pass_rate((np.arange(total) < passes)[:, None])
    # Where the score test does not reject: |p - x| = z sqrt(x (1 - x) / n).
    z, p = 1.959963984540054, passes / total
    bounds = np.roots([1 + z**2 / total, -2 * p - z**2 / total, p**2])
    want = p, *sorted(np.clip(bounds.real, 0, 1))
    np.testing.assert_allclose(got, want, atol=1e-9)

  def test_covers(self):
    # Prompts of all difficulties, four completions each: the mean is 1/2. A
    # count of completions would have 0.7 of the width, and cover 83%.
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
      hard_N = draw.beta(0.3, 0.3, 100)
      passed_NxG = draw.random((100, 4)) < hard_N[:, None]
      _, low, high = passing.pass_rate(passed_NxG)
      hits += low <= 0.5 <= high
    # 95% of 200, and three standard deviations of a binomial below and above.
    self.assertBetween(hits, 190 - 9.3, 190 + 9.3)

  def test_all_pass_or_none(self):
    estimate, low, high = passing.pass_rate(np.ones((50, 4), bool), 2)
    self.assertEqual((estimate, high), (1.0, 1.0))
    self.assertBetween(low, 0.9, 0.95)
    estimate, low, high = passing.pass_rate(np.zeros((50, 4), bool), 2)
    self.assertEqual((estimate, low), (0.0, 0.0))
    self.assertBetween(high, 0.05, 0.1)

  def test_the_same_every_time(self):
    passed_NxG = np.random.default_rng(1).random((30, 4)) < 0.4
    self.assertEqual(
        passing.pass_rate(passed_NxG, 2), passing.pass_rate(passed_NxG, 2)
    )

  def test_no_prompts(self):
    with self.assertRaisesRegex(ValueError, 'no prompts'):
      passing.pass_rate(np.zeros((0, 4), bool))


if __name__ == '__main__':
  absltest.main()
