"""Signal and noise of task gradients: unbiased, and as variable as derived."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl

SIZE, NOISE = 20, 1.5  # parameters, and the noise of each of the task's entries
TRACE = SIZE * NOISE**2


def draws(num_draws, num_splits, signal_sq, seed=0):
  """Gram matrices of one task's rows, `[T, S, S]`.

  Row s is g / S + e_s with e_s ~ N(0, NOISE^2 / S): whatever S, the rows sum to
  g + e with the noise of NOISE^2 in each of SIZE entries.
  """
  rng = np.random.default_rng(seed)
  signal = np.full(SIZE, np.sqrt(signal_sq / SIZE))
  noise = rng.normal(size=(num_draws, num_splits, SIZE)) * NOISE
  rows = signal / num_splits + noise / np.sqrt(num_splits)
  return jax.vmap(gl.gram)(jnp.asarray(rows, jnp.float32))


def mean_and_error(values):
  values = np.asarray(values, np.float64).ravel()
  return values.mean(), values.std() / np.sqrt(len(values))


class UnbiasedTest(parameterized.TestCase):

  @parameterized.parameters(2, 4, 8)
  def test_squared_norm_and_noise_at_low_signal(self, num_splits):
    # ||g||^2 = 1 and tr Sigma = 45: the naive norm is 46 in expectation.
    grams = draws(20_000, num_splits, 1.0)
    estimates = {
        kind: mean_and_error(gl.task_gram(grams, num_splits, kind))
        for kind in ('naive', 'unbiased')
    }
    estimates['noise'] = mean_and_error(gl.noise_trace(grams, num_splits))
    expected = dict(naive=1 + TRACE, unbiased=1.0, noise=TRACE)
    for name, (mean, error) in estimates.items():
      self.assertLess(abs(mean - expected[name]), 5 * error, name)
    # The naive one fails the unbiased one's test, by far.
    mean, error = estimates['naive']
    self.assertGreater(abs(mean - 1.0), 100 * error)

  @parameterized.parameters((2, 0.0), (2, 30.0), (4, 30.0), (8, 0.0))
  def test_variance_falls_with_the_number_of_splits(self, num_splits, signal):
    # S/(S-1) sum <r_s, r_t> = |g|^2 + 2 <g, e> + S/(S-1) sum <e_s, e_t>, over
    # s != t, with e = sum_s e_s. Of the terms the last has S (S - 1) / 2
    # independent products, counted twice, of variance SIZE (NOISE^2 / S)^2:
    #   Var = 4 |g|^2 NOISE^2 + 2 S/(S-1) SIZE NOISE^4:
    # twice as much for S = 2 as for many splits.
    count = 20_000
    estimates = np.asarray(
        gl.task_gram(draws(count, num_splits, signal), num_splits, 'unbiased'),
        np.float64,
    ).ravel()
    factor = num_splits / (num_splits - 1)
    expected = 4 * signal * NOISE**2 + 2 * factor * SIZE * NOISE**4
    # The kurtosis of a product of normals is below 9 here: 4 standard errors.
    tolerance = 4 * np.sqrt(8 / count)
    np.testing.assert_allclose(estimates.var(), expected, rtol=tolerance)

  def test_ratios_of_means_and_not_means_of_ratios(self):
    # SNR 1/45 of steps averaged over 20,000; of single steps it is anything.
    grams = draws(20_000, 4, 1.0)
    snr = gl.signal_to_noise(grams.mean(0), 4)
    # Standard error of the squared norm: sqrt((9 + 8/3 * 20 * 5.06) / 20000).
    np.testing.assert_allclose(snr, 1 / TRACE, rtol=5 * 0.12)
    single = gl.signal_to_noise(grams, 4)
    self.assertGreater(np.nanstd(single), 5 / TRACE)

  def test_critical_batch_size_is_that_of_the_prompts(self):
    # 8 prompts' mean has a variance of TRACE, so one prompt's is 8 TRACE; with
    # ||g||^2 = 90 the two are equal for 8 * 45 / 90 = 4 prompts.
    grams = draws(20_000, 2, 90.0)
    size = gl.critical_batch_size(grams.mean(0), 2, prompts_per_task=8)
    np.testing.assert_allclose(size, [4.0], rtol=0.02)

  def test_undefined_ratios_are_nan(self):
    silent = jnp.zeros((4, 4))
    self.assertTrue(np.isnan(gl.signal_to_noise(silent, 2)).all())
    self.assertTrue(np.isnan(gl.critical_batch_size(silent, 2, 8)).all())

  def test_one_split_has_no_noise_to_compare(self):
    for estimate in (gl.noise_trace, gl.signal_to_noise):
      with self.assertRaisesRegex(ValueError, 'needs num_splits >= 2'):
        estimate(jnp.eye(3), 1)

  def test_leading_axes(self):
    grams = draws(6, 4, 1.0).reshape(2, 3, 4, 4)
    for estimate in (gl.noise_trace, gl.signal_to_noise):
      together = estimate(grams, 2)
      self.assertEqual(together.shape, (2, 3, 2))
      np.testing.assert_allclose(
          together[1, 2], estimate(grams[1, 2], 2), rtol=1e-5
      )


class FloorTest(parameterized.TestCase):

  @parameterized.product(scale=(1e-20, 1.0, 1e20), floor=(0.0, 0.1))
  def test_is_the_nearest_with_eigenvalues_above(self, scale, floor):
    rng = np.random.default_rng(0)
    gram = rng.normal(size=(2, 5, 5))
    gram = gram + gram.swapaxes(1, 2) + np.eye(5)
    values, vectors = np.linalg.eigh(gram)
    self.assertLess(values.min(), -1)
    least = floor * np.trace(gram, axis1=1, axis2=2)[:, None] / 5
    raised = np.maximum(values, np.maximum(least, 0))
    expected = np.einsum('tik,tk,tjk->tij', vectors, raised, vectors)
    got = gl.floor_gram(jnp.asarray(gram * scale, jnp.float32), floor) / scale
    np.testing.assert_allclose(got, expected, atol=2e-5)

  def test_leaves_a_gram_alone(self):
    rng = np.random.default_rng(0)
    gram = gl.gram(jnp.asarray(rng.normal(size=(4, 9)), jnp.float32))
    np.testing.assert_allclose(gl.floor_gram(gram), gram, atol=1e-5)
    np.testing.assert_array_equal(gl.floor_gram(jnp.zeros((3, 3))), 0)

  def test_a_negative_floor(self):
    with self.assertRaisesRegex(ValueError, 'floor=-1 must not be negative'):
      gl.floor_gram(jnp.eye(2), -1)


class PromptsTest(parameterized.TestCase):

  def test_quantiles_and_the_largest_hundredth(self):
    # Task 0: 200 prompts of norms 1..200. Task 1: two prompts hold 400 of 598.
    norms_sq = np.concatenate([np.arange(1, 201), np.ones(198), [200, 200]])
    quantiles, top = gl.prompt_norms(
        jnp.diag(jnp.asarray(norms_sq, jnp.float32)), 200, (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(quantiles, [[1, 100.5, 200], [1, 1, 200]])
    np.testing.assert_allclose(top, [399 / 20100, 400 / 598], rtol=1e-6)

  def test_fewer_than_a_hundred_have_a_largest_one(self):
    _, top = gl.prompt_norms(jnp.diag(jnp.array([1.0, 3.0])), 2, (0.5,))
    np.testing.assert_allclose(top, [0.75])

  def test_rows_that_are_no_prompts(self):
    with self.assertRaisesRegex(ValueError, 'num_prompts=3 does not divide'):
      gl.prompt_norms(jnp.eye(4), 3, (0.5,))


if __name__ == '__main__':
  absltest.main()
