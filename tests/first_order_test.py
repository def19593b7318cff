"""What an update does to the tasks: against vectors, and against optax."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradlens as gl

SHAPES = {'w': (4, 3), 'layers': {'v': (2, 5)}, 'scale': ()}


def draw(*lead, seed=0, dtype=jnp.float32):
  """A pytree of normal leaves `[*lead, *param]`."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda shape: jnp.asarray(rng.normal(size=(*lead, *shape)), dtype),
      SHAPES, is_leaf=lambda node: isinstance(node, tuple),
  )


def vectors(tree, lead=1):
  """All leaves as float64 vectors, side by side."""
  return np.concatenate([
      np.asarray(leaf, np.float64).reshape(*leaf.shape[:lead], -1)
      for leaf in jax.tree.leaves(tree)
  ], axis=-1)


class InnerTest(parameterized.TestCase):

  @parameterized.parameters((jnp.float32, 1e-5), (jnp.bfloat16, 1e-5))
  def test_equals_the_products_of_vectors(self, dtype, rtol):
    grads_RxP, updates = draw(6, dtype=dtype), draw(seed=1, dtype=dtype)
    # bfloat16 entries are exact in float32, and their products are.
    expected = vectors(grads_RxP) @ vectors(updates, 0)
    got = jax.jit(gl.inner)(grads_RxP, updates)
    self.assertEqual(got.dtype, jnp.float32)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-5)

  def test_is_what_a_tap_reads(self):
    params = {'w': jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))}
    x_RxL = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    direction = {'w': jnp.arange(6.0).reshape(3, 2)}

    def loss(p, x_L):
      return jnp.sum(jnp.sin(x_L @ p['w']))

    def losses(params, probe, x_RxL):
      return gl.tap(loss)(params, x_RxL, probe)

    _, _, readings = gl.value_grad_readings(losses)(
        params, gl.Probe(4, direction=direction), x_RxL
    )
    _, grads_RxP = gl.task_value_and_grad(loss)(params, x_RxL)
    np.testing.assert_allclose(
        gl.inner(grads_RxP, direction), readings.along_R, rtol=1e-5
    )

  def test_sharded_leaves_stay_where_they_are(self):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('fsdp',))
    rng = np.random.default_rng(0)
    rows, updates = rng.normal(size=(4, 16, 3)), rng.normal(size=(16, 3))

    def put(array, *spec):
      sharding = jax.sharding.NamedSharding(
          mesh, jax.sharding.PartitionSpec(*spec)
      )
      return jax.device_put(jnp.asarray(array, jnp.float32), sharding)

    arguments = {'w': put(rows, None, 'fsdp')}, {'w': put(updates, 'fsdp')}
    compiled = jax.jit(gl.inner).lower(*arguments).compile()
    np.testing.assert_allclose(
        compiled(*arguments), np.einsum('rij,ij->r', rows, updates), rtol=1e-4
    )
    self.assertIn('all-reduce', compiled.as_text())
    self.assertNotIn('all-gather', compiled.as_text())

  @parameterized.parameters(
      (draw(6), draw(6), 'the shape of the update'),
      (draw(6), draw()['layers'], 'have the structure'),
      ({'w': jnp.ones((2, 3)), 'v': jnp.ones((3, 3))},
       {'w': jnp.ones(3), 'v': jnp.ones(3)}, r"leaf \['w'\] has shape"),
      ({}, {}, 'without leaves'),
  )
  def test_misuse(self, grads_RxP, updates, message):
    with self.assertRaisesRegex(ValueError, message):
      gl.inner(grads_RxP, updates)


class GainTest(parameterized.TestCase):

  def test_predicts_what_a_small_step_gains(self):
    # Losses of two tasks, each the sum of two rows; float32 losses of order 1
    # resolve 1e-7, so a gain of 1e-3 is known to 1e-3 of itself.
    rng = np.random.default_rng(0)
    x_RxL = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    params = jnp.asarray(rng.normal(size=5), jnp.float32)

    def loss(params, x_L):
      return jnp.tanh(jnp.dot(params, x_L)) / 4

    losses_R, grads_RxP = gl.task_value_and_grad(loss)(params, x_RxL)
    tx = optax.adam(1e-3)
    updates, _ = tx.update(grads_RxP.sum(axis=0), tx.init(params))
    gain_K = gl.predicted_gain(gl.inner(grads_RxP, updates), 2)
    after_R, _ = gl.task_value_and_grad(loss)(params + updates, x_RxL)
    actual_K = (losses_R - after_R).reshape(2, 2).sum(axis=1)
    np.testing.assert_allclose(gain_K, actual_K, rtol=2e-2)
    self.assertGreater(np.abs(actual_K).min(), 1e-4)

  def test_shares_differ_from_those_before_the_optimizer(self):
    # Adam's first step is the sign of the gradient: (1, 1) for a gradient of
    # (10, 1). Task a has the 10, b the 1.
    grads_KxP = jnp.array([[10.0, 0.0], [0.0, 1.0]])
    tx = optax.adam(1e-2)
    updates, _ = tx.update(grads_KxP.sum(axis=0), tx.init(jnp.zeros(2)))
    gain_K = gl.predicted_gain(gl.inner(grads_KxP, updates))
    np.testing.assert_allclose(gain_K, [0.1, 0.01], rtol=1e-4)
    np.testing.assert_allclose(
        gl.gain_shares(gain_K), [10 / 11, 1 / 11], rtol=1e-4
    )
    before_K = gl.shares(gl.gram(grads_KxP), jnp.ones(2))
    np.testing.assert_allclose(before_K, [100 / 101, 1 / 101], rtol=1e-4)

  def test_leading_axes(self):
    inner_TxR = np.random.default_rng(0).normal(size=(3, 6)) - 2
    gain_TxK = gl.predicted_gain(jnp.asarray(inner_TxR), 3)
    expected = -np.stack([inner_TxR[:, :3].sum(1), inner_TxR[:, 3:].sum(1)], 1)
    np.testing.assert_allclose(gain_TxK, expected, rtol=1e-5)
    np.testing.assert_allclose(
        gl.gain_shares(gain_TxK),
        expected / expected.sum(axis=1, keepdims=True), rtol=1e-5,
    )

  @parameterized.parameters(([0.0, 0.0],), ([1.0, -1.0],), ([1.0, -2.0],))
  def test_an_update_that_gains_nothing_has_no_shares(self, gain_K):
    shares_K = gl.gain_shares(jnp.array(gain_K))
    np.testing.assert_array_equal(shares_K, [np.nan, np.nan])

  @parameterized.parameters(0, 4)
  def test_misuse(self, num_splits):
    with self.assertRaisesRegex(ValueError, 'does not divide'):
      gl.predicted_gain(jnp.ones(6), num_splits)


class AdamMetricTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ('adam', lambda: optax.adam(0.1, b2=0.9, eps=0.01)),
      ('chain', lambda: optax.chain(
          optax.clip_by_global_norm(1e9), optax.adam(0.1, b2=0.9, eps=0.01))),
      ('injected', lambda: optax.inject_hyperparams(optax.adam)(
          0.1, b2=0.9, eps=0.01)),
  )
  def test_is_what_adam_multiplies_by(self, make):
    # An Adam without momentum steps by -lr m g: m is read off its steps.
    tx, last = make(), optax.adam(0.1, b1=0.0, b2=0.9, eps=0.01)
    params = draw()
    state, last_state = tx.init(params), last.init(params)
    for seed in range(3):
      grads = draw(seed=seed + 1)
      _, state = tx.update(grads, state, params)
      steps, last_state = last.update(grads, last_state, params)
    expected = vectors(steps, 0) / (-0.1 * vectors(grads, 0))
    got = jax.jit(lambda s: gl.adam_metric(s, b2=0.9, eps=0.01))(state)
    np.testing.assert_allclose(vectors(got, 0), expected, rtol=1e-4)
    # With Adam's usual constants it would be another.
    other = vectors(gl.adam_metric(state), 0)
    self.assertGreater(np.abs(other / expected - 1).min(), 1e-3)

  def test_within_a_correction(self):
    tx = optax.chain(gl.correct(gl.total(), num_tasks=2), optax.adamw(0.1))
    params = draw()
    _, state = tx.update(draw(2), tx.init(params), params)
    joint = vectors(jax.tree.map(lambda g: g.sum(axis=0), draw(2)), 0)
    np.testing.assert_allclose(
        vectors(gl.adam_metric(state), 0), 1 / (np.abs(joint) + 1e-8),
        rtol=1e-3,
    )

  def test_before_the_first_step(self):
    metric = gl.adam_metric(optax.adam(0.1).init(jnp.ones(2)))
    np.testing.assert_array_equal(metric, [np.nan, np.nan])

  def test_misuse(self):
    params = {'a': jnp.ones(2), 'b': jnp.ones(2)}
    with self.assertRaisesRegex(ValueError, r'one state of Adam, found \[\]'):
      gl.adam_metric(optax.sgd(0.1).init(params))
    with self.assertRaisesRegex(ValueError, r"found \['\[0\]\[0\]', '\[1\]"):
      gl.adam_metric(optax.chain(optax.adam(1), optax.adam(1)).init(params))
    half = optax.masked(optax.adam(0.1), {'a': True, 'b': False})
    with self.assertRaisesRegex(ValueError, 'leaves out parameters'):
      gl.adam_metric(half.init(params))


class InMetricTest(parameterized.TestCase):

  def test_gram_equals_that_of_a_diagonal(self):
    grads_RxP = draw(5)
    metric = jax.tree.map(jnp.abs, draw(seed=1))
    scaled = gl.in_metric(grads_RxP, metric)
    rows, m = vectors(grads_RxP), vectors(metric, 0)
    np.testing.assert_allclose(
        gl.gram(scaled), rows @ np.diag(m) @ rows.T, rtol=1e-4, atol=1e-5
    )
    blocks = gl.gram_blocks(scaled, gl.by_layer)
    self.assertEqual(blocks['layers'].shape, (2, 5, 5))
    layer = vectors(grads_RxP['layers']).reshape(5, 2, 5)[:, 1]
    own = np.asarray(metric['layers']['v'])[1]
    np.testing.assert_allclose(
        blocks['layers'][1], layer @ np.diag(own) @ layer.T, rtol=1e-4,
        atol=1e-5,
    )

  def test_adams_metric_quiets_an_entry_that_is_always_loud(self):
    # Adam's first step takes 1 / |g|: the Gram matrix is that of entries
    # divided by the root of the joint one. 9 / 3 and 1 / 1.
    grads_KxP = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    tx = optax.adam(0.1)
    _, state = tx.update(grads_KxP.sum(axis=0), tx.init(jnp.zeros(2)))
    gram_KxK = gl.gram(gl.in_metric(grads_KxP, gl.adam_metric(state)))
    np.testing.assert_allclose(gram_KxK, np.diag([3, 1]), rtol=1e-4)

  @parameterized.parameters(
      (draw(2), draw(2), 'the shape of the metric'),
      (draw(2), draw()['w'], 'have the structure'),
  )
  def test_misuse(self, grads_RxP, metric, message):
    with self.assertRaisesRegex(ValueError, message):
      gl.in_metric(grads_RxP, metric)


if __name__ == '__main__':
  absltest.main()
