"""Task gradients are each task's own, and add up to the joint gradient."""

import math
import re

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl

P = jax.sharding.PartitionSpec


def params_and_batch(num_tasks=4, size=6):
  rng = np.random.default_rng(0)
  params = {
      'w': jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
      'b': jnp.asarray(rng.normal(size=3), jnp.float32),
  }
  batch = {
      'x': jnp.asarray(rng.normal(size=(num_tasks, size, 5)), jnp.float32),
      'y': jnp.asarray(rng.normal(size=(num_tasks, size, 3)), jnp.float32),
  }
  return params, batch


def loss_fn(params, batch, scale=1.0):
  predicted = jnp.tanh(batch['x'] @ params['w'] + params['b'][None, :])
  return scale * jnp.sum(jnp.square(predicted - batch['y']))


def one_by_one(batch, params, **kwargs):
  """The gradients of the tasks, in a Python loop."""
  num_tasks = len(batch['x'])
  grads = [
      jax.grad(loss_fn)(params, {n: x[k] for n, x in batch.items()}, **kwargs)
      for k in range(num_tasks)
  ]
  return {name: np.stack([g[name] for g in grads]) for name in params}


def assert_trees_close(tree, expected, rtol=1e-5, atol=1e-5):
  for name, leaf in expected.items():
    np.testing.assert_allclose(tree[name], leaf, rtol=rtol, atol=atol)


class DecomposeTest(parameterized.TestCase):

  def test_sum_over_tasks_is_the_joint_gradient(self):
    # Unequal numbers of examples per task; the third has none at all.
    params, batch = params_and_batch()
    mask_KxB = jnp.arange(6)[None, :] < jnp.array([6, 1, 0, 4])[:, None]
    count = mask_KxB.sum()

    def masked_loss(params, batch, mask):
      predicted = jnp.tanh(batch['x'] @ params['w'] + params['b'])
      errors = jnp.square(predicted - batch['y']).sum(axis=-1)
      return jnp.sum(errors * mask) / count

    with jax.numpy_rank_promotion('allow'):
      f = gl.task_value_and_grad(masked_loss)
      losses_K, grads_KxP = f(params, batch, mask_KxB)
      # The joint loss never sees a task axis: all examples in a flat batch.
      flat = {name: x.reshape(24, -1) for name, x in batch.items()}
      loss, grad = jax.value_and_grad(masked_loss)(
          params, flat, mask_KxB.reshape(24)
      )
    # Float32 rounding of sums of 4; a lost or doubled task is off by 10%.
    np.testing.assert_allclose(losses_K.sum(), loss, rtol=1e-6)
    for name, leaf in grad.items():
      summed = grads_KxP[name].sum(axis=0)
      np.testing.assert_allclose(summed, leaf, rtol=1e-5, atol=1e-7)
      self.assertEqual(np.abs(grads_KxP[name][2]).max(), 0)
      self.assertGreater(np.abs(grads_KxP[name][1]).max(), 1e-2)

  @parameterized.parameters(None, 1, 3, 4, 9)
  def test_batch_size_changes_nothing(self, batch_size):
    params, batch = params_and_batch()
    f = gl.task_value_and_grad(loss_fn, batch_size=batch_size)
    _, grads_KxP = jax.jit(f)(params, batch)
    assert_trees_close(grads_KxP, one_by_one(batch, params))

  def test_batch_size_is_the_number_of_tasks_at_a_time(self):
    params, batch = params_and_batch()

    def largest(batch_size):
      f = gl.task_value_and_grad(loss_fn, batch_size=batch_size)
      return str(jax.make_jaxpr(f)(params, batch))

    self.assertIn('f32[4,6,3] = tanh', largest(None))
    self.assertIn('f32[2,6,3] = tanh', largest(2))
    self.assertNotIn('f32[4,6,3] = tanh', largest(2))

  @parameterized.named_parameters(
      ('shared', None, lambda x: x[0]),
      ('second', 1, lambda x: jnp.moveaxis(x, 0, 1)),
      ('last', -1, lambda x: jnp.moveaxis(x, 0, -1)),
  )
  def test_in_axes(self, axis, place):
    params, batch = params_and_batch()
    f = gl.task_value_and_grad(loss_fn, in_axes=[{'x': axis, 'y': 0}])
    _, grads_KxP = f(params, {'x': place(batch['x']), 'y': batch['y']})
    if axis is None:
      batch['x'] = jnp.broadcast_to(batch['x'][:1], batch['x'].shape)
    assert_trees_close(grads_KxP, one_by_one(batch, params))

  def test_in_axes_go_by_the_other_arguments(self):
    params, batch = params_and_batch()

    def reversed_loss(scale, params, batch):
      return loss_fn(params, batch, scale)

    f = gl.task_value_and_grad(reversed_loss, argnums=1, in_axes=(None, 0))
    _, grads_KxP = f(2.0, params, batch)
    assert_trees_close(grads_KxP, one_by_one(batch, params, scale=2.0))
    with self.assertRaisesRegex(ValueError, '3 entries for the 2 arguments'):
      gl.task_value_and_grad(
          reversed_loss, argnums=1, in_axes=(None, None, 0)
      )(2.0, params, batch)

  def test_aux_and_several_argnums(self):
    def loss(w, x, b):
      return jnp.sum(w * x) + b, {'twice': 2 * x}

    f = gl.task_value_and_grad(loss, argnums=(0, -1), has_aux=True)
    x_KxN = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    (losses_K, aux_K), (w_grads, b_grads) = f(jnp.ones(2), x_KxN, 7.0)
    np.testing.assert_allclose(losses_K, [10, 14, 18])
    np.testing.assert_allclose(aux_K['twice'], 2 * x_KxN)
    np.testing.assert_allclose(w_grads, x_KxN)
    np.testing.assert_allclose(b_grads, np.ones(3))

  def test_keys_are_batched_like_any_array(self):
    def loss(w, key):
      return w * jax.random.normal(key)

    keys_K = jax.random.split(jax.random.key(0), 3)
    _, grads_K = gl.task_value_and_grad(loss, batch_size=2)(1.0, keys_K)
    expected = [jax.random.normal(key) for key in keys_K]
    np.testing.assert_allclose(grads_K, expected, rtol=1e-6)

  def test_rows_of_splits_add_up_to_tasks(self):
    params, batch = params_and_batch(num_tasks=3, size=4)
    rows = {n: x.reshape(6, 2, *x.shape[2:]) for n, x in batch.items()}
    _, grads_RxP = gl.task_value_and_grad(loss_fn)(params, rows)
    summed = {
        n: g.reshape(3, 2, *g.shape[1:]).sum(1) for n, g in grads_RxP.items()
    }
    assert_trees_close(summed, one_by_one(batch, params))

  def test_spmd_axis_name_lays_tasks_across_devices(self):
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((4, 2), ('task', 'data'), (auto, auto))
    params, batch = params_and_batch()
    data = jax.sharding.NamedSharding(mesh, P('data'))

    def sharded_loss(params, batch):
      x = jax.lax.with_sharding_constraint(batch['x'], data)
      return loss_fn(params, {**batch, 'x': x})

    f = gl.task_value_and_grad(sharded_loss, spmd_axis_name='task')
    self.assertIn("P('task', 'data')", str(jax.make_jaxpr(f)(params, batch)))
    _, grads_KxP = jax.jit(f)(params, batch)
    assert_trees_close(grads_KxP, one_by_one(batch, params))

  @parameterized.parameters(True, False)
  def test_a_gram_of_shards_gathers_no_gradient(self, spread):
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((4, 2), ('task', 'data'), (auto, auto))

    def on(*spec):
      return jax.sharding.NamedSharding(mesh, P(*spec))

    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=(16, 32)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(4, 8, 16)), jnp.float32)

    def loss_fn(w, x):
      x = jax.lax.with_sharding_constraint(x, on('data'))
      return jnp.sum(jnp.tanh(x @ w))

    def gram_fn(w, x):
      _, grads_KxP = gl.task_value_and_grad(loss_fn, spmd_axis_name='task')(
          w, x
      )
      if spread:
        # First where each gradient is computed: then shards are exchanged.
        grads_KxP = jax.lax.with_sharding_constraint(
            grads_KxP, on('task', 'data')
        )
      return gl.gram(jax.lax.with_sharding_constraint(
          grads_KxP, on(None, ('task', 'data'))
      ))

    own = jax.device_put(w, on(('task', 'data')))
    rows = jax.device_put(x, on('task', 'data'))
    program = jax.jit(gram_fn).lower(own, rows).compile()
    gathered = [
        math.prod(map(int, dims.split(',')))
        for dims in re.findall(
            r'= f32\[([\d,]+)\]\S* all-gather\(', program.as_text()
        )
    ]
    # The parameters are gathered, and no more; else all four tasks' gradients.
    self.assertEqual(max(gathered), w.size if spread else 4 * w.size)
    grads = np.stack([np.ravel(jax.grad(loss_fn)(w, own)) for own in x])
    gram_KxK = grads @ grads.T
    np.testing.assert_allclose(
        program(own, rows), gram_KxK, rtol=1e-5, atol=1e-6 * gram_KxK.max()
    )

  def test_batch_size_and_spmd_axis_name_exclude_each_other(self):
    with self.assertRaisesRegex(ValueError, 'use one'):
      gl.task_value_and_grad(loss_fn, batch_size=2, spmd_axis_name='task')

  def test_unequal_task_axes_are_named(self):
    params, batch = params_and_batch()
    batch['y'] = batch['y'][:3]
    message = r"args\[1\]\['y'\] .* has 3 tasks .* args\[1\]\['x'\] has 4"
    with self.assertRaisesRegex(ValueError, message):
      gl.task_value_and_grad(loss_fn)(params, batch)

  def test_a_missing_task_axis_is_named(self):
    params, batch = params_and_batch()
    with self.assertRaisesRegex(ValueError, r'args\[2\] .* no task axis 0'):
      gl.task_value_and_grad(loss_fn)(params, batch, 1.0)
    with self.assertRaisesRegex(ValueError, 'no argument has a task axis'):
      gl.task_value_and_grad(loss_fn, in_axes=None)(params, batch)


if __name__ == '__main__':
  absltest.main()
