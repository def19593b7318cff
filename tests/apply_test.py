"""All ways to apply a correction agree where they are exact."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tapped_decoder as decoder
from tapped_decoder import R, relative

import gradlens as gl

P = jax.sharding.PartitionSpec
K, S = 2, 2
SCALES = np.array([1.0, 3.0])

# By weights that differ between blocks, and that depend on the step's Gram.
WEIGHTINGS = {
    'total': gl.total,
    'equalize_norms': gl.equalize_norms,
    'pcgrad': gl.pcgrad,
}


def losses_fn(tied):
  return functools.partial(decoder.losses_fn, tied)


def run(correction, tied, batches, extras=None, **kwargs):
  """Updates `[steps, N]` of plain descent, and the last state."""
  tx = optax.chain(correction, optax.sgd(1.0))
  value_and_grad = gl.value_and_grad_for(correction, losses_fn(tied), **kwargs)

  @jax.jit
  def step(params, state, *batch):
    values, grads, grams = value_and_grad(params, state, *batch)
    updates, state = tx.update(
        grads, state, params, gram=grams, **(extras or {})
    )
    return values, updates, state

  params = decoder.params(tied)
  state, updates = tx.init(params), []
  for batch in batches:
    _, update, state = step(params, state, *batch)
    updates.append(decoder.flat(update))
  return np.stack(updates), state[0]


def batches(num_steps):
  """Rows r = k * S + s, of task gradients of unequal length."""
  for step in range(num_steps):
    tokens, advantages = decoder.batch(seed=step)
    scale_R = jnp.asarray(np.repeat(SCALES, S), jnp.float32)
    yield tokens, advantages * scale_R[:, None]


class AgreementTest(parameterized.TestCase):

  @parameterized.product(tied=(False, True), name=tuple(WEIGHTINGS))
  def test_two_pass_is_stacked(self, tied, name):
    got, want = (
        run(
            gl.correct(
                WEIGHTINGS[name](), num_tasks=K, num_splits=S, apply=apply
            ), tied, batches(2),
        ) for apply in ('two_pass', 'stacked')
    )
    self.assertLess(relative(got[0], want[0]), 1e-5)
    for field in ('gram_RxR', 'gram_KxK', 'weights_K'):
      self.assertLess(
          relative(getattr(got[1], field), getattr(want[1], field)), 1e-5
      )

  @parameterized.product(
      tied=(False, True), name=tuple(WEIGHTINGS), match_norm=(False, True)
  )
  def test_in_backward_is_stacked_by_blocks(self, tied, name, match_norm):
    got, want = (
        run(
            gl.correct(
                WEIGHTINGS[name](), num_tasks=K, num_splits=S, apply=apply,
                blocks=gl.by_layer, match_norm=match_norm,
            ), tied, batches(2),
        ) for apply in ('in_backward', 'stacked')
    )
    self.assertLess(relative(got[0], want[0]), 1e-5)
    for got_leaf, leaf in zip(
        jax.tree.leaves(got[1].weights_K), jax.tree.leaves(want[1].weights_K),
        strict=True,
    ):
      self.assertLess(relative(got_leaf, leaf), 1e-5)

  @parameterized.product(tied=(False, True), blocks=(None, gl.by_layer))
  def test_lagged_applies_the_weights_of_the_step_before(self, tied, blocks):
    def correction(apply):
      return gl.correct(
          gl.equalize_norms(), num_tasks=K, num_splits=S, apply=apply,
          blocks=blocks,
      )

    first, second = batches(2)
    got, state = run(correction('lagged'), tied, (first, second))
    params = decoder.params(tied)
    plain = [
        -decoder.matrix(decoder.rows(tied, params, batch)).sum(0)
        for batch in (first, second)
    ]
    self.assertLess(relative(got[0], plain[0]), 1e-5)
    # The first step's weights, as stacked gradients give them, on the second
    # step's rows: steps of one batch twice are those of `stacked` in the end.
    again, _ = run(correction('lagged'), tied, (first, first))
    want, want_state = run(correction('stacked'), tied, (first, second))
    self.assertLess(relative(again[1], want[0]), 1e-5)
    self.assertGreater(relative(got[1], plain[1]), 1e-1)
    for got_leaf, leaf in zip(
        jax.tree.leaves(state.weights_K),
        jax.tree.leaves(want_state.weights_K), strict=True,
    ):
      self.assertLess(relative(got_leaf, leaf), 1e-5)

  @parameterized.product(
      tied=(False, True), apply=('stacked', 'two_pass', 'lagged', 'in_backward')
  )
  def test_eight_devices_are_as_good_as_one(self, tied, apply):
    mesh = jax.make_mesh(
        (4, 2), ('rows', 'model'), (jax.sharding.AxisType.Auto,) * 2
    )
    blocks = gl.by_layer if apply == 'in_backward' else None
    correction = gl.correct(
        gl.equalize_norms(), num_tasks=K, num_splits=S, apply=apply,
        blocks=blocks,
    )
    spread = jax.sharding.NamedSharding(mesh, P('rows'))
    got, want = (
        run(correction, tied, sharded)[0] for sharded in (
            [jax.device_put(batch, spread) for batch in batches(2)],
            batches(2),
        )
    )
    self.assertLess(relative(got, want), 1e-5)

  def test_extras_reach_the_weighting_in_every_way(self):
    def update(gram_KxK, state, *, losses_K, **extras):
      # Cross products come by themselves, since there are splits.
      del extras['gram_cross_KxK']
      return losses_K / jnp.sqrt(jnp.diag(gram_KxK)), state

    weighting = gl.Weighting(lambda num_tasks: (), update, 'by_losses')
    losses_K = jnp.array([1.0, 5.0])
    results = []
    for apply in ('stacked', 'in_backward'):
      correction = gl.correct(
          weighting, num_tasks=K, num_splits=S, apply=apply, blocks=gl.by_layer
      )
      tx = optax.chain(correction, optax.sgd(1.0))
      params = decoder.params(False)
      state = tx.init(params)
      (batch,) = batches(1)
      _, grads, grams = gl.value_and_grad_for(correction, losses_fn(False))(
          params, state, *batch, losses_K=losses_K
      )
      updates, _ = tx.update(
          grads, state, params, gram=grams, losses_K=losses_K
      )
      results.append(decoder.flat(updates))
    self.assertLess(relative(*results), 1e-5)

  def test_an_auxiliary_output_comes_along(self):
    def with_aux(p, probes, tokens, advantages):
      losses_R = decoder.losses_fn(False, p, probes, tokens, advantages)
      return losses_R, {'length': jnp.full(len(tokens), 7)}

    for apply in ('stacked', 'two_pass', 'lagged'):
      correction = gl.correct(gl.total(), num_tasks=R, apply=apply)
      (losses_R, aux), _, _ = gl.value_and_grad_for(
          correction, with_aux, has_aux=True
      )(decoder.params(False), correction.init(decoder.params(False)),
        *decoder.batch())
      self.assertEqual(losses_R.shape, (R,))
      np.testing.assert_array_equal(aux['length'], [7] * R)


class SkippedTest(parameterized.TestCase):

  @parameterized.product(
      apply=('stacked', 'two_pass', 'lagged', 'in_backward'),
      bad=(np.nan, np.inf),
  )
  def test_a_bad_task_is_left_out_and_counted(self, apply, bad):
    # Both splits of task 1 are spoiled. Of task 0's rows nothing changes.
    blocks = gl.by_layer if apply == 'in_backward' else None
    correction = gl.correct(
        gl.total(), num_tasks=K, num_splits=S, apply=apply, blocks=blocks
    )
    (tokens, advantages), = batches(1)
    spoiled = tokens, advantages.at[S:].set(bad)
    got, state = run(correction, True, [spoiled, spoiled])
    params = decoder.params(True)
    rows = decoder.matrix(decoder.rows(True, params, (tokens, advantages)))
    self.assertLess(relative(got[1], -rows[:S].sum(0)), 1e-5)
    np.testing.assert_array_equal(state.skipped_K, [0, 2])

  def test_a_skipped_task_keeps_its_lagged_weight(self):
    correction = gl.correct(
        gl.equalize_norms(), num_tasks=K, num_splits=S, apply='lagged'
    )
    good, = batches(1)
    spoiled = good[0], good[1].at[S:].set(jnp.nan)
    _, state = run(correction, False, [good])
    _, later = run(correction, False, [good, spoiled])
    np.testing.assert_allclose(later.weights_K, state.weights_K, rtol=1e-6)
    np.testing.assert_array_equal(later.skipped_K, [0, 1])


class MisuseTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.params = decoder.params(False)
    self.batch = decoder.batch()

  def test_a_chain_in_place_of_the_correction(self):
    tx = optax.chain(gl.correct(gl.total(), num_tasks=R), optax.sgd(1.0))
    with self.assertRaisesRegex(TypeError, 'before optax.chain wraps it'):
      gl.value_and_grad_for(tx, losses_fn(False))

  def test_two_corrections_in_a_state(self):
    correction = gl.correct(gl.total(), num_tasks=R)
    f = gl.value_and_grad_for(correction, losses_fn(False))
    state = (correction.init(self.params),) * 2
    with self.assertRaisesRegex(ValueError, r'2 corrections \(\[0\], \[1\]\)'):
      f(self.params, state, *self.batch)

  @parameterized.parameters(
      ('in_backward', None, "apply='two_pass' or 'lagged'"),
      ('two_pass', gl.by_layer, "apply='in_backward' is exact in one pass"),
      ('later', None, 'use one of stacked, in_backward, two_pass, lagged'),
  )
  def test_what_cannot_be_exact(self, apply, blocks, message):
    with self.assertRaisesRegex(ValueError, message):
      gl.correct(gl.total(), num_tasks=R, apply=apply, blocks=blocks)

  def test_a_gram_is_missing_or_does_not_fit(self):
    tx = gl.correct(gl.total(), num_tasks=R, apply='lagged')
    state = tx.init(self.params)
    with self.assertRaisesRegex(ValueError, "needs the rows' Gram matrix"):
      tx.update(self.params, state, self.params)
    with self.assertRaisesRegex(
        ValueError, r'shape \(3, 3\), expected \[\.\.\., 4, 4\]'
    ):
      tx.update(self.params, state, self.params, gram=jnp.eye(3))
    tx = gl.correct(
        gl.total(), num_tasks=R, apply='lagged', blocks=gl.by_layer
    )
    state = tx.init(self.params)
    for gram in (jnp.eye(R), {'embed': jnp.eye(R)}):
      with self.assertRaisesRegex(ValueError, 'was initialized for'):
        tx.update(self.params, state, self.params, gram=gram)

  def test_rows_where_they_are_summed_already(self):
    tx = gl.correct(gl.total(), num_tasks=R, apply='lagged')
    rows = jax.tree.map(lambda a: jnp.stack([a] * R), self.params)
    with self.assertRaisesRegex(ValueError, 'rows are summed already'):
      tx.update(rows, tx.init(self.params), self.params, gram=jnp.eye(R))


class ScanTest(absltest.TestCase):

  def test_a_loop_on_the_device(self):
    for apply in ('two_pass', 'lagged'):
      correction = gl.correct(gl.pcgrad(), num_tasks=R, apply=apply)
      tx = optax.chain(correction, optax.adam(1e-2))
      f = gl.value_and_grad_for(correction, losses_fn(True))
      params = decoder.params(True)

      def step(carry, batch, tx=tx, f=f):
        params, state = carry
        losses_R, grads, grams = f(params, state, *batch)
        updates, state = tx.update(grads, state, params, gram=grams)
        return (optax.apply_updates(params, updates), state), losses_R.sum()

      batch = decoder.batch()
      steps = jax.tree.map(lambda a: jnp.stack([a] * 30), batch)
      _, losses = jax.jit(
          lambda carry, steps, step=step: jax.lax.scan(step, carry, steps)
      )((params, tx.init(params)), steps)
      self.assertLess(losses[-1], losses[0] - 1)


if __name__ == '__main__':
  absltest.main()
