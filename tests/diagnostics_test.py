"""Shares, cosines and tables by hand; intervals by simulation."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl


class SharesTest(parameterized.TestCase):

  def test_equal_the_projections_of_vectors(self):
    rows = np.random.default_rng(0).normal(size=(4, 6))
    rows[1] = rows[1] / 10 - rows[0]
    weights = np.array([2.0, 1.0, 1.0, 0.0])
    update = weights @ rows
    expected = weights * (rows @ update) / (update @ update)
    got = gl.shares(gl.gram(jnp.asarray(rows)), jnp.asarray(weights))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.sum(), 1, rtol=1e-5)
    self.assertLess(expected.min(), -0.02)  # A share may be negative.

  def test_of_a_zero_update(self):
    np.testing.assert_array_equal(
        gl.shares(jnp.zeros((2, 2)), jnp.ones(2)), [0, 0]
    )

  def test_weights_may_undo_any_scale(self):
    lengths = jnp.array([1e10, 1e-10])
    gram_KxK = jnp.diag(lengths**2)
    got = gl.shares(gram_KxK, 1 / lengths)
    np.testing.assert_allclose(got, [0.5, 0.5], rtol=1e-6)


class CosinesTest(parameterized.TestCase):

  def test_equal_those_of_vectors(self):
    rows = np.random.default_rng(0).normal(size=(3, 6)) * [[1e-9], [1], [1e9]]
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    got = gl.cosines(gl.gram(jnp.asarray(rows, jnp.float32)))
    np.testing.assert_allclose(got, units @ units.T, rtol=1e-4, atol=1e-6)

  def test_are_undefined_without_a_length(self):
    gram_KxK = jnp.array([[4.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, -1.0]])
    nan = np.nan
    np.testing.assert_array_equal(
        gl.cosines(gram_KxK), [[1, nan, nan], [nan] * 3, [nan] * 3]
    )


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


class SummaryTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    # Two tasks of two splits; inner products with the update by hand below.
    self.gram_RxR = jnp.array([
        [8.0, 4.0, 1.0, 0.0],
        [4.0, 8.0, 0.0, 1.0],
        [1.0, 0.0, 2.0, 1.0],
        [0.0, 1.0, 1.0, 2.0],
    ])

  def test_numbers(self):
    summary = gl.summarize(
        self.gram_RxR, jnp.array([0.5, 1.0]), num_splits=2,
        names=['code', 'math'], loss_shares_K=jnp.array([0.8, 0.2]),
    )
    expected = {
        'norm_sq/naive/code': 24, 'norm_sq/naive/math': 6,
        # Twice the sum of the two products between splits.
        'norm_sq/unbiased/code': 16, 'norm_sq/unbiased/math': 4,
        'intrinsic_norm_sq/naive/code': 24 / 0.64,
        'intrinsic_norm_sq/naive/math': 6 / 0.04,
        'intrinsic_norm_sq/unbiased/code': 16 / 0.64,
        'intrinsic_norm_sq/unbiased/math': 4 / 0.04,
        # Naive products 24, 2, 6: the update has length^2 34, then 6 + 2 + 6.
        'share/before/code': 26 / 34, 'share/before/math': 8 / 34,
        'share/after/code': 7 / 14, 'share/after/math': 7 / 14,
        'weight/code': 0.5, 'weight/math': 1,
        # The tasks have products in equal splits only: shared noise.
        'cosine/code/math': 0,
        'imbalance': 4,
    }
    self.assertEqual(set(summary), set(expected))
    for tag, value in expected.items():
      np.testing.assert_allclose(summary[tag], value, rtol=1e-6, err_msg=tag)
      self.assertIsInstance(summary[tag], float)

  def test_the_table_is_aligned_and_in_the_order_of_names(self):
    summary = gl.summarize(
        self.gram_RxR, jnp.array([0.5, 1.0]), num_splits=2,
        names=['z', 'a long name'], loss_shares_K=jnp.array([0.8, 0.2]),
    )
    *lines, closing = str(summary).splitlines()
    self.assertLen({len(line) for line in lines}, 1)
    self.assertEqual(lines[0].split(maxsplit=1), ['z', 'a long name'])
    self.assertEqual(lines[2].split(), ['norm^2', 'unbiased', '16', '4'])
    self.assertEqual(lines[4].split(), ['intrinsic', 'unbiased', '25', '100'])
    self.assertEqual(
        closing, 'imbalance 4: unbiased squared norm of z over a long name'
    )

  def test_without_splits_the_unbiased_norm_is_not_available(self):
    summary = gl.summarize(
        jnp.array([[9.0, 3.0], [3.0, 4.0]]), jnp.ones(2), num_splits=1,
        names=['code', 'math'],
    )
    self.assertNotIn('norm_sq/unbiased/code', summary)
    self.assertNotIn('intrinsic_norm_sq/naive/code', summary)
    np.testing.assert_allclose(summary['cosine/code/math'], 0.5, rtol=1e-6)
    table = str(summary)
    self.assertRegex(table, r'norm\^2 unbiased +n/a +n/a\n')
    self.assertNotIn('intrinsic', table)
    self.assertIn('imbalance 2.25: naive squared norm of code over math', table)

  def test_a_norm_below_zero_has_no_ratio(self):
    gram_RxR = self.gram_RxR.at[2, 3].set(-1.0).at[3, 2].set(-1.0)
    summary = gl.summarize(
        gram_RxR, jnp.ones(2), num_splits=2, names=['code', 'math']
    )
    self.assertEqual(summary['norm_sq/unbiased/math'], -4)
    self.assertTrue(np.isnan(summary['imbalance']))
    self.assertRegex(str(summary), r'cosine math +n/a')
    self.assertIn('imbalance n/a: unbiased', str(summary))

  def test_an_empty_task_has_no_intrinsic_norm(self):
    summary = gl.summarize(
        jnp.diag(jnp.array([4.0, 0.0])), jnp.ones(2), num_splits=1,
        names=['code', 'math'], loss_shares_K=jnp.array([1.0, 0.0]),
    )
    self.assertTrue(np.isnan(summary['intrinsic_norm_sq/naive/math']))
    self.assertEqual(summary['intrinsic_norm_sq/naive/code'], 4)

  def test_a_task_under_two_names(self):
    # The rows are the same, noise included.
    rng = np.random.default_rng(0)
    rows = jnp.asarray(np.tile(rng.normal(size=(2, 30)) + 0.5, (2, 1)))
    summary = gl.summarize(
        jax.jit(gl.gram)(rows), jnp.ones(2), num_splits=2, names=['a', 'b']
    )
    for tag, value in (('cosine/a/b', 1), ('imbalance', 1)):
      np.testing.assert_allclose(summary[tag], value, rtol=1e-5)

  @parameterized.parameters(
      (1, ['a', 'b'], r'shape \(4, 4\)'),
      (2, ['a', 'b', 'c'], 'for 3 names'),
      (2, ['a', 'a'], 'name of its own'),
  )
  def test_misuse(self, num_splits, names, message):
    with self.assertRaisesRegex(ValueError, message):
      gl.summarize(
          self.gram_RxR, jnp.ones(2), num_splits=num_splits, names=names
      )


if __name__ == '__main__':
  absltest.main()
