"""A wrong chain is named before it runs."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
from stacked_grads import K, flat, grads_of, one_update, params_like

import gradlens as gl


class CheckTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ('alone', lambda correct: correct),
      ('chain', lambda correct: optax.chain(
          correct, optax.clip_by_global_norm(1.0), optax.adamw(1e-3))),
      ('nested', lambda correct: optax.chain(
          optax.chain(correct, optax.clip(1.0)), optax.adam(1e-3))),
      ('named', lambda correct: optax.named_chain(
          ('z', correct), ('a', optax.adam(1e-3)))),
      ('multi_steps_after', lambda correct: optax.chain(
          correct,
          optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation())),
      ('finite_after', lambda correct: optax.chain(
          correct, optax.apply_if_finite(optax.adam(1e-3), 2))),
      ('hyperparams', lambda correct: optax.chain(
          correct, optax.inject_hyperparams(optax.adam)(learning_rate=1e-3))),
  )
  def test_accepts(self, wrap):
    params = params_like(jnp.bfloat16)
    kwargs = {'num_tasks': K, 'num_splits': 2}
    tx = wrap(gl.correct(gl.pcgrad(), blocks=gl.by_layer, **kwargs))
    self.assertIsNone(gl.check(tx, params, **kwargs))
    tx = wrap(gl.correct(gl.mean(), **kwargs))
    self.assertIsNone(gl.check(tx, params, **kwargs))
    # What it accepts does run.
    updates, _ = one_update(tx, grads_of(params, K * 2), params)
    self.assertEqual(*jax.tree.map(jnp.shape, (updates, params)))

  @parameterized.named_parameters(
      ('adam', lambda correct: optax.adam(1e-3),
       r'no gl.correct .* put gl.correct\(..., num_tasks=3\) first'),
      ('clip_before', lambda correct: optax.chain(
          optax.clip_by_global_norm(1.0), correct, optax.adam(1e-3)),
       'number 2 of its chain; put it first'),
      ('adam_before', lambda correct: optax.chain(optax.adam(1e-3), correct),
       'number 2 of its chain'),
      ('nested_before', lambda correct: optax.chain(
          optax.identity(), optax.clip(1.0), optax.chain(correct)),
       'number 3 of its chain'),
      ('within_nested', lambda correct: optax.chain(
          optax.chain(optax.clip(1.0), correct), optax.adam(1e-3)),
       'number 2 of its chain'),
      ('named_before', lambda correct: optax.named_chain(
          ('z', optax.clip(1.0)), ('a', correct)),
       'number 2 of its chain'),
      ('twice', lambda correct: optax.chain(correct, correct),
       'number 2 of its chain'),
      ('multi_steps', lambda correct: optax.MultiSteps(
          optax.chain(correct, optax.adam(1e-3)), 2),
       'optax.MultiSteps accumulates .* put it after gl.correct'),
      ('multi_steps_transformation', lambda correct: optax.MultiSteps(
          correct, 2).gradient_transformation(),
       'optax.MultiSteps accumulates .* put it after gl.correct'),
      ('apply_if_finite', lambda correct: optax.apply_if_finite(correct, 2),
       'optax.apply_if_finite returns .* put it after gl.correct'),
      ('apply_if_finite_deep', lambda correct: optax.chain(
          optax.apply_if_finite(
              optax.chain(correct, optax.adam(1e-3)), 2), optax.scale(1.0)),
       'optax.apply_if_finite returns .* put it after gl.correct'),
      ('dtype', lambda correct: optax.chain(correct, optax.stateless(
          lambda updates, params: optax.tree.cast(updates, jnp.bfloat16))),
       r"updates \['embed'\]: bfloat16\(4, 2\), in params: float32\(4, 2\)"),
      ('shape', lambda correct: optax.chain(correct, optax.stateless(
          lambda updates, params: jax.tree.map(lambda u: u[None], updates))),
       r"updates \['embed'\]: float32\(1, 4, 2\), in params: float32\(4, 2\)"),
      ('structure', lambda correct: optax.chain(correct, optax.stateless(
          lambda updates, params: list(updates.values()))),
       'updates and params differ in structure'),
      ('type_error', lambda correct: optax.chain(correct, optax.stateless(
          lambda updates, params: updates + 1)),
       r'the update fails on gradients of shape \[3, \*param\]: unsupported'),
  )
  def test_names_the_fault(self, wrap, message):
    tx = wrap(gl.correct(gl.mean(), num_tasks=K))
    with self.assertRaisesRegex(ValueError, message):
      gl.check(tx, params_like(), num_tasks=K)

  @parameterized.named_parameters(
      ('shape', lambda state: jnp.append(state, 0.0), r'float32\(4,\), in the'),
      ('dtype', lambda state: state.astype(int), r'int32\(3,\), in the'),
      ('structure', lambda state: (state,), 'differ in structure'),
  )
  def test_a_state_that_changes(self, change, message):
    weighting = gl.Weighting(
        lambda num_tasks: jnp.zeros(num_tasks),
        lambda gram_KxK, state, **extras: (jnp.diag(gram_KxK), change(state)),
    )
    tx = optax.chain(gl.correct(weighting, num_tasks=K), optax.adam(1e-3))
    with self.assertRaisesRegex(ValueError, message):
      gl.check(tx, params_like(), num_tasks=K)

  @parameterized.parameters((2, 1), (3, 2))
  def test_another_number_of_rows(self, num_tasks, num_splits):
    tx = gl.correct(gl.mean(), num_tasks=K)
    with self.assertRaisesRegex(ValueError, 'num_tasks=3 times num_splits=1'):
      gl.check(tx, params_like(), num_tasks=num_tasks, num_splits=num_splits)

  def test_a_weighting_in_the_chain(self):
    tx = optax.chain(gl.pcgrad(), optax.adam(1e-3))
    with self.assertRaisesRegex(TypeError, r'^pcgrad\(\) is a weighting'):
      gl.check(tx, params_like(), num_tasks=K)

  @parameterized.named_parameters(
      ('lagged', 'lagged', None), ('two_pass', 'two_pass', None),
      ('in_backward', 'in_backward', gl.by_layer),
      ('lagged_by_layer', 'lagged', gl.by_layer),
  )
  def test_gradients_that_come_with_their_gram(self, apply, blocks):
    correct = gl.correct(
        gl.pcgrad(), num_tasks=K, num_splits=2, apply=apply, blocks=blocks
    )
    kwargs = dict(num_tasks=K, num_splits=2, apply=apply)
    tx = optax.chain(correct, optax.adam(1e-3))
    self.assertIsNone(gl.check(tx, params_like(), **kwargs))
    with self.assertRaisesRegex(ValueError, 'rows are summed already'):
      gl.check(tx, params_like(), num_tasks=K, num_splits=2)
    tx = optax.chain(optax.clip(1.0), correct)
    with self.assertRaisesRegex(ValueError, 'number 2 of its chain'):
      gl.check(tx, params_like(), **kwargs)

  def test_what_a_weighting_needs_is_given(self):
    weighting = gl.Weighting(
        lambda num_tasks: (),
        lambda gram_KxK, state, losses_K: (losses_K, state), 'by_losses'
    )
    tx = gl.correct(weighting, num_tasks=K)
    self.assertIsNone(
        gl.check(tx, params_like(), num_tasks=K, losses_K=jnp.ones(K))
    )
    with self.assertRaisesRegex(ValueError, "argument: 'losses_K'"):
      gl.check(tx, params_like(), num_tasks=K)

  def test_computes_nothing(self):
    shape = jax.ShapeDtypeStruct((10**6, 10**6), jnp.float32)  # 4 TB.
    tx = optax.chain(gl.correct(gl.pcgrad(), num_tasks=K), optax.adam(1e-3))
    self.assertIsNone(gl.check(tx, {'w': shape}, num_tasks=K))

  def test_these_chains_do_run_unnoticed(self):
    # Why check exists: without it, nothing is raised.
    params = params_like()
    grads = grads_of(params)
    with jax.numpy_rank_promotion('allow'):  # As jax is by default.
      updates, _ = one_update(optax.adam(1e-3), grads, params)
      grown = optax.apply_updates(params['embed'], updates['embed'])
    self.assertEqual(grown.shape, (K, 4, 2))
    tx = optax.chain(
        optax.clip_by_global_norm(1e-3), gl.correct(gl.mean(), num_tasks=K)
    )
    clipped, _ = one_update(tx, grads, params)
    self.assertLess(np.linalg.norm(flat(clipped)), 1e-3)


if __name__ == '__main__':
  absltest.main()
