"""The Gram matrix is exact, by blocks and on shards; estimates are honest."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl

P = jax.sharding.PartitionSpec


def stacked(num_rows, dtype=jnp.float32, seed=0):
  """A stacked gradient with scanned layers and a scalar parameter."""
  shapes = {
      'embed': {'table': (16, 8)},
      'layers': {'w': (3, 8, 16), 'b': (3, 16)},
      'head': {'w': (8, 24), 'scale': ()},
  }
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda shape: jnp.asarray(rng.normal(size=(num_rows, *shape)), dtype),
      shapes,
      is_leaf=lambda node: isinstance(node, tuple),
  )


def numpy_gram(grads):
  """Flat vectors in float64."""
  rows = np.concatenate(
      [
          np.asarray(leaf.astype(jnp.float32), np.float64).reshape(
              leaf.shape[0], -1
          )
          for leaf in jax.tree.leaves(grads)
      ],
      axis=1,
  )
  return rows @ rows.T


def assert_close(gram, expected, tolerance=1e-5):
  """Relative to the lengths of the two rows, entry by entry."""
  lengths = np.sqrt(np.diagonal(expected))
  error = np.abs(np.asarray(gram, np.float64) - expected)
  np.testing.assert_array_less(error / np.outer(lengths, lengths), tolerance)


class GramTest(parameterized.TestCase):

  @parameterized.product(
      num_rows=(1, 5), dtype=(jnp.float32, jnp.bfloat16), jit=(False, True)
  )
  def test_equals_numpy_in_float64(self, num_rows, dtype, jit):
    grads = stacked(num_rows, dtype)
    gram = (jax.jit(gl.gram) if jit else gl.gram)(grads)
    self.assertEqual(gram.dtype, jnp.float32)
    assert_close(gram, numpy_gram(grads))

  def test_products_run_at_the_highest_precision(self):
    # A CPU multiplies in float32 anyway; a TPU does not.
    jaxpr = str(jax.make_jaxpr(gl.gram)(jnp.ones((2, 3))))
    self.assertIn('Precision.HIGHEST', jaxpr)

  @parameterized.parameters(
      [[P(None, 'x')], [P(None, None, 'y')], [P(None, 'x', 'y')], [P('x', 'y')]]
  )
  def test_is_exact_and_local_on_sharded_leaves(self, spec):
    mesh = jax.make_mesh(
        (4, 2), ('x', 'y'), (jax.sharding.AxisType.Auto,) * 2
    )
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.normal(size=(4, 16, 12)), jnp.float32)
    sharded = jax.device_put(grads, jax.sharding.NamedSharding(mesh, spec))
    assert_close(gl.gram(sharded), numpy_gram(grads))
    compiled = jax.jit(gl.gram).lower(sharded).compile()
    assert_close(compiled(sharded), numpy_gram(grads))
    if spec[0] is None:
      self.assertNotIn('all-gather', compiled.as_text())
      self.assertIn('all-reduce', compiled.as_text())

  def test_unequal_numbers_of_rows_are_named(self):
    message = r"\['a'\] has shape \(2, 3\), leaf \['b'\] has \(3, 3\)"
    with self.assertRaisesRegex(ValueError, message):
      gl.gram({'a': jnp.ones((2, 3)), 'b': jnp.ones((3, 3))})
    with self.assertRaisesRegex(ValueError, 'rows lead every leaf'):
      gl.gram(jnp.ones(()))
    with self.assertRaisesRegex(ValueError, 'without leaves'):
      gl.gram({})


class BlocksTest(parameterized.TestCase):

  def test_blocks_and_layers_sum_to_the_gram(self):
    grads = stacked(3)
    grams = gl.gram_blocks(grads, gl.by_layer)
    shapes = {name: gram.shape for name, gram in grams.items()}
    self.assertEqual(
        shapes, {'embed': (3, 3), 'head': (3, 3), 'layers': (3, 3, 3)}
    )
    whole = sum(gram.reshape(-1, 3, 3).sum(0) for gram in grams.values())
    assert_close(whole, numpy_gram(grads))

  def test_each_layer_has_its_own_gram(self):
    grads = stacked(2)
    grams = gl.gram_blocks(grads, gl.by_layer)
    for i in range(3):
      layer = {name: leaf[:, i] for name, leaf in grads['layers'].items()}
      assert_close(grams['layers'][i], numpy_gram(layer))

  def test_the_layer_axis_counts_on_the_parameter(self):
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 3)))
    grams = gl.gram_blocks(grads, lambda path, leaf: gl.Stacked('all', axis=1))
    self.assertEqual(grams['all'].shape, (4, 2, 2))
    for i in range(4):
      assert_close(grams['all'][i], numpy_gram(grads[:, :, i]))

  def test_blocks_see_the_shape_of_the_parameter(self):
    seen = {}

    def blocks(path, leaf):
      seen[jax.tree_util.keystr(path)] = leaf.shape
      return 'all'

    gl.gram_blocks(stacked(2), blocks)
    self.assertEqual(seen["['layers']['w']"], (3, 8, 16))
    self.assertEqual(seen["['head']['scale']"], ())

  def test_by_layer(self):
    params = {
        'decoder': {'layers': {'w': 1.0}},
        'embed': {'table': 1.0},
        'listed': {'layers': [{'w': 1.0}, {'w': 1.0}]},
    }
    leaves = jax.tree_util.tree_leaves_with_path(params)
    self.assertEqual(
        [gl.by_layer(path, leaf) for path, leaf in leaves],
        [gl.Stacked('layers', 0), 'embed', 'layers.0', 'layers.1'],
    )
    self.assertEqual(gl.by_layer((), 1.0), 'params')

  @parameterized.named_parameters(
      ('axis', lambda path, leaf: gl.Stacked('a', axis=3), 'no axis 3'),
      ('none', lambda path, leaf: None, 'a name or gl.Stacked, got None'),
      ('mixed', lambda path, leaf: gl.Stacked('a') if leaf.ndim == 1 else 'a',
       'mixes leaves of'),
  )
  def test_blocks_that_do_not_fit(self, blocks, message):
    grads = {'v': jnp.ones((2, 3)), 'w': jnp.ones((2, 3, 4))}
    with self.assertRaisesRegex(ValueError, message):
      gl.gram_blocks(grads, blocks)


class TaskGramTest(parameterized.TestCase):

  @parameterized.product(num_splits=(2, 3), leading=((), (5,), (2, 3)))
  def test_equals_the_sums_by_hand(self, num_splits, leading):
    num_tasks = 3
    num_rows = num_tasks * num_splits
    rng = np.random.default_rng(num_splits)
    gram = rng.normal(size=(*leading, num_rows, num_rows))
    naive = np.zeros((*leading, num_tasks, num_tasks))
    apart = np.zeros_like(naive)  # Pairs of different splits.
    for r in range(num_rows):
      for q in range(num_rows):
        (k, s), (m, t) = divmod(r, num_splits), divmod(q, num_splits)
        naive[..., k, m] += gram[..., r, q]
        apart[..., k, m] += gram[..., r, q] * (s != t)
    cross = apart * num_splits / (num_splits - 1)
    unbiased = np.where(np.eye(num_tasks, dtype=bool), cross, naive)
    expected = {'naive': naive, 'unbiased': unbiased, 'cross': cross}
    for kind, value in expected.items():
      got = gl.task_gram(jnp.asarray(gram), num_splits, kind)
      np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5)

  def test_one_split_is_the_gram_itself(self):
    gram = jnp.arange(9.0).reshape(3, 3)
    np.testing.assert_array_equal(gl.task_gram(gram, 1), gram)

  def test_unbiased_where_naive_is_29_times_too_large(self):
    # Row s of the one task is g / S + e_s, with independent e_s ~ N(0, v I) in
    # N dimensions. The task's gradient is their sum, so
    #   E naive    = ||g||^2 + S N v
    #   E unbiased = S/(S-1) * S(S-1) * ||g / S||^2 = ||g||^2.
    # With ||g||^2 = 1, S = 2, N = 14, v = 1 the naive expectation is 29.
    num_splits, size, draws = 2, 14, 20_000
    rng = np.random.default_rng(0)
    mean = np.full(size, 1 / np.sqrt(size))
    rows = mean / num_splits + rng.normal(size=(draws, num_splits, size))
    grams = jax.vmap(gl.gram)(jnp.asarray(rows, jnp.float32))
    estimate = {
        kind: np.asarray(gl.task_gram(grams, num_splits, kind)).ravel()
        for kind in ('naive', 'unbiased')
    }
    error = {kind: v.std() / np.sqrt(draws) for kind, v in estimate.items()}
    # Five standard errors are 0.55: the naive one lies 50 times as far away.
    self.assertLess(error['unbiased'], 0.12)
    self.assertLess(abs(estimate['unbiased'].mean() - 1), 5 * error['unbiased'])
    self.assertLess(abs(estimate['naive'].mean() - 29), 5 * error['naive'])

  def test_cross_is_right_for_tasks_that_share_prompts(self):
    # One task under two names: both have the same rows, noise included, so the
    # product of the two is as biased as the naive norm unless splits differ.
    rng = np.random.default_rng(0)
    halves = rng.normal(size=(2, 50)) + 0.3
    gram = gl.gram(jnp.asarray(np.tile(halves, (2, 1)), jnp.float32))
    cross = gl.task_gram(gram, 2, 'cross')
    np.testing.assert_allclose(gl.cosines(cross), np.ones((2, 2)), rtol=1e-5)
    unbiased = gl.task_gram(gram, 2, 'unbiased')
    self.assertGreater(gl.cosines(unbiased)[0, 1], 1.5)

  @parameterized.parameters(
      ('unbiased', 1, 'needs num_splits >= 2'),
      ('cross', 1, 'needs num_splits >= 2'),
      ('naive', 4, 'does not divide'),
      ('median', 2, "use 'naive', 'unbiased' or 'cross'"),
  )
  def test_misuse(self, kind, num_splits, message):
    with self.assertRaisesRegex(ValueError, message):
      gl.task_gram(jnp.eye(6), num_splits, kind)


if __name__ == '__main__':
  absltest.main()
