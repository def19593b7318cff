"""The correction in a chain: equal to the plain optimizer where it must be."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradlens as gl

K = 3


def params_like(dtype=jnp.float32):
  return {
      'embed': jnp.ones((4, 2), dtype),
      'layers': {'w': jnp.ones((3, 2, 2), dtype), 'b': jnp.ones((3, 2), dtype)},
      'scale': jnp.ones((), dtype),
  }


def grads_of(params, num_rows=K, seed=0, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda p: jnp.asarray(rng.normal(size=(num_rows, *p.shape)), dtype),
      params,
  )


def flat(tree):
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
  return np.concatenate([leaf.ravel() for leaf in leaves])


def rows_of(grads):
  num_rows = len(jax.tree.leaves(grads)[0])
  return np.stack([
      flat(jax.tree.map(lambda leaf, r=r: leaf[r], grads))
      for r in range(num_rows)
  ])


def poison(grads, row, value=np.nan):
  """One bad entry, in one leaf of one row."""
  return {**grads, 'embed': grads['embed'].at[row, 1, 1].set(value)}


def one_update(tx, grads, params, **extras):
  return jax.jit(tx.update)(grads, tx.init(params), params, **extras)


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


class SkipTest(parameterized.TestCase):

  @parameterized.product(
      value=(np.nan, np.inf, -np.inf, 1e30),
      num_splits=(1, 2),
      blocks=(None, gl.by_layer),
  )
  def test_a_bad_row_takes_its_task_out(self, value, num_splits, blocks):
    # 1e30 is finite, but its square is not.
    params = params_like()
    grads = grads_of(params, K * num_splits)
    tx = gl.correct(
        gl.total(), num_tasks=K, num_splits=num_splits, blocks=blocks
    )
    bad_row = 2 * num_splits - 1  # The last row of task 1.
    updates, state = one_update(tx, poison(grads, bad_row, value), params)
    kept_R = np.repeat([1.0, 0.0, 1.0], num_splits)
    np.testing.assert_allclose(flat(updates), kept_R @ rows_of(grads), 1e-5)
    np.testing.assert_array_equal(state.skipped_K, [0, 1, 0])
    for weights_K in jax.tree.leaves(state.weights_K):
      self.assertEqual(np.abs(weights_K[..., 1]).max(), 0)
    for gram in jax.tree.leaves((state.gram_RxR, state.gram_KxK)):
      self.assertTrue(np.isfinite(gram).all())
    for gram_KxK in jax.tree.leaves(state.gram_KxK):
      self.assertEqual(np.abs(gram_KxK[..., 1, :]).max(), 0)
      self.assertGreater(np.abs(gram_KxK[..., 0, 2]).min(), 0)

  def test_skips_are_counted_over_steps(self):
    params = params_like()
    tx = gl.correct(gl.pcgrad(), num_tasks=K)
    state, update = tx.init(params), jax.jit(tx.update)
    grads = grads_of(params)
    for rows in ([], [0], [0, 2], [0, 1, 2]):
      bad = grads
      for row in rows:
        bad = poison(bad, row)
      updates, state = update(bad, state, params)
      self.assertTrue(np.isfinite(flat(updates)).all())
    np.testing.assert_array_equal(state.skipped_K, [3, 1, 2])
    self.assertEqual(state.skipped_K.dtype, jnp.int32)
    self.assertEqual(np.abs(flat(updates)).max(), 0)

  @parameterized.parameters(np.nan, np.inf)
  def test_a_bad_weight_counts_as_zero(self, value):
    params = params_like()
    grads = grads_of(params)
    tx = gl.correct(gl.constant([1.0, 2.0, value]), num_tasks=K)
    updates, state = one_update(tx, grads, params)
    expected = np.array([1.0, 2.0, 0.0]) @ rows_of(grads)
    np.testing.assert_allclose(flat(updates), expected, 1e-5)
    np.testing.assert_array_equal(state.weights_K, [1.0, 2.0, 0.0])
    np.testing.assert_array_equal(state.skipped_K, [0, 0, 1])

  def test_no_nan_is_ever_made(self):
    params = params_like()
    grads = grads_of(params)
    with jax.debug_nans(True):
      one_update(
          gl.correct(gl.equalize_norms('median'), num_tasks=K, match_norm=True),
          jax.tree.map(jnp.zeros_like, grads),
          params,
      )


class MatchNormTest(parameterized.TestCase):

  @parameterized.product(
      weighting=(gl.mean(), gl.equalize_norms(), gl.constant([1, -5, 1e-12])),
      num_splits=(1, 2),
  )
  def test_has_the_length_of_total_and_its_own_direction(
      self, weighting, num_splits
  ):
    params = params_like()
    grads = grads_of(params, K * num_splits)
    kwargs = {'num_tasks': K, 'num_splits': num_splits}
    plain, _ = one_update(gl.correct(weighting, **kwargs), grads, params)
    updates, state = one_update(
        gl.correct(weighting, match_norm=True, **kwargs), grads, params
    )
    plain, updates = flat(plain), flat(updates)
    expected = np.linalg.norm(rows_of(grads).sum(axis=0))
    self.assertGreater(abs(np.linalg.norm(plain) / expected - 1), 0.1)
    np.testing.assert_allclose(np.linalg.norm(updates), expected, rtol=1e-5)
    cosine = plain @ updates / np.linalg.norm(plain) / np.linalg.norm(updates)
    self.assertGreater(cosine, 1 - 1e-6)
    # The state shows the weights that were applied.
    weights_R = np.repeat(state.weights_K, num_splits)
    np.testing.assert_allclose(updates, weights_R @ rows_of(grads), 1e-4, 1e-5)

  def test_holds_in_each_block(self):
    params = params_like()
    grads = grads_of(params)
    tx = gl.correct(
        gl.equalize_norms(), num_tasks=K, blocks=gl.by_layer, match_norm=True
    )
    updates, _ = one_update(tx, grads, params)
    for i in range(3):
      got = [leaf[i] for leaf in updates['layers'].values()]
      total = [leaf[:, i].sum(0) for leaf in grads['layers'].values()]
      np.testing.assert_allclose(
          np.linalg.norm(flat(got)), np.linalg.norm(flat(total)), rtol=1e-5
      )

  def test_an_update_of_unknown_length_is_left_alone(self):
    # w_1 g_1 + w_2 g_2 = 0 up to rounding: no direction to stretch.
    grads = jnp.array([[0.1, 0.7, 0.3], [0.2, 1.4, 0.6]])
    tx = gl.correct(gl.constant([2.0, -1.0]), num_tasks=2, match_norm=True)
    updates, _ = one_update(tx, grads, jnp.ones(3))
    self.assertLess(np.abs(updates).max(), 1e-6)


class MisuseTest(parameterized.TestCase):

  def test_not_a_weighting(self):
    with self.assertRaisesRegex(TypeError, 'not a gradient transformation'):
      gl.correct(optax.adam(1e-3), num_tasks=K)
    with self.assertRaisesRegex(TypeError, r'gl.stateless\(function\), got'):
      gl.correct(gl.pcgrad, num_tasks=K)

  def test_arguments_out_of_range(self):
    with self.assertRaisesRegex(ValueError, "'late'; use one of stacked, in"):
      gl.correct(gl.mean(), num_tasks=K, apply='late')
    with self.assertRaisesRegex(ValueError, "'unbiased' .* num_splits >= 2"):
      gl.correct(gl.mean(), num_tasks=K, kind='unbiased')
    with self.assertRaisesRegex(ValueError, 'num_tasks=0 .* must be positive'):
      gl.correct(gl.mean(), num_tasks=0)

  def test_weights_of_another_shape(self):
    weighting = gl.stateless(lambda gram_KxK: jnp.ones(()), 'scalar')
    tx = gl.correct(weighting, num_tasks=K)
    with self.assertRaisesRegex(ValueError, r'scalar returned .* \(\), expect'):
      one_update(tx, grads_of(params_like()), params_like())

  def test_params_are_needed(self):
    tx = optax.chain(gl.correct(gl.mean(), num_tasks=K), optax.sgd(1.0))
    params = params_like()
    with self.assertRaisesRegex(ValueError, 'needs the parameters'):
      tx.update(grads_of(params), tx.init(params))

  @parameterized.parameters((4, 1), (3, 2), (1, 1))
  def test_wrong_number_of_rows(self, num_tasks, num_splits):
    params = params_like()
    tx = gl.correct(gl.mean(), num_tasks=num_tasks, num_splits=num_splits)
    message = (
        r"\['embed'\] has shape \(3, 4, 2\), expected "
        rf'\({num_tasks * num_splits}, 4, 2\): num_tasks={num_tasks} times'
    )
    with self.assertRaisesRegex(ValueError, message):
      tx.update(grads_of(params), tx.init(params), params)

  def test_missing_task_axis(self):
    params = params_like()
    tx = gl.correct(gl.mean(), num_tasks=K)
    message = r"\['embed'\] has shape \(4, 2\), .* no task axis: take gradients"
    with self.assertRaisesRegex(ValueError, message):
      tx.update(params, tx.init(params), params)

  def test_another_tree(self):
    params = params_like()
    tx = gl.correct(gl.mean(), num_tasks=K)
    with self.assertRaisesRegex(ValueError, 'differ in structure'):
      tx.update([jnp.ones((K, 2))], tx.init(params), params)

  def test_multi_steps_around_it_raises_in_update(self):
    params = params_like()
    tx = optax.MultiSteps(gl.correct(gl.mean(), num_tasks=K), 2)
    with self.assertRaisesRegex(ValueError, 'optax.MultiSteps goes after'):
      tx.update(grads_of(params), tx.init(params), params)


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
