"""Intervals: quantiles by tables, coverage by simulation."""

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np

import gradlens as gl


class JackknifeTest(parameterized.TestCase):

  def test_of_a_mean_is_the_t_interval(self):
    # Mean 3, standard error sqrt(2.5 / 5) = 0.70711, t_4(97.5%) = 2.77645; the
    # normal quantile 1.96 would give 1.614.
    estimate, low, high = gl.jackknife(np.mean, np.arange(1.0, 6.0))
    np.testing.assert_allclose(
        [estimate, low, high], [3, 3 - 1.96324, 3 + 1.96324], rtol=1e-5
    )

  @parameterized.parameters(
      # Tables of Student's t, two-sided.
      (0.95, 2, 12.7062), (0.95, 3, 4.30265), (0.95, 11, 2.22814),
      (0.95, 1001, 1.96234), (0.5, 2, 1.0), (0.99, 6, 4.03214),
  )
  def test_quantiles(self, level, num_blocks, quantile):
    # Of n blocks with one 1 and zeros else the mean's standard error is 1/n.
    blocks = np.eye(num_blocks)[0]
    estimate, _, high = gl.jackknife(np.mean, blocks, level=level)
    np.testing.assert_allclose(
        (high - estimate) * num_blocks, quantile, rtol=1e-5
    )

  def test_covers_the_truth_as_often_as_it_says(self):
    # The log ratio of two tasks' unbiased norms over 8 blocks, as in reports.
    # 1500 intervals: the standard error of the coverage is 0.6%. Intervals of
    # the normal quantile cover 90.8% here, outside the bounds.
    rng = np.random.default_rng(0)
    trials, num_blocks, truth = 1500, 8, np.log(4.0)

    def log_ratio(loud, quiet):
      return np.log(loud.mean(axis=0) / quiet.mean(axis=0))

    loud = 4.0 + rng.normal(size=(num_blocks, trials))
    quiet = 1.0 + 0.3 * rng.normal(size=(num_blocks, trials))
    _, low, high = gl.jackknife(log_ratio, loud, quiet)
    covered = np.mean((low < truth) & (truth < high))
    self.assertBetween(covered, 0.935, 0.965)

  def test_statistics_may_be_arrays_of_jax(self):
    grams = np.random.default_rng(0).normal(size=(6, 4, 4))

    def norms(grams):
      return jnp.diag(gl.task_gram(jnp.asarray(grams).mean(axis=0), 2))

    estimate, low, high = gl.jackknife(norms, grams)
    self.assertEqual(estimate.shape, (2,))
    expected = [grams[:, :2, :2].sum((1, 2)), grams[:, 2:, 2:].sum((1, 2))]
    for k, blocks in enumerate(expected):
      np.testing.assert_allclose(
          [low[k], high[k]], gl.jackknife(np.mean, blocks)[1:], rtol=1e-4
      )

  def test_misuse(self):
    with self.assertRaisesRegex(ValueError, r'got \[1\]'):
      gl.jackknife(np.mean, np.ones(1))
    with self.assertRaisesRegex(ValueError, r'got \[3, 4\]'):
      gl.jackknife(lambda x, y: x.mean(), np.ones(3), np.ones(4))


class OverStepsTest(parameterized.TestCase):

  def test_is_the_jackknife_over_blocks_of_consecutive_steps(self):
    # 7 steps in 3 blocks: 3, 2 and 2 of them. By the t table, 2 degrees.
    series_T = np.array([1.0, 2, 4, 8, 16, 32, 64])
    estimate, low, high = gl.over_steps(np.log, series_T, num_blocks=3)
    total = series_T.sum()
    without = np.log([
        (total - 7) / 4, (total - 24) / 5, (total - 96) / 5
    ])
    error = np.sqrt(2 / 3 * np.sum((without - without.mean()) ** 2))
    np.testing.assert_allclose(estimate, np.log(total / 7), rtol=1e-6)
    np.testing.assert_allclose(
        [estimate - low, high - estimate], 4.30265 * error, rtol=1e-5
    )

  def test_what_was_not_measured_is_left_out(self):
    rng = np.random.default_rng(0)
    one_T, two_T = rng.normal(size=(2, 12))
    measured = np.isin(np.arange(36), [0, 2, 3, *range(20, 29)])
    gaps = np.full((2, 36), np.nan)
    gaps[:, measured] = one_T, two_T
    gaps[:, 1] = np.inf
    expected = gl.over_steps(np.subtract, one_T, two_T, num_blocks=4)
    got = gl.over_steps(np.subtract, *gaps, num_blocks=4)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # One series alone lacks a step: its mean is over the others.
    missing_T = np.where(np.arange(12) == 5, np.inf, one_T)
    estimate, _, _ = gl.over_steps(np.subtract, missing_T, two_T, num_blocks=4)
    np.testing.assert_allclose(
        estimate, np.delete(one_T, 5).mean() - two_T.mean(), rtol=1e-6
    )

  @parameterized.parameters((0, np.nan), (1, 5.0))
  def test_too_few_steps_have_no_interval(self, num_steps, expected):
    got = gl.over_steps(np.asarray, np.full(num_steps, 5.0))
    np.testing.assert_array_equal(got, [expected, np.nan, np.nan])

  def test_blocks_cover_where_neighbors_are_alike(self):
    # Steps of an AR(1) process of coefficient 0.6, with half the mean of the
    # series as the truth. Blocks of 20 steps are nearly independent; intervals
    # from single steps are half as wide as they should be, and cover two
    # thirds. 2000 intervals: the standard error of the coverage is 0.6%.
    rng = np.random.default_rng(0)
    steps, trials = 200, 2000
    series = np.zeros((steps, trials))
    series[0] = rng.normal(size=trials) / np.sqrt(1 - 0.36)
    for t in range(1, steps):
      series[t] = 0.6 * series[t - 1] + rng.normal(size=trials)
    covered = {}
    for num_blocks in (10, steps):
      _, low, high = gl.over_steps(
          lambda mean: mean / 2, 3 + series, num_blocks=num_blocks
      )
      covered[num_blocks] = np.mean((low < 1.5) & (1.5 < high))
    self.assertBetween(covered[10], 0.92, 0.965)
    self.assertLess(covered[steps], 0.75)

  def test_misuse(self):
    with self.assertRaisesRegex(ValueError, r'lengths \[3, 4\]'):
      gl.over_steps(np.subtract, np.ones(3), np.ones(4))
    with self.assertRaisesRegex(ValueError, 'num_blocks=1'):
      gl.over_steps(np.asarray, np.ones(3), num_blocks=1)


class NormRatiosTest(parameterized.TestCase):

  def test_covers_all_pairs_as_often_as_it_says(self):
    # Runs of 40 steps, each of two rows a task; norms 16, 12 and 8 beside a
    # noise trace of 12. Intervals of 90% that hold for all three pairs at once,
    # whichever task comes out as the quietest: each is one of 96.7%. Single
    # ones of 90% hold for both ratios in 86%. 400 runs: the standard error of a
    # coverage of 90% is 1.5%.
    rng = np.random.default_rng(0)
    runs, norms_sq = 400, np.array([16.0, 12.0, 8.0])
    rows = rng.normal(size=(runs, 40, 3, 2, 6))
    rows += np.sqrt(norms_sq / 6)[:, None, None] / 2
    rows = rows.reshape(runs, 40, 6, 6)
    grams = rows @ np.swapaxes(rows, 2, 3)
    held = {}
    for kind in ('unbiased', 'naive'):
      covered = []
      for norms_sq_TxK in np.asarray(gl.squared_norms(grams, 2, kind)):
        ratio_K, low_K, high_K = gl.norm_ratios(norms_sq_TxK, level=0.9)
        truth_K = norms_sq / norms_sq[np.argmin(ratio_K)]
        covered.append(np.all((low_K <= truth_K) & (truth_K <= high_K)))
      held[kind] = np.mean(covered)
    self.assertBetween(held['unbiased'], 0.9, 0.98)
    # Noise in all norms draws the ratios towards 1.
    self.assertLess(held['naive'], 0.5)

  def test_is_a_ratio_of_averages(self):
    norms_sq_TxK = np.array([[8.0, 1.0], [9.0, 2.0], [8.0, 2.0], [7.0, 1.0]])
    ratio_K, low_K, high_K = gl.norm_ratios(norms_sq_TxK)
    # The mean of the ratios would be 5.9.
    np.testing.assert_allclose(ratio_K, [32 / 6, 1], rtol=1e-6)
    np.testing.assert_array_equal([low_K[1], high_K[1]], [1, 1])
    self.assertLess(low_K[0], 32 / 6)
    # Symmetric on the logarithm.
    np.testing.assert_allclose(low_K[0] * high_K[0], (32 / 6) ** 2, rtol=1e-6)

  def test_there_is_no_ratio_to_nothing(self):
    loud_T = np.full(8, 9.0)
    for quiet_T in (-np.ones(8), np.eye(8)[0] - 0.01, np.full(8, np.nan)):
      ratio_K, low_K, high_K = gl.norm_ratios(
          np.stack([loud_T, loud_T + 1, quiet_T], axis=1)
      )
      if np.isnan(quiet_T).all():  # Not measured: the others are compared.
        expected = [1, 10 / 9, np.nan]
      else:
        expected = [np.nan] * 3
      np.testing.assert_allclose(ratio_K, expected, rtol=1e-6)
      np.testing.assert_array_equal(np.isnan(low_K), np.isnan(ratio_K))
      np.testing.assert_array_equal(np.isnan(high_K), np.isnan(ratio_K))

  def test_an_interval_beyond_all_numbers(self):
    # Two steps: t = 12.7, times a standard error of 172 of the logarithm.
    ratio_K, low_K, high_K = gl.norm_ratios(np.array([[1, 1], [1e150, 1]]))
    np.testing.assert_allclose(ratio_K, [5e149, 1], rtol=1e-6)
    self.assertLess(low_K[0], 1e-100)
    self.assertBetween(high_K[0], 1e304, np.finfo(np.float64).max)

  def test_one_task(self):
    got = gl.norm_ratios(np.arange(1.0, 5.0)[:, None])
    np.testing.assert_array_equal(got, np.ones((3, 1)))


if __name__ == '__main__':
  absltest.main()
