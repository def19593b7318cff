"""A flat batch and its task-major form hold the same examples."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl


def batch_of(num_examples):
  rng = np.random.default_rng(num_examples)
  return {
      'id': jnp.arange(1, num_examples + 1),
      'x': jnp.asarray(rng.normal(size=(num_examples, 2, 3)), jnp.float32),
      'flag': jnp.ones(num_examples, bool),
  }


class PartitionTest(parameterized.TestCase):

  @parameterized.product(jit=(False, True), num_examples=(1, 13))
  def test_tasks_keep_their_examples_in_order(self, jit, num_examples):
    num_tasks, size = 4, 6
    task_N = np.random.default_rng(0).integers(0, 3, num_examples)
    batch_N = batch_of(num_examples)
    partition = functools.partial(gl.partition, num_tasks=num_tasks, size=size)
    partition = jax.jit(partition) if jit else partition
    batch_KxB, mask_KxB = partition(batch_N, jnp.asarray(task_N))
    for k in range(num_tasks):
      own = np.flatnonzero(task_N == k)
      np.testing.assert_array_equal(mask_KxB[k], np.arange(size) < len(own))
      for name, leaf_N in batch_N.items():
        expected = np.zeros((size, *leaf_N.shape[1:]), leaf_N.dtype)
        expected[: len(own)] = leaf_N[own]
        np.testing.assert_array_equal(batch_KxB[name][k], expected)
        self.assertEqual(batch_KxB[name].dtype, leaf_N.dtype)

  def test_overflow_names_the_task_and_the_counts(self):
    task_N = jnp.array([0, 1, 1, 1, 0])
    with self.assertRaisesRegex(
        ValueError, r'task 1 has 3 examples and size=2 .*\[2, 3, 0\]'
    ):
      gl.partition(jnp.arange(5), task_N, num_tasks=3, size=2)

  @parameterized.parameters(-1, 2)
  def test_an_id_out_of_range_is_named(self, stranger):
    with self.assertRaisesRegex(ValueError, rf'task_N\[1\] is {stranger}, '):
      gl.partition(
          jnp.arange(3), jnp.array([0, stranger, 1]), num_tasks=2, size=3
      )

  def test_jit_drops_what_does_not_fit_and_counts_it(self):
    # Dropped: the third of task 0, id 2 and id -1 (no wrap-around to task 1).
    task_N = jnp.array([0, 2, 0, 1, 0, -1])

    @jax.jit
    def partition(batch_N, task_N):
      return gl.partition(batch_N, task_N, num_tasks=2, size=2)

    batch_KxB, mask_KxB = partition(jnp.arange(10, 16), task_N)
    np.testing.assert_array_equal(batch_KxB, [[10, 12], [13, 0]])
    self.assertEqual(task_N.size - mask_KxB.sum(), 3)

  def test_a_leaf_of_another_length_is_named(self):
    with self.assertRaisesRegex(ValueError, r"batch_N\['x'\] has shape \(2,\)"):
      gl.partition(
          {'x': jnp.zeros(2)}, jnp.zeros(3, int), num_tasks=1, size=3
      )

  def test_ids_are_integers(self):
    with self.assertRaisesRegex(ValueError, 'one integer per example'):
      gl.partition(jnp.zeros(2), jnp.zeros(2), num_tasks=1, size=2)

  def test_gradients_flow_to_the_examples_that_were_kept(self):
    def total(x_N):
      x_KxB, _ = gl.partition(x_N, jnp.array([1, 0, 1]), num_tasks=2, size=2)
      return jnp.sum(x_KxB * jnp.array([[1., 2.], [3., 4.]]))

    np.testing.assert_array_equal(jax.grad(total)(jnp.zeros(3)), [3, 1, 4])


if __name__ == '__main__':
  absltest.main()
