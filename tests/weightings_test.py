"""What holds for every weighting."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
from weighting_cases import (
    EQUIVARIANT,
    WEIGHTINGS,
    direction_error,
    every_weighting,
    extras,
    hard_rows,
    normal,
    weights_of,
)

import gradlens as gl


class BatteryTest(parameterized.TestCase):

  @every_weighting
  def test_weights_are_finite(self, make):
    weightings = {num_tasks: make(num_tasks) for num_tasks in (1, 3, 64)}
    for name, rows in hard_rows():
      weights_K = weights_of(weightings[len(rows)], rows)
      self.assertEqual(weights_K.shape, (len(rows),), name)
      self.assertEqual(weights_K.dtype, np.float32, name)
      self.assertTrue(np.isfinite(weights_K).all(), f'{name}: {weights_K}')

  @parameterized.parameters(*EQUIVARIANT)
  def test_weights_follow_a_permutation_of_the_tasks(self, name):
    rows = normal(5, 8) * np.arange(1, 6)[:, None]
    order = np.array([3, 0, 4, 1, 2])
    weighting = WEIGHTINGS[name](5)
    want = weights_of(weighting, rows) @ rows
    got = weights_of(weighting, rows[order], order=order)
    # TorchJD's own tolerance is 1e-4.
    self.assertLess(direction_error(got, rows[order], want), 1e-5)

  @every_weighting
  def test_weights_of_an_indefinite_gram_are_finite(self, make):
    # As debiased products may be.
    rotation, _ = np.linalg.qr(normal(5, 5))
    weighting = make(5)
    for values in ([3, 1, 0.1, -0.5, -2], [-1] * 5, [1e-12, 0, 0, 0, -1]):
      for scale in (1e-18, 1.0, 1e18):
        gram_KxK = jnp.asarray(
            rotation * values @ rotation.T * scale, jnp.float32
        )
        weights_K, state = jax.jit(weighting.update)(
            gram_KxK, weighting.init(5), **extras(5, gram_KxK)
        )
        self.assertTrue(np.isfinite(weights_K).all(), f'{values} x {scale}')
        for leaf in jax.tree.leaves(state):
          if jnp.issubdtype(leaf.dtype, jnp.floating):
            self.assertTrue(np.isfinite(leaf).all(), f'{values} x {scale}')

  @every_weighting
  def test_the_state_can_be_donated(self, make):
    weighting = make(3)
    step = jax.jit(
        lambda state, gram_KxK: weighting.update(
            gram_KxK, state, **extras(3, gram_KxK)
        ), donate_argnums=0,
    )
    gram_KxK = gl.gram(jnp.asarray(normal(3, 5), jnp.float32))
    first, _ = step(weighting.init(3), gram_KxK)
    again, _ = step(weighting.init(3), gram_KxK)
    np.testing.assert_array_equal(first, again)

  @every_weighting
  def test_one_task_keeps_its_direction(self, make):
    (weight,) = weights_of(make(1), normal(1, 5))
    self.assertGreater(weight, 0)

  @every_weighting
  def test_steps_in_a_scan_within_a_chain(self, make):
    weighting, num_tasks = make(3), 3
    tx = optax.chain(
        gl.correct(weighting, num_tasks=num_tasks), optax.adam(1e-2)
    )
    params = {'w': jnp.asarray(normal(4, 2), jnp.float32), 'b': jnp.zeros(2)}
    own = extras(num_tasks, jnp.eye(num_tasks))
    gl.check(tx, params, num_tasks=num_tasks, **own)
    traces = []

    @jax.jit
    def train(params, state, grads_TxKxP):
      traces.append(None)

      def step(carry, grads_KxP):
        params, state = carry
        updates, state = tx.update(grads_KxP, state, params, **own)
        return (optax.apply_updates(params, updates), state), updates

      return jax.lax.scan(step, (params, state), grads_TxKxP)

    state = tx.init(params)
    for seed in range(3):
      grads_TxKxP = jax.tree.map(
          lambda leaf, seed=seed: jnp.asarray(
              normal(2, num_tasks, *leaf.shape, seed=seed), jnp.float32
          ),
          params,
      )
      before = params
      (params, state), _ = train(params, state, grads_TxKxP)
      self.assertFalse(np.array_equal(before['w'], params['w']))
    self.assertLen(traces, 1)
    self.assertTrue(np.isfinite(params['w']).all())

  @every_weighting
  def test_state_keeps_its_structure(self, make):
    weighting = make(3)
    state = weighting.init(3)
    _, new_state = weighting.update(
        jnp.eye(3), state, **extras(3, jnp.eye(3))
    )
    self.assertEqual(jax.tree.structure(state), jax.tree.structure(new_state))
    for old, new in zip(
        jax.tree.leaves(state), jax.tree.leaves(new_state), strict=True
    ):
      self.assertEqual((old.shape, old.dtype), (new.shape, new.dtype))

  @every_weighting
  def test_unknown_extras_are_ignored(self, make):
    weighting = make(3)
    gram_KxK = gl.gram(jnp.asarray(normal(3, 5), jnp.float32))
    own = extras(3, gram_KxK)
    plain, _ = weighting.update(gram_KxK, weighting.init(3), **own)
    extra, _ = weighting.update(
        gram_KxK, weighting.init(3), **own, anything='goes'
    )
    np.testing.assert_array_equal(plain, extra)

  @every_weighting
  def test_a_weighting_is_hashable_and_not_a_transformation(self, make):
    weighting = make(3)
    self.assertIn(weighting, {weighting})
    tx = optax.chain(weighting, optax.adam(1e-3))
    with self.assertRaisesRegex(
        TypeError, rf'^{weighting.name}\(\) is a weighting; write gl.correct'
    ):
      tx.init({'w': jnp.ones(3)})

  @parameterized.parameters(
      ('gradnorm', 'losses_K'), ('famo', 'losses_K'), ('dwa', 'losses_K'),
      ('uncertainty_weighting', 'losses_K'), ('stch', 'losses_K'),
      ('mt_grpo', 'rewards_K'), ('modo', 'gram_cross_KxK'),
      ('sdmgrad', 'gram_cross_KxK'),
  )
  def test_what_it_needs_is_named(self, name, extra):
    weighting = WEIGHTINGS[name](3)
    with self.assertRaisesRegex(
        ValueError, rf'^{name}\(\) needs {extra}: (give num_splits|write tx)'
    ):
      weighting.update(jnp.eye(3), weighting.init(3))
    with self.assertRaisesRegex(ValueError, f'needs {extra} of shape'):
      weighting.update(jnp.eye(3), weighting.init(3), **{extra: jnp.ones(2)})

  def test_the_message_for_a_weighting_in_a_chain(self):
    with self.assertRaises(TypeError) as caught:
      optax.chain(gl.pcgrad()).init(jnp.ones(3))
    self.assertEqual(
        str(caught.exception),
        'pcgrad() is a weighting; write gl.correct(gl.pcgrad(), num_tasks=K)',
    )


if __name__ == '__main__':
  absltest.main()
