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

  def test_actual_gradients_keep_theirs(self):
    # Rank 1 of 3, rows from 1e-10 to 1e10: eigh alone is off by 1e13 here.
    rows = np.logspace(-10, 10, 3)[:, None] * normal(1, 4)
    gram = gl.gram(jnp.asarray(rows, jnp.float32))
    np.testing.assert_allclose(gl.floor_gram(gram), gram, rtol=1e-6)

  def test_no_negative_diagonal_below_rounding(self):
    got = gl.floor_gram(jnp.diag(jnp.array([1e20, -1e5])))
    np.testing.assert_allclose(got, np.diag([1e20, 0]), rtol=1e-6)

  def test_without_any_length(self):
    np.testing.assert_array_equal(gl.floor_gram(jnp.zeros((2, 2)), 0.1), 0)
    # A trace below 0 is no floor.
    np.testing.assert_allclose(
        gl.floor_gram(-jnp.eye(2), 0.1), np.zeros((2, 2)), atol=1e-6
    )

  @parameterized.parameters(-0.1, 1.1)
  def test_misuse(self, floor):
    with self.assertRaisesRegex(ValueError, 'between 0 and 1'):
      gl.floor_gram(jnp.eye(2), floor)


if __name__ == '__main__':
  absltest.main()
