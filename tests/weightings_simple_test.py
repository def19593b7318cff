"""Values of the simple weightings, and PCGrad on vectors."""

import itertools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from weighting_cases import normal, weights_of

import gradlens as gl


class LengthsTest(parameterized.TestCase):

  @parameterized.parameters(
      # Lengths 1, 2, 4, 16; K = 4.
      ('unit', 1.0),
      ('min', 1.0),
      ('mean', 23 / 4),
      ('median', 3.0),
      ('geometric', 128 ** (1 / 4)),
      ('max', 16.0),
  )
  def test_equalize_norms(self, target, length):
    lengths = np.array([4.0, 1.0, 16.0, 2.0])
    rows = lengths[:, None] * np.eye(4)
    weights = weights_of(gl.equalize_norms(target), rows)
    np.testing.assert_allclose(weights * lengths, [length / 4] * 4, rtol=1e-6)

  @parameterized.parameters(
      ('unit', 1.0), ('min', 2.0), ('mean', 5.0), ('median', 5.0),
      ('geometric', 4.0), ('max', 8.0),
  )
  def test_zero_gradients_do_not_count(self, target, length):
    rows = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 8.0]])
    weights = weights_of(gl.equalize_norms(target), rows)
    expected = [1 / 4, length / 8, 1 / 4, length / 32]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)

  def test_unknown_target(self):
    with self.assertRaisesRegex(ValueError, "target='mode'; use one of unit,"):
      gl.equalize_norms('mode')

  def test_constant_knows_its_tasks(self):
    with self.assertRaisesRegex(ValueError, '2 weights for 3 tasks'):
      gl.correct(gl.constant([1, 2]), num_tasks=3).init(jnp.ones(2))


def projected(rows, i, order):
  """PCGrad of one task on vectors, as the paper's algorithm states it."""
  vector = rows[i].copy()
  for j in order:
    inner = vector @ rows[j]
    if inner < 0:
      vector -= inner / (rows[j] @ rows[j]) * rows[j]
  return vector


class PCGradTest(parameterized.TestCase):

  @parameterized.parameters(3, 4)
  def test_is_the_algorithm_on_vectors_in_some_order(self, num_tasks):
    # The oracle knows no order, so it tries all: 2^3, or 6^4, in the end. All
    # tasks conflict, so that every order ends elsewhere.
    rows = normal(num_tasks, 100)
    rows -= 1.5 * rows.mean(axis=0)
    off_diagonal = ~np.eye(num_tasks, dtype=bool)
    self.assertLess((rows @ rows.T)[off_diagonal].max(), 0)
    choices = []
    for i in range(num_tasks):
      others = [j for j in range(num_tasks) if j != i]
      orders = itertools.permutations(others)
      choices.append([projected(rows, i, order) for order in orders])
    updates = np.array([sum(vs) for vs in itertools.product(*choices)])
    hits = set()
    weighting = gl.pcgrad()
    for seed in range(12):
      weights = weights_of(weighting, rows, jax.random.key(seed))
      errors = np.linalg.norm(updates - weights @ rows, axis=1)
      hits.add(int(errors.argmin()))
      self.assertLess(errors.min(), 1e-5 * np.linalg.norm(rows))
    # Without projections the update is another, and the order is random indeed.
    self.assertGreater(np.linalg.norm(updates - rows.sum(0), axis=1).min(), 0.1)
    self.assertGreater(len(hits), 2)

  def test_without_conflict_it_is_the_total(self):
    rows = np.abs(normal(5, 8))
    np.testing.assert_array_equal(weights_of(gl.pcgrad(), rows), np.ones(5))

  def test_two_tasks_end_without_conflict(self):
    rows = np.array([[1.0, 0.0], [-3.0, 1.0]])
    weights = weights_of(gl.pcgrad(), rows)
    self.assertGreaterEqual((rows @ (weights @ rows)).min(), 0)
    self.assertLess((rows @ rows.sum(0)).min(), -1)

  def test_scales_do_not_matter(self):
    # Two tasks have one order, so weights times lengths depend on nothing else.
    rows = np.array([[1.0, 0.0], [-3.0, 1.0]])
    scales = np.array([1e-10, 1e10])
    plain = weights_of(gl.pcgrad(), rows)[:, None] * rows
    mixed = weights_of(gl.pcgrad(), rows * scales[:, None])[:, None] * rows
    # Task 0 gains 3 * 1e20 of its own length, task 1 gains 0.3 * 1e-20.
    np.testing.assert_allclose(plain[:, 0], [4.0, -3.9], rtol=1e-6)
    np.testing.assert_allclose(mixed[:, 0], [3e20, -3.0], rtol=1e-6)

  def test_the_key_moves_on_and_is_the_users_choice(self):
    weighting = gl.pcgrad()
    state = weighting.init(2)
    self.assertEqual(state, jax.random.key(0))
    _, new_state = weighting.update(jnp.eye(2), state)
    self.assertNotEqual(new_state, state)
    key = jax.random.key(7)
    self.assertEqual(gl.pcgrad(key).init(2), key)

  def test_donating_the_state_leaves_the_users_key(self):
    key = jax.random.key(7)
    weighting = gl.pcgrad(key)
    step = jax.jit(weighting.update, donate_argnums=1)
    first, _ = step(jnp.eye(2), weighting.init(2))
    again, _ = step(jnp.eye(2), weighting.init(2))
    np.testing.assert_array_equal(first, again)
    self.assertFalse(key.is_deleted())


if __name__ == '__main__':
  absltest.main()
