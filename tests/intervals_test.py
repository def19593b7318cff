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


if __name__ == '__main__':
  absltest.main()
