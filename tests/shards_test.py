"""Taps on parameters and rows that are spread over the devices of a mesh."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import tapped_decoder as decoder
from tapped_decoder import relative, whole

import gradlens as gl

# Of every matrix the model's width, which all of these meshes divide.
DIMS = dict(table=1, position=1, mix=0, up=0, down=1, out=0)
AXES = ('task', 'fsdp')
SIZE = 8  # sequences of a row


def dim(path, leaf):
  """As the tap sees it: without an axis of layers."""
  del leaf
  return DIMS.get(path[-1].key)


def spec(path, leaf):
  """As `jax.jit` sees it."""
  axes = [None] * leaf.ndim
  if dim(path, leaf) is not None:
    axes[dim(path, leaf) + (path[0].key == 'layers')] = AXES
  return P(*axes)


def tensor_spec(path, leaf, devices):
  """Another axis over the devices that are left, if they divide one."""
  axes = [*spec(path, leaf), *[None] * leaf.ndim][: leaf.ndim]
  for i, size in enumerate(leaf.shape):
    if axes[i] is None and size % devices == 0 and (
        i or path[0].key != 'layers'
    ):
      axes[i] = 'tensor'
      break
  return P(*axes)


def sharded(tied, sizes, num_rows, *, probe=(), spread_rows=True):
  """A function like `value_grad_readings`, on a mesh; and its mesh."""
  mesh = jax.make_mesh(
      sizes, (*AXES, 'tensor'), (AxisType.Auto,) * 3,
      devices=jax.devices()[: int(np.prod(sizes))],
  )
  rows, examples = ('task', ('fsdp',)) if spread_rows else (None, AXES)
  shards = gl.Shards(rows, examples, dim)

  def step(params, *batch):
    def losses_fn(params, probes, *batch):
      share = batch[0].shape[1] / SIZE
      losses_R = share * decoder.losses_fn(
          tied, params, probes, *batch, shards=shards
      )
      return shards.collect(losses_R)

    return gl.value_grad_readings(losses_fn)(
        params, decoder.probes(num_rows, **dict(probe)), *batch
    )

  def run(params, *batch):
    specs = jax.tree_util.tree_map_with_path(spec, params)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.device_put(
            leaf, NamedSharding(mesh, tensor_spec(path, leaf, sizes[-1]))
        ),
        params,
    )
    return jax.jit(jax.shard_map(
        step, mesh=mesh, in_specs=(specs, *[P(rows, examples)] * 2),
        out_specs=(P(), specs, P()), axis_names={*AXES}, check_vma=False,
    ))(params, *batch)

  return run


def grams(readings):
  """Of the blocks."""
  return {name: own.gram_RxR for name, own in readings.items()}


MESHES = ((1, 8, 1), (2, 4, 1), (4, 2, 1), (8, 1, 1), (2, 2, 2), (1, 1, 8))


class ShardsTest(parameterized.TestCase):

  @parameterized.product(sizes=MESHES, tied=(False, True))
  def test_as_on_one_device(self, sizes, tied):
    params, batch = decoder.params(tied), decoder.batch(8, size=SIZE)
    oracle = decoder.matrix(decoder.rows(tied, params, batch))
    losses_R, grads, readings = sharded(tied, sizes, 8)(params, *batch)
    want = [decoder.row_loss(tied, params, *(a[r] for a in batch))
            for r in range(8)]
    np.testing.assert_allclose(losses_R, want, rtol=1e-5)
    self.assertLess(relative(decoder.flat(grads), oracle.sum(0)), 3e-6)
    gram = whole(grams(readings), 8)
    self.assertLess(relative(gram, oracle @ oracle.T), 3e-6)

  def test_fewer_rows_than_groups_of_devices(self):
    params, batch = decoder.params(True), decoder.batch(3, size=SIZE)
    oracle = decoder.matrix(decoder.rows(True, params, batch))
    _, grads, readings = sharded(True, (2, 4, 1), 3, spread_rows=False)(
        params, *batch
    )
    self.assertLess(relative(decoder.flat(grads), oracle.sum(0)), 3e-6)
    gram = whole(grams(readings), 3)
    self.assertLess(relative(gram, oracle @ oracle.T), 3e-6)

  def test_weights_and_sketches(self):
    params, batch = decoder.params(True), decoder.batch(4, size=SIZE)
    oracle = decoder.matrix(decoder.rows(True, params, batch))
    weights_R = np.array([2.0, 0.0, -1.0, 0.5])
    probe = dict(weights_R=jnp.asarray(weights_R), sketch_size=2048)
    _, grads, readings = sharded(True, (2, 4, 1), 4, probe=probe)(
        params, *batch
    )
    self.assertLess(
        relative(decoder.flat(grads), weights_R @ oracle), 3e-6
    )
    # There are some 800 parameters, so few of them meet in a bucket.
    estimate = sum(
        np.einsum('...rn,...sn->...rs', own.sketch_RxN, own.sketch_RxN)
        .reshape(-1, 4, 4).sum(0)
        for own in readings.values()
    )
    self.assertLess(relative(estimate, oracle @ oracle.T), 0.1)
    self.assertGreater(relative(estimate, oracle @ oracle.T), 1e-4)

  def test_other_readings(self):
    mesh = jax.make_mesh((8,), ('fsdp',), (AxisType.Auto,))
    shards = gl.Shards(
        None, ('fsdp',), lambda path, leaf: 0 if path[0].key == 'w' else None
    )
    block = gl.tap(lambda p, x_BxN: jnp.sum(x_BxN @ p['w'] + p['b'][0]),
                   shards=shards)

    def step(p, metric, direction, x_RxBxN):
      probe = gl.Probe(2, metric=metric, direction=direction)
      return gl.value_grad_readings(
          lambda p, probe, x: shards.collect(block(p, x, probe))
      )(p, probe, x_RxBxN)[2]

    draw = np.random.default_rng(0)
    trees = [
        dict(w=draw.random(8, np.float32), b=draw.random(1, np.float32))
        for _ in range(3)
    ]
    x_RxBxN = draw.normal(size=(2, 8, 8)).astype(np.float32)
    own = dict(w=P('fsdp'), b=P())
    reading = jax.jit(jax.shard_map(
        step, mesh=mesh, in_specs=(own, own, own, P(None, 'fsdp')),
        out_specs=P(), check_vma=False,
    ))(*trees, x_RxBxN)
    _, metric, direction = (np.append(t['w'], t['b']) for t in trees)
    rows = np.hstack([x_RxBxN.sum(1), np.full((2, 1), 8.0)])
    for got, want in (
        (reading.gram_RxR, rows @ rows.T),
        (reading.metric_gram_RxR, rows * metric @ rows.T),
        (reading.along_R, rows @ direction),
    ):
      np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_a_dimension_that_is_none(self):
    shards = gl.Shards(None, ('fsdp',), lambda path, leaf: -1)
    with self.assertRaisesRegex(ValueError, r"\['w'\] of shape \(3,\) .* -1"):
      shards.dims({'w': jnp.ones(3)})

  def test_gathered_in_half_precision(self):
    mesh = jax.make_mesh((8,), ('fsdp',), (AxisType.Auto,))
    shards = gl.Shards(None, ('fsdp',), lambda path, leaf: 0, jnp.bfloat16)
    seen = []

    def fn(w_N, x_BxN):
      seen.append((w_N.dtype, w_N.shape))
      return jnp.sum(x_BxN @ w_N, dtype=jnp.float32)

    def step(w_N, x_RxBxN):
      return gl.value_grad_gram(lambda w, probe, x: shards.collect(
          gl.tap(fn, shards=shards)(w, x, probe)
      ))(w_N, gl.Probe(2), x_RxBxN)

    # Each sum over a device's examples is exact in 8 bits, their total is not.
    x_RxBxN = jnp.ones((2, 8, 8), jnp.bfloat16).at[:, 0].set(256)
    w_N = jnp.ones(8) + 2**-12
    losses_R, grad, gram_RxR = jax.jit(jax.shard_map(
        step, mesh=mesh, in_specs=(P('fsdp'), P(None, 'fsdp')),
        out_specs=(P(), P('fsdp'), P()), check_vma=False,
    ))(w_N, x_RxBxN)
    self.assertEqual(set(seen), {(jnp.dtype('bfloat16'), (8,))})
    np.testing.assert_array_equal(losses_R, [263 * 8] * 2)
    self.assertEqual(grad.dtype, jnp.float32)
    np.testing.assert_array_equal(grad, [2 * 263] * 8)
    np.testing.assert_array_equal(gram_RxR, np.full((2, 2), 8 * 263**2))

  def test_rows_that_do_not_fit(self):
    with self.assertRaisesRegex(
        ValueError, r'\(2, 2, 6\), but the probe has 6 rows in 4 groups'
    ):
      sharded(False, (4, 2, 1), 6)(
          decoder.params(False), *decoder.batch(8, size=4)
      )


if __name__ == '__main__':
  absltest.main()
