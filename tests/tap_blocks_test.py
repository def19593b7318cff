"""Taps of all kinds of blocks, on many devices, and taps misused."""

import functools

from absl.testing import absltest, parameterized
from flax import linen, nnx
import jax
import jax.numpy as jnp
import numpy as np
import tapped_decoder as decoder
from tapped_decoder import R, relative, whole

import gradlens as gl

P = jax.sharding.PartitionSpec
tied_or_not = parameterized.named_parameters(('untied', False), ('tied', True))


def value_grad_gram(tied, **kwargs):
  return gl.value_grad_gram(
      functools.partial(decoder.losses_fn, tied, **kwargs)
  )


class UsersTest(parameterized.TestCase):
  """Blocks as Flax NNX, Flax linen and plain functions."""

  def check(self, make_losses_fn, params):
    """`make_losses_fn(probe_of)` against gradients of single rows."""
    rng = np.random.default_rng(0)
    x_RxBxD = jnp.asarray(rng.normal(size=(R, 5, 3)), jnp.float32)
    probes = {name: gl.Probe(R) for name in params}
    _, grads, grams = jax.jit(gl.value_grad_gram(make_losses_fn))(
        params, probes, x_RxBxD
    )
    none = dict.fromkeys(params)
    rows = decoder.matrix([
        jax.grad(lambda p, x: make_losses_fn(p, none, x[None])[0])(params, x)
        for x in x_RxBxD
    ])
    self.assertLess(relative(decoder.flat(grads), rows.sum(0)), 2e-6)
    self.assertLess(relative(whole(grams), rows @ rows.T), 2e-6)
    self.assertGreater(abs(rows).max(), 1e-2)

  def test_nnx(self):
    class Block(nnx.Module):

      def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)
        self.norm = nnx.LayerNorm(3, rngs=rngs)

      def __call__(self, x):
        return x + jnp.tanh(self.norm(self.linear(x)))

    split = [nnx.split(Block(nnx.Rngs(i))) for i in range(2)]
    graphdef = split[0][0]
    block = gl.tap(lambda state, x: nnx.merge(graphdef, state)(x))

    def losses_fn(params, probes, x_RxBxD):
      for name in ('first', 'second'):
        x_RxBxD = block(params[name], x_RxBxD, probes[name])
      return jnp.square(x_RxBxD).sum((1, 2))

    self.check(losses_fn, dict(first=split[0][1], second=split[1][1]))

  def test_linen(self):
    class Block(linen.Module):

      @linen.compact
      def __call__(self, x):
        return x + jnp.tanh(linen.Dense(3)(x))

    module = Block()
    block = gl.tap(module.apply)

    def losses_fn(params, probes, x_RxBxD):
      for name in ('first', 'second'):
        x_RxBxD = block(params[name], x_RxBxD, probes[name])
      return jnp.square(x_RxBxD).sum((1, 2))

    first, second = (
        module.init(jax.random.key(i), jnp.ones((1, 3))) for i in range(2)
    )
    self.check(losses_fn, dict(first=first, second=second))

  def test_pytrees_in_and_out_with_extra_arguments_of_each_row(self):
    def block(p, x, scale, offset_key):
      # Integers and keys pass through without a gradient.
      noise = jax.random.normal(offset_key, x['x'].shape)
      y = jnp.tanh(x['x'] @ p['w']) * scale + noise
      return {'x': y, 'count': x['count'] + 1}

    tapped = gl.tap(block)
    scale_R = jnp.arange(1.0, R + 1)
    keys_R = jax.random.split(jax.random.key(0), R)

    def losses_fn(params, probes, x_RxBxD):
      n = len(x_RxBxD)
      x = {'x': x_RxBxD, 'count': jnp.zeros((n, 2), jnp.int32)}
      for name in ('first', 'second'):
        x = tapped(params[name], x, probes[name], scale_R[:n], keys_R[:n])
      return jnp.square(x['x']).sum((1, 2)) + x['count'].sum(1)

    rng = np.random.default_rng(1)
    params = {
        name: {'w': jnp.asarray(rng.normal(size=(3, 3)), jnp.float32)}
        for name in ('first', 'second')
    }
    x_RxBxD = jnp.asarray(rng.normal(size=(R, 5, 3)), jnp.float32)
    probes = {name: gl.Probe(R) for name in params}
    _, grads, grams = gl.value_grad_gram(losses_fn)(params, probes, x_RxBxD)
    none = dict.fromkeys(params)
    jacobian = jax.jacrev(lambda p: losses_fn(p, none, x_RxBxD))(params)
    rows = np.concatenate(
        [np.asarray(a, np.float64).reshape(R, -1)
         for a in jax.tree.leaves(jacobian)], axis=1,
    )
    self.assertLess(relative(decoder.flat(grads), rows.sum(0)), 2e-6)
    self.assertLess(relative(whole(grams), rows @ rows.T), 2e-6)

  def test_a_leaf_read_outside_of_a_tap_still_has_its_gradient(self):
    owner = gl.tap(lambda p, x: x @ p, owns=lambda p: p)

    def losses_fn(p, probe, x_RxN):
      y_RxN, shared = owner(p, x_RxN, probe)
      return y_RxN.sum(1) + jnp.sum(shared.leaf ** 2)

    p, x_RxN = jnp.arange(6.0).reshape(2, 3), jnp.ones((R, 2))
    _, grad, _ = gl.value_grad_gram(losses_fn)(p, gl.Probe(R), x_RxN)
    # R rows of ones, and 2 p from each of R losses.
    np.testing.assert_allclose(grad, R + R * 2 * p, rtol=1e-6)


class ShardedTest(parameterized.TestCase):

  def mesh(self):
    return jax.make_mesh(
        (4, 2), ('x', 'y'), (jax.sharding.AxisType.Auto,) * 2
    )

  @parameterized.product(tied=(False, True), rows=('x', None))
  def test_under_jit_on_eight_devices(self, tied, rows):
    mesh = self.mesh()
    params, batch = decoder.params(tied), decoder.batch()
    oracle = decoder.matrix(decoder.rows(tied, params, batch))

    def spread(leaf):
      # The widest axis that the mesh divides, if there is one.
      axes = [None] * leaf.ndim
      for i, size in enumerate(leaf.shape):
        if size % 2 == 0:
          axes[i] = 'y'
          break
      return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, P(*axes)))

    params = jax.tree.map(spread, params)
    batch = jax.device_put(batch, jax.sharding.NamedSharding(mesh, P(rows)))
    _, grads, grams = jax.jit(value_grad_gram(tied))(
        params, decoder.probes(), *batch
    )
    self.assertLess(relative(decoder.flat(grads), oracle.sum(0)), 2e-6)
    self.assertLess(relative(whole(grams), oracle @ oracle.T), 2e-6)

  @tied_or_not
  def test_examples_of_a_row_spread_under_shard_map(self, tied):
    # Each of two devices has half of every row's sequences. A row's loss is a
    # mean over sequences, so each device adds half of its own mean.
    mesh = jax.make_mesh((2,), ('data',), (jax.sharding.AxisType.Auto,))
    params, batch = decoder.params(tied), decoder.batch()
    oracle = decoder.matrix(decoder.rows(tied, params, batch))

    def step(params, *batch):
      def losses_fn(params, probes, *batch):
        return 0.5 * decoder.losses_fn(
            tied, params, probes, *batch, shards=gl.Shards(examples=('data',))
        )

      losses_R, grads, grams = gl.value_grad_gram(losses_fn)(
          params, decoder.probes(), *batch
      )
      return jax.lax.psum(losses_R, 'data'), grads, grams

    losses_R, grads, grams = jax.jit(jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P(None, 'data'), P(None, 'data')),
        out_specs=P(), check_vma=False,
    ))(params, *batch)
    expected, _, _ = value_grad_gram(tied)(params, decoder.probes(), *batch)
    np.testing.assert_allclose(losses_R, expected, rtol=1e-5)
    self.assertLess(relative(decoder.flat(grads), oracle.sum(0)), 2e-6)
    self.assertLess(relative(whole(grams), oracle @ oracle.T), 2e-6)


class MisuseTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.block = gl.tap(lambda w, x: jnp.sum(w * x))
    self.x_RxN = jnp.ones((R, 3))
    self.w = jnp.ones(3)

  def test_forward_mode(self):
    with self.assertRaisesRegex(TypeError, 'forward-mode'):
      jax.jvp(
          lambda w: self.block(w, self.x_RxN, gl.Probe(R)), (self.w,), (self.w,)
      )

  def test_not_a_probe(self):
    with self.assertRaisesRegex(TypeError, 'takes a gl.Probe or None, got'):
      self.block(self.w, self.x_RxN, jnp.zeros((R, R)))

  def test_another_number_of_rows(self):
    with self.assertRaisesRegex(
        ValueError, r'x_R has shape \(4, 3\), but the probe has 3 rows'
    ):
      self.block(self.w, self.x_RxN, gl.Probe(3))

  def test_layers_that_no_scan_took_apart(self):
    with self.assertRaisesRegex(ValueError, 'of 6 layers .* scan it beside'):
      self.block(self.w, self.x_RxN, gl.Probe(R, 6))

  def test_weights_that_do_not_fit(self):
    with self.assertRaisesRegex(ValueError, r'\(3,\) in a probe of num_rows=4'):
      gl.Probe(R, weights_R=jnp.ones(3))

  def test_summed_losses(self):
    f = gl.value_grad_gram(lambda w, p, x: self.block(w, x, p).sum())
    with self.assertRaisesRegex(
        ValueError, r'losses of shape \(\), expected \(4,\): one for each row'
    ):
      f(self.w, gl.Probe(R), self.x_RxN)

  def test_no_probe(self):
    f = gl.value_grad_gram(lambda w, p, x: self.block(w, x, p))
    with self.assertRaisesRegex(ValueError, 'no gl.Probe among the probes'):
      f(self.w, None, self.x_RxN)

  def test_owner_without_a_probe(self):
    owner = gl.tap(lambda p, x: x @ p, owns=lambda p: p)
    reader = gl.tap(lambda p, x, leaf: jnp.sum(p * (leaf @ x)))
    y_R, shared = owner(jnp.ones((3, 3)), self.x_RxN, None)
    with self.assertRaisesRegex(ValueError, 'owns the shared .* has no probe'):
      reader(self.w, y_R, gl.Probe(R), shared=shared)


if __name__ == '__main__':
  absltest.main()
