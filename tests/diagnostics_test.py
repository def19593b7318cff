"""Shares, cosines, conflicts, ranks: against vectors and by hand."""

from absl.testing import absltest, parameterized
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


if __name__ == '__main__':
  absltest.main()
