"""The correction in a chain: equal to the plain optimizer where it must be."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
from stacked_grads import K, flat, grads_of, one_update, params_like, rows_of

import gradlens as gl


class CorrectTest(parameterized.TestCase):

  @parameterized.parameters(1, 2)
  def test_total_is_the_plain_chain(self, num_splits):
    params = plain_params = params_like()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    tx = optax.chain(
        gl.correct(gl.total(), num_tasks=K, num_splits=num_splits), optimizer
    )
    state, plain_state = tx.init(params), optimizer.init(params)
    update, plain_update = jax.jit(tx.update), jax.jit(optimizer.update)
    for seed in range(3):
      grads = grads_of(params, K * num_splits, seed)
      updates, state = update(grads, state, params)
      params = optax.apply_updates(params, updates)
      plain_updates, plain_state = plain_update(
          jax.tree.map(lambda leaf: leaf.sum(axis=0), grads),
          plain_state,
          plain_params,
      )
      plain_params = optax.apply_updates(plain_params, plain_updates)
    np.testing.assert_allclose(flat(params), flat(plain_params), rtol=1e-6)
    moved = np.abs(flat(params) - flat(params_like()))
    self.assertGreater(moved.mean(), 5e-3)

  @parameterized.parameters(1, 2)
  def test_is_the_weighted_sum_of_rows(self, num_splits):
    params = params_like()
    grads = grads_of(params, K * num_splits)
    tx = gl.correct(
        gl.constant([0.5, -1.0, 3.0]), num_tasks=K, num_splits=num_splits
    )
    updates, state = one_update(tx, grads, params)
    weights_R = np.repeat([0.5, -1.0, 3.0], num_splits)
    np.testing.assert_allclose(flat(updates), weights_R @ rows_of(grads), 1e-5)
    np.testing.assert_array_equal(state.weights_K, [0.5, -1.0, 3.0])

  def test_state_holds_the_grams_that_the_weighting_saw(self):
    params = params_like()
    grads = grads_of(params, K * 2)
    seen = []

    def weigh(gram_KxK):
      jax.debug.callback(lambda gram: seen.append(np.asarray(gram)), gram_KxK)
      return jnp.diag(gram_KxK)

    tx = gl.correct(gl.stateless(weigh), num_tasks=K, num_splits=2)
    _, state = one_update(tx, grads, params)
    jax.effects_barrier()
    rows = rows_of(grads)
    tasks = rows.reshape(K, 2, -1).sum(axis=1)  # Noise included: the naive one.
    np.testing.assert_allclose(state.gram_RxR, rows @ rows.T, 1e-4, 1e-4)
    np.testing.assert_allclose(state.gram_KxK, tasks @ tasks.T, 1e-4, 1e-4)
    np.testing.assert_array_equal(seen, [state.gram_KxK])
    np.testing.assert_array_equal(state.weights_K, np.diag(state.gram_KxK))

  def test_equal_lengths(self):
    params = params_like()
    grads = grads_of(params)
    _, state = one_update(
        gl.correct(gl.equalize_norms('unit'), num_tasks=K), grads, params
    )
    lengths = np.linalg.norm(rows_of(grads), axis=1)
    np.testing.assert_allclose(state.weights_K * lengths, [1 / K] * K, 1e-5)

  @parameterized.product(
      grad_dtype=('float32', 'bfloat16'), param_dtype=('float32', 'bfloat16')
  )
  def test_updates_have_the_dtype_of_params(self, grad_dtype, param_dtype):
    params = params_like(param_dtype)
    grads = grads_of(params, dtype=grad_dtype)
    updates, state = one_update(
        gl.correct(gl.mean(), num_tasks=K), grads, params
    )
    for leaf in jax.tree.leaves(updates):
      self.assertEqual(leaf.dtype, param_dtype)
    self.assertEqual(state.gram_KxK.dtype, 'float32')
    # Sums run in float32: only the last rounding is of the params' dtype.
    eps = float(jnp.finfo(param_dtype).eps)
    expected = rows_of(grads).mean(axis=0)
    np.testing.assert_allclose(flat(updates), expected, rtol=eps, atol=2e-7)

  def test_extra_arguments_reach_the_weighting(self):
    def update(gram_KxK, state, *, losses_K, **extras):
      del gram_KxK, extras
      return losses_K, state

    weighting = gl.Weighting(lambda num_tasks: (), update, 'by_loss')
    tx = optax.chain(gl.correct(weighting, num_tasks=K), optax.sgd(1.0))
    params = params_like()
    _, state = one_update(
        tx, grads_of(params), params, losses_K=jnp.array([1.0, 2.0, 3.0])
    )
    np.testing.assert_array_equal(gl.task_weights(state), [1.0, 2.0, 3.0])


class BlocksTest(parameterized.TestCase):

  def test_each_block_and_layer_is_corrected_by_itself(self):
    params = params_like()
    grads = grads_of(params)
    tx = gl.correct(gl.pcgrad(), num_tasks=K, blocks=gl.by_layer)
    updates, state = one_update(tx, grads, params)
    self.assertEqual(
        {name: w.shape for name, w in state.weights_K.items()},
        {'embed': (K,), 'layers': (3, K), 'scale': (K,)},
    )
    alone = gl.correct(gl.pcgrad(), num_tasks=K)

    def expect(updates, grads, params):
      expected, _ = one_update(alone, grads, params)
      np.testing.assert_allclose(flat(updates), flat(expected), 1e-5, 1e-6)

    expect(updates['embed'], grads['embed'], params['embed'])
    expect(updates['scale'], grads['scale'], params['scale'])
    for i in range(3):
      expect(
          {name: leaf[i] for name, leaf in updates['layers'].items()},
          {name: leaf[:, i] for name, leaf in grads['layers'].items()},
          {name: leaf[i] for name, leaf in params['layers'].items()},
      )
    # Layers that shared their weights would not pass the above.
    spread = np.ptp(np.asarray(state.weights_K['layers']), axis=0)
    self.assertGreater(spread.max(), 0.05)

  def test_the_layer_axis_may_be_any(self):
    params, grads = jnp.ones((4, 3)), grads_of(jnp.ones((4, 3)))
    tx = gl.correct(
        gl.equalize_norms(), num_tasks=K,
        blocks=lambda path, leaf: gl.Stacked('all', axis=1),
    )
    updates, _ = one_update(tx, grads, params)
    columns = np.asarray(grads, np.float64)
    lengths = np.linalg.norm(columns, axis=1, keepdims=True)
    np.testing.assert_allclose(updates, (columns / lengths).mean(0), 1e-5, 1e-6)

  def test_the_state_can_be_donated(self):
    params = params_like()
    tx = gl.correct(gl.pcgrad(), num_tasks=K, blocks=gl.by_layer)
    step = jax.jit(tx.update, donate_argnums=1)
    _, state = step(grads_of(params), tx.init(params), params)
    _, state = step(grads_of(params), state, params)
    np.testing.assert_array_equal(state.skipped_K, [0, 0, 0])


class TaskWeightsTest(parameterized.TestCase):

  def test_of_several_corrections(self):
    params = params_like()
    tx = optax.multi_transform(
        {
            'a': optax.chain(
                gl.correct(gl.mean(), num_tasks=K), optax.sgd(1.0)
            ),
            'b': gl.correct(gl.total(), num_tasks=K),
        },
        {'embed': 'a', 'layers': 'b', 'scale': 'b'},
    )
    gl.check(tx, params, num_tasks=K)
    _, state = one_update(tx, grads_of(params), params)
    weights = gl.task_weights(state)
    (a,) = [path for path in weights if "['a']" in path]
    (b,) = [path for path in weights if "['b']" in path]
    np.testing.assert_allclose(weights[a], [1 / K] * K)
    np.testing.assert_array_equal(weights[b], [1] * K)

  def test_of_none(self):
    with self.assertRaisesRegex(ValueError, 'without gl.correct'):
      gl.task_weights(optax.adam(1e-3).init(params_like()))


if __name__ == '__main__':
  absltest.main()
