"""Shares, cosines, conflicts, ranks: against vectors and by hand."""

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

  def test_of_every_block(self):
    rows = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    units = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    gram = np.einsum('abkn,abln->abkl', rows, rows)
    np.testing.assert_allclose(
        gl.cosines(jnp.asarray(gram)),
        np.einsum('abkn,abln->abkl', units, units), rtol=1e-4, atol=1e-6,
    )


class ConflictRateTest(parameterized.TestCase):

  def test_equals_the_count_of_pairs(self):
    rows = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    expected = np.zeros((2, 3))
    for i, j in np.ndindex(2, 3):
      pairs = [
          rows[i, j, k] @ rows[i, j, m] < 0 for k in range(5) for m in range(k)
      ]
      expected[i, j] = np.mean(pairs)
    self.assertGreater(np.ptp(expected), 0.2)
    gram = np.einsum('abkn,abln->abkl', rows, rows)
    got = jax.jit(gl.conflict_rate)(jnp.asarray(gram))
    np.testing.assert_allclose(got, expected, rtol=1e-6)

  def test_debiased_tells_a_shared_prompt_from_agreement(self):
    # Halves of two tasks with one noise: the naive product is positive by it.
    rows = jnp.array([[3.0, 0, 1], [0, 3, 1], [3, 0, -1], [0, 3, -1]])
    gram_RxR = gl.gram(rows)
    self.assertEqual(gl.conflict_rate(gl.task_gram(gram_RxR, 2)), 0)
    self.assertEqual(gl.conflict_rate(gl.task_gram(gram_RxR, 2, 'cross')), 1)

  def test_what_is_no_pair(self):
    gram_KxK = jnp.array([
        [1.0, -1.0, np.nan], [-1.0, 1.0, np.nan], [np.nan, np.nan, np.nan],
    ])
    self.assertEqual(gl.conflict_rate(gram_KxK), 1)
    self.assertTrue(np.isnan(gl.conflict_rate(jnp.eye(1))))
    # A product of 0 is no conflict.
    self.assertEqual(gl.conflict_rate(jnp.eye(3)), 0)


class ImbalanceTest(parameterized.TestCase):

  def test_largest_over_smallest(self):
    norms_sq = jnp.array([[1e-10, 2.0, 1e10], [8.0, 2.0, 4.0]])
    np.testing.assert_allclose(gl.imbalance(norms_sq), [1e20, 4], rtol=1e-6)

  @parameterized.parameters(0.0, -1.0)
  def test_there_is_no_ratio_to_nothing(self, smallest):
    self.assertTrue(np.isnan(gl.imbalance(jnp.array([1.0, smallest]))))

  def test_of_equal_tasks_it_is_1_5_by_noise(self):
    # What its docstring warns of.
    noisy = 1 + 0.2 * np.random.default_rng(0).normal(size=(10_000, 4))
    median = np.median(gl.imbalance(jnp.asarray(noisy)))
    self.assertBetween(median, 1.47, 1.55)


class EffectiveRankTest(parameterized.TestCase):

  @parameterized.parameters(1e-20, 1.0, 1e20)
  def test_equals_the_entropy_of_singular_values(self, scale):
    rows = np.random.default_rng(0).normal(size=(2, 4, 6))
    rows *= [[4], [1], [1], [3]]
    # The eigenvalues of J J' are the squared singular values of J.
    parts = np.linalg.svd(rows, compute_uv=False) ** 2
    parts /= parts.sum(axis=1, keepdims=True)
    expected = np.exp(-np.sum(parts * np.log(parts), axis=1))
    self.assertGreater(np.abs(expected - 4).min(), 0.5)
    gram = scale * np.einsum('akn,aln->akl', rows, rows)
    got = jax.jit(gl.effective_rank)(jnp.asarray(gram, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5)

  def test_of_known_spectra(self):
    # Orthogonal tasks of one length; copies of one; 3 to 1.
    self.assertAlmostEqual(gl.effective_rank(jnp.eye(5)), 5, places=4)
    self.assertAlmostEqual(gl.effective_rank(jnp.ones((5, 5))), 1, places=4)
    self.assertAlmostEqual(
        gl.effective_rank(jnp.diag(jnp.array([3.0, 1.0]))),
        4 / 3**0.75, places=5,
    )

  def test_of_an_indefinite_matrix(self):
    # Eigenvalues 4 and -2: one direction is left.
    gram_KxK = jnp.array([[1.0, 3.0], [3.0, 1.0]])
    self.assertAlmostEqual(gl.effective_rank(gram_KxK), 1, places=4)
    self.assertTrue(np.isnan(gl.effective_rank(-jnp.eye(2))))
    self.assertTrue(np.isnan(gl.effective_rank(jnp.zeros((2, 2)))))


class PromptNormsTest(parameterized.TestCase):

  @parameterized.parameters(
      (1, 0.01, 1), (99, 0.01, 1), (100, 0.01, 1), (101, 0.01, 2),
      (250, 0.01, 3), (100, 0.07, 7),
  )
  def test_against_order_statistics(self, num_prompts, top, num_top):
    lengths = np.random.default_rng(0).lognormal(size=(2, 2, num_prompts))
    gram = jnp.stack([jnp.diag(jnp.asarray(a.ravel())) for a in lengths])
    got = jax.jit(gl.prompt_norms, static_argnums=(1, 2, 3))(
        gram, num_prompts, (0.0, 0.25, 0.9), top
    )
    np.testing.assert_allclose(
        got.quantiles_KxQ,
        np.moveaxis(np.quantile(lengths, (0, 0.25, 0.9), axis=-1), 0, -1),
        rtol=1e-5,
    )
    ranked = -np.sort(-lengths, axis=-1)
    np.testing.assert_allclose(
        got.top_share_K, ranked[..., :num_top].sum(-1) / ranked.sum(-1),
        rtol=1e-5,
    )

  def test_products_of_prompts_take_no_part(self):
    rows = np.random.default_rng(0).normal(size=(6, 4))
    got = gl.prompt_norms(gl.gram(jnp.asarray(rows)), 3, (1.0,), top=1 / 3)
    squares = np.sum(rows**2, axis=1).reshape(2, 3)
    np.testing.assert_allclose(
        got.quantiles_KxQ, squares.max(1, keepdims=True), rtol=1e-5
    )
    np.testing.assert_allclose(
        got.top_share_K, squares.max(1) / squares.sum(1), rtol=1e-5
    )

  def test_without_any_length(self):
    got = gl.prompt_norms(jnp.zeros((2, 2)), 2)
    np.testing.assert_array_equal(got.quantiles_KxQ, np.zeros((1, 4)))
    self.assertTrue(np.isnan(got.top_share_K[0]))

  @parameterized.parameters(
      (dict(num_prompts=4), 'does not divide'),
      (dict(num_prompts=3, top=0.0), 'fractions'),
      (dict(num_prompts=3, quantiles=(50,)), 'fractions'),
  )
  def test_misuse(self, arguments, message):
    with self.assertRaisesRegex(ValueError, message):
      gl.prompt_norms(jnp.eye(6), **arguments)


if __name__ == '__main__':
  absltest.main()
