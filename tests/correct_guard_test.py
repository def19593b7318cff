"""What a correction skips, rescales and refuses."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
from stacked_grads import (
    K,
    flat,
    grads_of,
    one_update,
    params_like,
    poison,
    rows_of,
)

import gradlens as gl


class SkipTest(parameterized.TestCase):

  @parameterized.product(
      value=(np.nan, np.inf, -np.inf, 1e30),
      num_splits=(1, 2),
      blocks=(None, gl.by_layer),
  )
  def test_a_bad_row_takes_its_task_out(self, value, num_splits, blocks):
    # 1e30 is finite, but its square is not.
    params = params_like()
    grads = grads_of(params, K * num_splits)
    tx = gl.correct(
        gl.total(), num_tasks=K, num_splits=num_splits, blocks=blocks
    )
    bad_row = 2 * num_splits - 1  # The last row of task 1.
    updates, state = one_update(tx, poison(grads, bad_row, value), params)
    kept_R = np.repeat([1.0, 0.0, 1.0], num_splits)
    np.testing.assert_allclose(flat(updates), kept_R @ rows_of(grads), 1e-5)
    np.testing.assert_array_equal(state.skipped_K, [0, 1, 0])
    for weights_K in jax.tree.leaves(state.weights_K):
      self.assertEqual(np.abs(weights_K[..., 1]).max(), 0)
    for gram in jax.tree.leaves((state.gram_RxR, state.gram_KxK)):
      self.assertTrue(np.isfinite(gram).all())
    for gram_KxK in jax.tree.leaves(state.gram_KxK):
      self.assertEqual(np.abs(gram_KxK[..., 1, :]).max(), 0)
      self.assertGreater(np.abs(gram_KxK[..., 0, 2]).min(), 0)

  def test_skips_are_counted_over_steps(self):
    params = params_like()
    tx = gl.correct(gl.pcgrad(), num_tasks=K)
    state, update = tx.init(params), jax.jit(tx.update)
    grads = grads_of(params)
    for rows in ([], [0], [0, 2], [0, 1, 2]):
      bad = grads
      for row in rows:
        bad = poison(bad, row)
      updates, state = update(bad, state, params)
      self.assertTrue(np.isfinite(flat(updates)).all())
    np.testing.assert_array_equal(state.skipped_K, [3, 1, 2])
    self.assertEqual(state.skipped_K.dtype, jnp.int32)
    self.assertEqual(np.abs(flat(updates)).max(), 0)

  @parameterized.parameters(np.nan, np.inf)
  def test_a_bad_weight_counts_as_zero(self, value):
    params = params_like()
    grads = grads_of(params)
    tx = gl.correct(gl.constant([1.0, 2.0, value]), num_tasks=K)
    updates, state = one_update(tx, grads, params)
    expected = np.array([1.0, 2.0, 0.0]) @ rows_of(grads)
    np.testing.assert_allclose(flat(updates), expected, 1e-5)
    np.testing.assert_array_equal(state.weights_K, [1.0, 2.0, 0.0])
    np.testing.assert_array_equal(state.skipped_K, [0, 0, 1])

  def test_no_nan_is_ever_made(self):
    params = params_like()
    grads = grads_of(params)
    with jax.debug_nans(True):
      updates, state = one_update(
          gl.correct(gl.equalize_norms('median'), num_tasks=K, match_norm=True),
          jax.tree.map(jnp.zeros_like, grads),
          params,
      )
    self.assertEqual(np.abs(flat(updates)).max(), 0)
    self.assertTrue(np.isfinite(state.weights_K).all())


class MatchNormTest(parameterized.TestCase):

  @parameterized.product(
      weighting=(gl.mean(), gl.equalize_norms(), gl.constant([1, -5, 1e-12])),
      num_splits=(1, 2),
  )
  def test_has_the_length_of_total_and_its_own_direction(
      self, weighting, num_splits
  ):
    params = params_like()
    grads = grads_of(params, K * num_splits)
    kwargs = {'num_tasks': K, 'num_splits': num_splits}
    plain, _ = one_update(gl.correct(weighting, **kwargs), grads, params)
    updates, state = one_update(
        gl.correct(weighting, match_norm=True, **kwargs), grads, params
    )
    plain, updates = flat(plain), flat(updates)
    expected = np.linalg.norm(rows_of(grads).sum(axis=0))
    self.assertGreater(abs(np.linalg.norm(plain) / expected - 1), 0.1)
    np.testing.assert_allclose(np.linalg.norm(updates), expected, rtol=1e-5)
    cosine = plain @ updates / np.linalg.norm(plain) / np.linalg.norm(updates)
    self.assertGreater(cosine, 1 - 1e-6)
    # The state shows the weights that were applied.
    weights_R = np.repeat(state.weights_K, num_splits)
    np.testing.assert_allclose(updates, weights_R @ rows_of(grads), 1e-4, 1e-5)

  def test_holds_in_each_block(self):
    params = params_like()
    grads = grads_of(params)
    tx = gl.correct(
        gl.equalize_norms(), num_tasks=K, blocks=gl.by_layer, match_norm=True
    )
    updates, _ = one_update(tx, grads, params)
    for i in range(3):
      got = [leaf[i] for leaf in updates['layers'].values()]
      total = [leaf[:, i].sum(0) for leaf in grads['layers'].values()]
      np.testing.assert_allclose(
          np.linalg.norm(flat(got)), np.linalg.norm(flat(total)), rtol=1e-5
      )

  def test_an_update_of_unknown_length_is_left_alone(self):
    # w_1 g_1 + w_2 g_2 = 0 up to rounding: no direction to stretch.
    grads = jnp.array([[0.1, 0.7, 0.3], [0.2, 1.4, 0.6]])
    tx = gl.correct(gl.constant([2.0, -1.0]), num_tasks=2, match_norm=True)
    updates, _ = one_update(tx, grads, jnp.ones(3))
    self.assertLess(np.abs(updates).max(), 1e-6)


class MisuseTest(parameterized.TestCase):

  def test_not_a_weighting(self):
    with self.assertRaisesRegex(TypeError, 'not a gradient transformation'):
      gl.correct(optax.adam(1e-3), num_tasks=K)
    with self.assertRaisesRegex(TypeError, r'gl.stateless\(function\), got'):
      gl.correct(gl.pcgrad, num_tasks=K)

  def test_arguments_out_of_range(self):
    with self.assertRaisesRegex(ValueError, "'late'; use one of stacked, in"):
      gl.correct(gl.mean(), num_tasks=K, apply='late')
    with self.assertRaisesRegex(ValueError, "'unbiased' .* num_splits >= 2"):
      gl.correct(gl.mean(), num_tasks=K, kind='unbiased')
    with self.assertRaisesRegex(ValueError, 'num_tasks=0 .* must be positive'):
      gl.correct(gl.mean(), num_tasks=0)

  def test_weights_of_another_shape(self):
    weighting = gl.stateless(lambda gram_KxK: jnp.ones(()), 'scalar')
    tx = gl.correct(weighting, num_tasks=K)
    with self.assertRaisesRegex(ValueError, r'scalar returned .* \(\), expect'):
      one_update(tx, grads_of(params_like()), params_like())

  def test_params_are_needed(self):
    tx = optax.chain(gl.correct(gl.mean(), num_tasks=K), optax.sgd(1.0))
    params = params_like()
    with self.assertRaisesRegex(ValueError, 'needs the parameters'):
      tx.update(grads_of(params), tx.init(params))

  @parameterized.parameters((4, 1), (3, 2), (1, 1))
  def test_wrong_number_of_rows(self, num_tasks, num_splits):
    params = params_like()
    tx = gl.correct(gl.mean(), num_tasks=num_tasks, num_splits=num_splits)
    message = (
        r"\['embed'\] has shape \(3, 4, 2\), expected "
        rf'\({num_tasks * num_splits}, 4, 2\): num_tasks={num_tasks} times'
    )
    with self.assertRaisesRegex(ValueError, message):
      tx.update(grads_of(params), tx.init(params), params)

  def test_missing_task_axis(self):
    params = params_like()
    tx = gl.correct(gl.mean(), num_tasks=K)
    message = r"\['embed'\] has shape \(4, 2\), .* no task axis: take gradients"
    with self.assertRaisesRegex(ValueError, message):
      tx.update(params, tx.init(params), params)

  def test_another_tree(self):
    params = params_like()
    tx = gl.correct(gl.mean(), num_tasks=K)
    with self.assertRaisesRegex(ValueError, 'differ in structure'):
      tx.update([jnp.ones((K, 2))], tx.init(params), params)

  def test_multi_steps_around_it_raises_in_update(self):
    params = params_like()
    tx = optax.MultiSteps(gl.correct(gl.mean(), num_tasks=K), 2)
    with self.assertRaisesRegex(ValueError, 'optax.MultiSteps goes after'):
      tx.update(grads_of(params), tx.init(params), params)


if __name__ == '__main__':
  absltest.main()
