"""What holds for every weighting, and the values of each."""

import functools
import itertools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradlens as gl

TARGETS = ('unit', 'min', 'mean', 'median', 'geometric', 'max')

# constant() is the one that has to know K.
WEIGHTINGS = {
    'total': lambda num_tasks: gl.total(),
    'mean': lambda num_tasks: gl.mean(),
    'constant': lambda num_tasks: gl.constant(np.arange(1, num_tasks + 1)),
    'stateless': lambda num_tasks: gl.stateless(
        lambda gram_KxK: jnp.ones(len(gram_KxK)) / (1 + jnp.trace(gram_KxK))
    ),
    'pcgrad': lambda num_tasks: gl.pcgrad(),
    **{
        f'equalize_{target}': lambda num_tasks, t=target: gl.equalize_norms(t)
        for target in TARGETS
    },
}
every_weighting = parameterized.named_parameters(*WEIGHTINGS.items())

# pcgrad's random orders and constant's given weights belong to positions.
EQUIVARIANT = [n for n in WEIGHTINGS if n not in ('pcgrad', 'constant')]


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def hard_rows():
  """Task gradients that break careless algebra, by name."""
  powers = np.logspace(-10, 10, 3)[:, None]
  yield 'zero', np.zeros((3, 5))
  for scale in (1e-10, 1e-5, 1.0, 1e5, 1e10):
    yield f'scale {scale}', scale * normal(3, 5)
  yield 'mixed scales', powers * normal(3, 5)
  yield 'mixed scales, one zero', powers * normal(3, 5) * [[1], [0], [1]]
  yield 'one zero', normal(3, 5) * [[1], [0], [1]]
  yield 'only one', normal(3, 5) * [[0], [1], [0]]
  yield 'duplicates', np.tile(normal(1, 5), (3, 1))
  yield 'opposite', normal(1, 5) * [[1], [-1], [-1e-3]]
  yield 'dependent', normal(3, 1) @ normal(1, 5)
  yield 'K=1', normal(1, 5)
  yield 'K=1, zero', np.zeros((1, 5))
  yield 'K=64', normal(64, 100)
  yield 'K=64, dependent', normal(64, 3) @ normal(3, 5)


@functools.cache
def jitted(weighting):
  return jax.jit(lambda rows, state: weighting.update(gl.gram(rows), state))


def weights_of(weighting, rows, state=None):
  state = weighting.init(len(rows)) if state is None else state
  weights_K, _ = jitted(weighting)(jnp.asarray(rows, jnp.float32), state)
  return np.asarray(weights_K)


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
    expected = weights_of(weighting, rows)[order]
    got = weights_of(weighting, rows[order])
    np.testing.assert_allclose(got, expected, rtol=1e-5)

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
    gl.check(tx, params, num_tasks=num_tasks)
    traces = []

    @jax.jit
    def train(params, state, grads_TxKxP):
      traces.append(None)

      def step(carry, grads_KxP):
        params, state = carry
        updates, state = tx.update(grads_KxP, state, params)
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
    _, new_state = weighting.update(jnp.eye(3), state)
    self.assertEqual(jax.tree.structure(state), jax.tree.structure(new_state))
    for old, new in zip(
        jax.tree.leaves(state), jax.tree.leaves(new_state), strict=True
    ):
      self.assertEqual((old.shape, old.dtype), (new.shape, new.dtype))

  @every_weighting
  def test_unknown_extras_are_ignored(self, make):
    weighting = make(3)
    gram_KxK = gl.gram(jnp.asarray(normal(3, 5), jnp.float32))
    plain, _ = weighting.update(gram_KxK, weighting.init(3))
    extra, _ = weighting.update(
        gram_KxK, weighting.init(3), losses_K=jnp.ones(3), anything='goes'
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

  def test_the_message_for_a_weighting_in_a_chain(self):
    with self.assertRaises(TypeError) as caught:
      optax.chain(gl.pcgrad()).init(jnp.ones(3))
    self.assertEqual(
        str(caught.exception),
        'pcgrad() is a weighting; write gl.correct(gl.pcgrad(), num_tasks=K)',
    )


class ValuesTest(parameterized.TestCase):

  @parameterized.named_parameters(
      # Of TorchJD 0.18.0 in float64.
      ('mean', gl.mean(), [0.5, 0.5]),
      ('total', gl.total(), [1.0, 1.0]),
      ('pcgrad', gl.pcgrad(), [2.2222222222222223, 1.5789473684210527]),
  )
  def test_golden(self, weighting, expected):
    rows = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    np.testing.assert_allclose(weights_of(weighting, rows), expected, rtol=1e-6)

  @parameterized.parameters(
      # Lengths 1, 2, 4, 16; K = 4.
      ('unit', 1.0),
      ('min', 1.0),
      ('mean', 23 / 4),
      ('median', 3.0),
      ('geometric', 128 ** (1 / 4)),
      ('max', 16.0),
  )
  def test_equalize_norms(self, target, length):
    lengths = np.array([4.0, 1.0, 16.0, 2.0])
    rows = lengths[:, None] * np.eye(4)
    weights = weights_of(gl.equalize_norms(target), rows)
    np.testing.assert_allclose(weights * lengths, [length / 4] * 4, rtol=1e-6)

  @parameterized.parameters(
      ('unit', 1.0), ('min', 2.0), ('mean', 5.0), ('median', 5.0),
      ('geometric', 4.0), ('max', 8.0),
  )
  def test_zero_gradients_do_not_count(self, target, length):
    rows = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 8.0]])
    weights = weights_of(gl.equalize_norms(target), rows)
    expected = [1 / 4, length / 8, 1 / 4, length / 32]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)

  def test_unknown_target(self):
    with self.assertRaisesRegex(ValueError, "target='mode'; use one of unit,"):
      gl.equalize_norms('mode')

  def test_constant_knows_its_tasks(self):
    with self.assertRaisesRegex(ValueError, '2 weights for 3 tasks'):
      gl.correct(gl.constant([1, 2]), num_tasks=3).init(jnp.ones(2))


def projected(rows, i, order):
  """PCGrad of one task on vectors, as the paper's algorithm states it."""
  vector = rows[i].copy()
  for j in order:
    inner = vector @ rows[j]
    if inner < 0:
      vector -= inner / (rows[j] @ rows[j]) * rows[j]
  return vector


class PCGradTest(parameterized.TestCase):

  @parameterized.parameters(3, 4)
  def test_is_the_algorithm_on_vectors_in_some_order(self, num_tasks):
    # The oracle knows no order, so it tries all: 2^3, or 6^4, in the end. All
    # tasks conflict, so that every order ends elsewhere.
    rows = normal(num_tasks, 100)
    rows -= 1.5 * rows.mean(axis=0)
    off_diagonal = ~np.eye(num_tasks, dtype=bool)
    self.assertLess((rows @ rows.T)[off_diagonal].max(), 0)
    choices = []
    for i in range(num_tasks):
      others = [j for j in range(num_tasks) if j != i]
      orders = itertools.permutations(others)
      choices.append([projected(rows, i, order) for order in orders])
    updates = np.array([sum(vs) for vs in itertools.product(*choices)])
    hits = set()
    weighting = gl.pcgrad()
    for seed in range(12):
      weights = weights_of(weighting, rows, jax.random.key(seed))
      errors = np.linalg.norm(updates - weights @ rows, axis=1)
      hits.add(int(errors.argmin()))
      self.assertLess(errors.min(), 1e-5 * np.linalg.norm(rows))
    # Without projections the update is another, and the order is random indeed.
    self.assertGreater(np.linalg.norm(updates - rows.sum(0), axis=1).min(), 0.1)
    self.assertGreater(len(hits), 2)

  def test_without_conflict_it_is_the_total(self):
    rows = np.abs(normal(5, 8))
    np.testing.assert_array_equal(weights_of(gl.pcgrad(), rows), np.ones(5))

  def test_two_tasks_end_without_conflict(self):
    rows = np.array([[1.0, 0.0], [-3.0, 1.0]])
    weights = weights_of(gl.pcgrad(), rows)
    self.assertGreaterEqual((rows @ (weights @ rows)).min(), 0)
    self.assertLess((rows @ rows.sum(0)).min(), -1)

  def test_scales_do_not_matter(self):
    # Two tasks have one order, so weights times lengths depend on nothing else.
    rows = np.array([[1.0, 0.0], [-3.0, 1.0]])
    scales = np.array([1e-10, 1e10])
    plain = weights_of(gl.pcgrad(), rows)[:, None] * rows
    mixed = weights_of(gl.pcgrad(), rows * scales[:, None])[:, None] * rows
    # Task 0 gains 3 * 1e20 of its own length, task 1 gains 0.3 * 1e-20.
    np.testing.assert_allclose(plain[:, 0], [4.0, -3.9], rtol=1e-6)
    np.testing.assert_allclose(mixed[:, 0], [3e20, -3.0], rtol=1e-6)

  def test_the_key_moves_on_and_is_the_users_choice(self):
    weighting = gl.pcgrad()
    state = weighting.init(2)
    self.assertEqual(state, jax.random.key(0))
    _, new_state = weighting.update(jnp.eye(2), state)
    self.assertNotEqual(new_state, state)
    key = jax.random.key(7)
    self.assertEqual(gl.pcgrad(key).init(2), key)

  def test_donating_the_state_leaves_the_users_key(self):
    key = jax.random.key(7)
    weighting = gl.pcgrad(key)
    step = jax.jit(weighting.update, donate_argnums=1)
    first, _ = step(jnp.eye(2), weighting.init(2))
    again, _ = step(jnp.eye(2), weighting.init(2))
    np.testing.assert_array_equal(first, again)
    self.assertFalse(key.is_deleted())


if __name__ == '__main__':
  absltest.main()
