"""A tap's gradient and Gram matrix are those of rows taken one at a time."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import tapped_decoder as decoder
from tapped_decoder import LAYERS, R, relative, whole

import gradlens as gl

tied_or_not = parameterized.named_parameters(('untied', False), ('tied', True))


def value_grad_gram(tied, **kwargs):
  return gl.value_grad_gram(
      functools.partial(decoder.losses_fn, tied, **kwargs)
  )


class DecoderTest(parameterized.TestCase):

  @parameterized.product(
      tied=(False, True), jit=(False, True), in_turn=(False, True)
  )
  def test_losses_gradient_and_gram_are_those_of_rows(self, tied, jit, in_turn):
    params, batch = decoder.params(tied), decoder.batch()
    rows = decoder.matrix(decoder.rows(tied, params, batch))
    f = value_grad_gram(tied, in_turn=in_turn)
    losses_R, grads, grams = (jax.jit(f) if jit else f)(
        params, decoder.probes(), *batch
    )
    expected = [
        decoder.row_loss(tied, params, *(leaf[r] for leaf in batch))
        for r in range(R)
    ]
    np.testing.assert_allclose(losses_R, expected, rtol=1e-5)
    self.assertLess(relative(decoder.flat(grads), rows.sum(0)), 2e-6)
    self.assertLess(relative(whole(grams), rows @ rows.T), 2e-6)
    self.assertEqual(grams['layers'].shape, (LAYERS, R, R))

  def test_a_tied_leaf_without_an_owner_misses_the_cross_terms(self):
    params, batch = decoder.params(True), decoder.batch()
    rows = decoder.matrix(decoder.rows(True, params, batch))

    def losses_fn(params, probes, *batch):
      apart = {**params, 'head': {
          **params['head'], 'out': params['embed']['table'].T
      }}
      return decoder.losses_fn(False, apart, probes, *batch)

    _, grads, grams = gl.value_grad_gram(losses_fn)(
        params, decoder.probes(), *batch
    )
    self.assertLess(relative(decoder.flat(grads), rows.sum(0)), 2e-6)
    self.assertGreater(relative(whole(grams), rows @ rows.T), 1e-2)

  @tied_or_not
  def test_each_block_and_layer_has_its_own_gram(self, tied):
    params, batch = decoder.params(tied), decoder.batch()
    rows = decoder.rows(tied, params, batch)
    _, _, grams = value_grad_gram(tied)(params, decoder.probes(), *batch)
    for name in ('embed', 'head'):
      own = decoder.matrix([row[name] for row in rows])
      self.assertLess(relative(grams[name], own @ own.T), 2e-6)
    for i in range(LAYERS):
      own = decoder.matrix([
          jax.tree.map(lambda a, i=i: a[i], row['layers']) for row in rows
      ])
      self.assertLess(relative(grams['layers'][i], own @ own.T), 2e-6)

  @tied_or_not
  def test_given_weights_weigh_the_rows_and_leave_the_gram(self, tied):
    params, batch = decoder.params(tied), decoder.batch()
    rows = decoder.matrix(decoder.rows(tied, params, batch))
    weights_R = np.array([0.5, -2.0, 0.0, 3.0])
    probes = decoder.probes(weights_R=jnp.asarray(weights_R, jnp.float32))
    _, grads, grams = value_grad_gram(tied)(params, probes, *batch)
    self.assertLess(relative(decoder.flat(grads), weights_R @ rows), 2e-6)
    self.assertLess(relative(whole(grams), rows @ rows.T), 2e-6)

  @tied_or_not
  def test_a_rule_weighs_each_layer_by_its_own_gram(self, tied):
    params, batch = decoder.params(tied), decoder.batch()
    rows = decoder.rows(tied, params, batch)
    rule = gl.correct(gl.equalize_norms(), num_tasks=R).rule
    probes = decoder.probes(rule=rule)
    _, grads, _ = value_grad_gram(tied)(params, probes, *batch)

    def equalized(parts):
      own = decoder.matrix(parts)
      return (own / np.linalg.norm(own, axis=1, keepdims=True) / R).sum(0)

    for name in ('embed', 'head'):
      expected = equalized([row[name] for row in rows])
      self.assertLess(relative(decoder.flat(grads[name]), expected), 5e-6)
    for i in range(LAYERS):
      def one(tree, i=i):
        return jax.tree.map(lambda a: a[i], tree['layers'])

      expected = equalized([one(row) for row in rows])
      self.assertLess(relative(decoder.flat(one(grads)), expected), 5e-6)

  def test_metric_and_direction(self):
    params, batch = decoder.params(False), decoder.batch()
    rows = decoder.matrix(decoder.rows(False, params, batch))
    rng = np.random.default_rng(5)
    direction = jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), params
    )
    metric = jax.tree.map(jnp.square, direction)
    probes = {
        name: gl.Probe(
            R, LAYERS if name == 'layers' else None, metric=metric[name],
            direction=direction[name],
        ) for name in params
    }
    losses_fn = functools.partial(decoder.losses_fn, False)
    _, _, readings = gl.value_grad_readings(losses_fn)(params, probes, *batch)
    in_metric = whole([r.metric_gram_RxR for r in readings.values()])
    expected = rows * decoder.flat(metric) @ rows.T
    self.assertLess(relative(in_metric, expected), 2e-6)
    along = sum(
        np.asarray(r.along_R, np.float64).reshape(-1, R).sum(0)
        for r in readings.values()
    )
    expected = rows @ decoder.flat(direction)
    self.assertLess(relative(along, expected), 5e-6)

  @tied_or_not
  def test_without_probes_it_is_plain_vmap(self, tied):
    params, batch = decoder.params(tied), decoder.batch()
    rows = decoder.matrix(decoder.rows(tied, params, batch))
    none = dict.fromkeys(params)

    def loss(params):
      return decoder.losses_fn(tied, params, none, *batch).sum()

    self.assertLess(
        relative(decoder.flat(jax.grad(loss)(params)), rows.sum(0)), 2e-6
    )
    # Forward mode as well, which no tap with a probe allows.
    _, slope = jax.jvp(loss, (params,), (params,))
    expected = rows.sum(0) @ decoder.flat(params)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


class NonFiniteTest(parameterized.TestCase):

  @tied_or_not
  def test_a_bad_row_reaches_no_gradient(self, tied):
    params = decoder.params(tied)
    tokens, advantages = decoder.batch()
    rows = decoder.matrix(decoder.rows(tied, params, (tokens, advantages)))
    spoiled = tokens, advantages.at[1, 0].set(jnp.nan)
    _, grads, grams = value_grad_gram(tied)(params, decoder.probes(), *spoiled)
    others = rows[[0, 2, 3]]
    self.assertLess(relative(decoder.flat(grads), others.sum(0)), 2e-6)
    gram = whole(grams)
    self.assertTrue(np.isnan(gram[1, 1]))
    kept = np.ix_([0, 2, 3], [0, 2, 3])
    self.assertLess(relative(gram[kept], others @ others.T), 2e-6)


class DtypesTest(absltest.TestCase):

  def test_bfloat16_rows_have_a_float32_gram(self):
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=(16, 8)), jnp.bfloat16)
    x_RxN = jnp.asarray(rng.normal(size=(R, 16)), jnp.bfloat16)

    def layer(w, x_N):
      return jnp.sum(jnp.tanh(x_N @ w).astype(jnp.float32))

    tapped = gl.tap(layer)
    _, grad, gram = gl.value_grad_gram(lambda w, p, x: tapped(w, x, p))(
        w, gl.Probe(R), x_RxN
    )
    rows = np.stack([
        np.asarray(jax.grad(layer)(w, x_N).astype(jnp.float32), np.float64)
        .ravel() for x_N in x_RxN
    ])
    self.assertEqual(grad.dtype, jnp.bfloat16)
    self.assertEqual(gram.dtype, jnp.float32)
    # The rows are bfloat16 themselves; their products are not rounded to it,
    # which would cost up to 4e-3.
    self.assertLess(relative(gram, rows @ rows.T), 1e-5)

  def test_parameters_in_float32_computed_in_bfloat16(self):
    w = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    x_RxN = jnp.ones((R, 16), jnp.bfloat16) * jnp.arange(1, R + 1)[:, None]
    tapped = gl.tap(lambda w, x: jnp.sum(x @ w.astype(jnp.bfloat16)))
    _, grad, gram = gl.value_grad_gram(lambda w, p, x: tapped(w, x, p))(
        w, gl.Probe(R), x_RxN.astype(jnp.bfloat16)
    )
    self.assertEqual(grad.dtype, jnp.float32)
    # Row r is r at each of 16 x 8 entries.
    np.testing.assert_allclose(
        gram, 128 * np.outer(np.arange(1, 5), np.arange(1, 5)), rtol=1e-6
    )


class InTurnTest(absltest.TestCase):

  def test_it_has_the_insides_of_one_row(self):
    def scratch(in_turn):
      block = gl.tap(
          lambda w, x: jnp.sum(jnp.sin(jnp.outer(x, w))), in_turn=in_turn
      )
      step = gl.value_grad_gram(lambda w, probe, x_R: block(w, x_R, probe))
      args = jnp.ones(100), gl.Probe(8), jnp.ones((8, 1000))
      compiled = jax.jit(step).lower(*args).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    self.assertLess(scratch(True), scratch(False) / 4)

  def test_what_remat_would_keep_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'in_turn=True .* remat=False'):
      gl.tap(lambda w, x: w * x, in_turn=True, remat=False)


class MemoryTest(absltest.TestCase):

  def test_nothing_is_stacked(self):
    # 16 layers of 64 x 64, 8 rows: stacked, their gradients are 2.1 MB; the
    # rows of one layer are 0.13 MB, and its inputs over all layers 33 kB.
    layers, num_rows, width = 16, 8, 64
    block = gl.tap(lambda w, x: jnp.tanh(x @ w))

    def losses_fn(w, probe, x_RxD):
      x_RxD, _ = jax.lax.scan(
          lambda x, own: (block(own[0], x, own[1]), None), x_RxD, (w, probe)
      )
      return x_RxD.sum(1)

    args = (
        jnp.ones((layers, width, width)), gl.Probe(num_rows, layers),
        jnp.ones((num_rows, width)),
    )

    def scratch(f):
      compiled = jax.jit(f).lower(*args).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    def stacked(w, probe, x_RxD):
      del probe
      rows_RxP = jax.vmap(
          jax.grad(lambda w, x: losses_fn(w, None, x[None])[0]), (None, 0)
      )(w, x_RxD)
      return rows_RxP.sum(0), gl.gram(rows_RxP)

    self.assertLess(scratch(gl.value_grad_gram(losses_fn)), 0.7e6)
    self.assertGreater(scratch(stacked), 2e6)


if __name__ == '__main__':
  absltest.main()
