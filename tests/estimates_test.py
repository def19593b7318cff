"""Estimates from Gram matrices: by hand, and over many seeded draws."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


class FloorGramTest(parameterized.TestCase):

  @parameterized.product(floor=(0.0, 0.1), scale=(1e-20, 1.0, 1e20))
  def test_eigenvalues_in_float64(self, floor, scale):
    gram = normal(3, 5, 5)
    gram = (gram + np.swapaxes(gram, 1, 2)) / 2 + 0.1 * np.eye(5)
    expected = []
    for matrix in gram:
      values, vectors = np.linalg.eigh(matrix)
      self.assertLess(values.min(), -0.4)
      self.assertGreater(np.trace(matrix), 0.1)
      raised = np.maximum(values, floor * np.trace(matrix) / 5)
      expected.append(vectors @ np.diag(raised) @ vectors.T)
    got = jax.jit(gl.floor_gram, static_argnums=1)(
        jnp.asarray(scale * gram, jnp.float32), floor
    )
    np.testing.assert_allclose(got / scale, expected, atol=1e-5)
    np.testing.assert_array_equal(got, np.swapaxes(got, 1, 2))

  def test_an_asymmetric_matrix_is_made_symmetric(self):
    np.testing.assert_allclose(
        gl.floor_gram(jnp.array([[2.0, 2.0], [0.0, 2.0]])),
        [[2, 1], [1, 2]], rtol=1e-6,
    )

  @parameterized.parameters((3, 10), (16, 4))
  def test_actual_gradients_keep_theirs(self, num_tasks, decades):
    # Rank 1 or 2. Eigenvalues of 0 come out as -1e-7 of the largest, more than
    # the squared norm of the smallest row.
    rows = np.logspace(-decades, decades, num_tasks)[:, None] * (
        normal(num_tasks, 2) @ normal(2, 4)
    )
    gram = gl.gram(jnp.asarray(rows, jnp.float32))
    np.testing.assert_allclose(gl.floor_gram(gram), gram, rtol=1e-6)

  def test_no_negative_diagonal_below_rounding(self):
    got = gl.floor_gram(jnp.diag(jnp.array([1e20, -1e5])))
    np.testing.assert_allclose(got, np.diag([1e20, 0]), rtol=1e-6)

  def test_without_any_length(self):
    np.testing.assert_array_equal(gl.floor_gram(jnp.zeros((2, 2)), 0.1), 0)

  def test_a_trace_below_0_is_no_floor(self):
    # Eigenvalues 1 along (1, 1) and -3, of which the mean is -1.
    np.testing.assert_allclose(
        gl.floor_gram(jnp.array([[-1.0, 2.0], [2.0, -1.0]]), 0.1),
        np.full((2, 2), 0.5), atol=1e-6,
    )

  @parameterized.parameters(-0.1, 1.1)
  def test_misuse(self, floor):
    with self.assertRaisesRegex(ValueError, 'between 0 and 1'):
      gl.floor_gram(jnp.eye(2), floor)

def noisy_rows(mean_N, noise_N, num_splits, draws, seed=0):
  """Rows g/S + e_s of one task, `[draws, S, N]`.

  The total noise is fixed: the S rows' sum has the covariance diag(noise_N).
  """
  rng = np.random.default_rng(seed)
  errors = rng.normal(size=(draws, num_splits, len(mean_N)))
  return mean_N / num_splits + errors * np.sqrt(noise_N / num_splits)


def grams_of(rows):
  return jax.vmap(gl.gram)(jnp.asarray(rows, jnp.float32))


class SquaredNormsTest(parameterized.TestCase):

  @parameterized.parameters(2, 4, 8)
  def test_the_variance_falls_with_the_number_of_splits(self, num_splits):
    # Rows x_s = m + e_s with m = g/S and Cov e_s = C/S, so that their sum, the
    # task's gradient estimate, has covariance C for every S. Then
    #   sum_{s != t} <x_s, x_t> = S(S-1)|m|^2 + 2(S-1) <m, sum_s e_s>
    #                             + 2 sum_{s < t} <e_s, e_t>.
    # The terms are uncorrelated, with the variances 0, 4(S-1)^2 m'Cm, and, of
    # S(S-1)/2 pairs, each 4 tr(C^2)/S^2: 2(S-1)/S tr(C^2). The estimate is this
    # times S/(S-1):
    #   Var = 4 S^2 m'Cm + 2 S/(S-1) tr(C^2) = 4 g'Cg + 2 S/(S-1) tr(C^2).
    # Here tr(C^2) = 5.44 and g'Cg = 0.036: 21.9, 14.7 and 12.6.
    mean_N = np.full(16, 0.05)
    noise_N = np.repeat([0.2, 0.4, 0.6, 0.75], 4)
    expected = 4 * mean_N @ (noise_N * mean_N) + (
        2 * num_splits / (num_splits - 1) * noise_N @ noise_N
    )
    draws = 20_000
    rows = noisy_rows(mean_N, noise_N, num_splits, draws)
    got = np.asarray(gl.squared_norms(grams_of(rows), num_splits))[:, 0]
    centered_sq = np.square(got.astype(np.float64) - got.mean())
    error = centered_sq.std() / np.sqrt(draws)
    # Four standard errors are 6% of it or less: no S passes for another.
    self.assertLess(4 * error, 0.06 * expected)
    self.assertLess(abs(centered_sq.mean() - expected), 4 * error)

  def test_unbiased_at_low_snr_where_naive_is_not(self):
    # ||g||^2 = 0.04 beside a noise trace of 7.8.
    mean_N, noise_N = np.full(16, 0.05), np.repeat([0.2, 0.4, 0.6, 0.75], 4)
    draws = 20_000
    for num_splits in (2, 4):
      gram_MxRxR = grams_of(noisy_rows(mean_N, noise_N, num_splits, draws))
      z = {}
      for kind in ('naive', 'unbiased'):
        got = np.asarray(gl.squared_norms(gram_MxRxR, num_splits, kind))
        z[kind] = (got.mean() - 0.04) / (got.std() / np.sqrt(draws))
      self.assertLess(abs(z['unbiased']), 4)
      self.assertGreater(z['naive'], 100)

  def test_is_a_diagonal(self):
    rows = normal(2, 3, 6, 5)
    gram = np.einsum('abrn,absn->abrs', rows, rows)
    got = gl.squared_norms(jnp.asarray(gram), 3, 'naive')
    tasks = rows.reshape(2, 3, 2, 3, 5).sum(axis=3)
    np.testing.assert_allclose(got, np.sum(tasks**2, axis=-1), rtol=1e-5)


class NoiseTest(parameterized.TestCase):

  @parameterized.parameters(2, 3)
  def test_trace_is_the_spread_of_the_rows(self, num_splits):
    rows = normal(4, 2, num_splits, 5) + 1.0
    gram = grams_of(rows.reshape(4, 2 * num_splits, 5))
    # The covariance of a sum of S independent rows is S times that of one row.
    expected = num_splits * np.var(rows, axis=2, ddof=1).sum(axis=-1)
    np.testing.assert_allclose(
        jax.jit(gl.noise_trace, static_argnums=1)(gram, num_splits), expected,
        rtol=1e-4,
    )

  @parameterized.parameters(2, 4)
  def test_trace_is_unbiased(self, num_splits):
    noise_N = np.repeat([0.2, 0.4, 0.6, 0.75], 4)  # trace 7.8
    draws = 20_000
    rows = noisy_rows(np.full(16, 0.5), noise_N, num_splits, draws)
    got = np.asarray(gl.noise_trace(grams_of(rows), num_splits))
    error = got.std() / np.sqrt(draws)
    self.assertLess(error, 0.03)
    self.assertLess(abs(got.mean() - 7.8), 4 * error)

  @parameterized.parameters(1e-20, 1.0, 1e20)
  def test_at_any_scale(self, scale):
    # Squared norms, naive and unbiased: 10 + 4 and 8; 10 - 4 and -8.
    gram = scale * jnp.array([
        [5.0, 2.0, 9.0, 9.0],
        [2.0, 5.0, 9.0, 9.0],
        [9.0, 9.0, 5.0, -2.0],
        [9.0, 9.0, -2.0, 5.0],
    ])
    np.testing.assert_allclose(
        gl.noise_trace(gram, 2), [scale * 6, scale * 14], rtol=1e-6
    )
    np.testing.assert_allclose(gl.snr(gram, 2), [8 / 6, -8 / 14], rtol=1e-6)
    np.testing.assert_allclose(
        gl.critical_batch_size(gram, 2, 8), [6, np.nan], rtol=1e-6
    )

  def test_rounding_is_not_below_0(self):
    gram = grams_of(np.repeat(normal(50, 1, 7), 3, axis=1))
    naive = gl.squared_norms(gram, 3, 'naive')
    self.assertLess(jnp.min(naive - gl.squared_norms(gram, 3)), 0)
    got = gl.noise_trace(gram, 3)
    np.testing.assert_array_less(-1e-30, got)
    np.testing.assert_array_less(got, 1e-6 * naive)

  def test_nothing_to_divide_by(self):
    same = jnp.full((2, 2), 3.0)  # Both halves alike: no noise was seen.
    self.assertTrue(np.isnan(gl.snr(same, 2)[0]))
    np.testing.assert_array_equal(gl.critical_batch_size(same, 2, 4), [0])
    # No signal was seen: products of halves add up to 0, and to less.
    for inner in (0.0, -1.0):
      noise = jnp.array([[3.0, inner], [inner, 3.0]])
      self.assertTrue(np.isnan(gl.critical_batch_size(noise, 2, 4)[0]))
    np.testing.assert_allclose(gl.snr(noise, 2), [-4 / 8], rtol=1e-6)

  @parameterized.parameters(
      lambda gram: gl.noise_trace(gram, 1),
      lambda gram: gl.snr(gram, 1),
      lambda gram: gl.squared_norms(gram, 1),
      lambda gram: gl.critical_batch_size(gram, 1, 4),
  )
  def test_one_split_has_no_noise_to_compare(self, estimate):
    with self.assertRaisesRegex(ValueError, 'needs num_splits >= 2'):
      estimate(jnp.eye(4))


class CriticalBatchSizeTest(parameterized.TestCase):

  @parameterized.parameters((8, 2, 1.0), (8, 4, 1.0), (24, 2, 0.01))
  def test_equals_trace_over_squared_norm(self, num_prompts, num_splits, scale):
    # One prompt's gradient is g + e with a covariance of known trace, whatever
    # the batch. Task a: 12 / 0.5 = 24 prompts; task b: 4.8 / 0.8 = 6.
    rng = np.random.default_rng(num_prompts)
    draws, size = 8000, 12
    deviations = np.sqrt(np.repeat([[0.5, 1.5], [0.2, 0.6]], size // 2, axis=1))
    means = np.sqrt(np.array([[0.5], [0.8]]) / size) * np.ones((2, size))
    prompts_MxKxBxN = means[:, None] + deviations[:, None] * rng.normal(
        size=(draws, 2, num_prompts, size)
    )
    split = (draws, 2 * num_splits, num_prompts // num_splits, size)
    rows = scale * prompts_MxKxBxN.reshape(split).sum(axis=2) / num_prompts
    gram_MxRxR = grams_of(rows)
    got, low, high = gl.jackknife(
        lambda gram: gl.critical_batch_size(
            jnp.asarray(gram.mean(axis=0)), num_splits, num_prompts
        ),
        np.asarray(gram_MxRxR).reshape(20, -1, *gram_MxRxR.shape[1:]).mean(1),
        level=0.999,
    )
    np.testing.assert_array_less(high - low, 0.3 * got)
    np.testing.assert_array_less(low, [24, 6])
    np.testing.assert_array_less([24, 6], high)

  def test_prompts_of_each_task(self):
    gram = jnp.kron(jnp.eye(2), jnp.array([[5.0, 1.0], [1.0, 5.0]]))
    np.testing.assert_allclose(
        gl.critical_batch_size(gram, 2, (16, 4)), [32, 8], rtol=1e-6
    )

  @parameterized.parameters(
      (15, 'positive multiple'), ((16, 3), 'positive multiple'),
      (0, 'positive multiple'), ((16, 16, 16), r'shape \(3,\) for 2 tasks'),
  )
  def test_misuse(self, num_prompts, message):
    with self.assertRaisesRegex(ValueError, message):
      gl.critical_batch_size(jnp.eye(4), 2, num_prompts)


if __name__ == '__main__':
  absltest.main()
