"""Elementwise corrections, against loops over entries in numpy."""

import json
import pathlib

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradlens as gl

MAKE = {
    'graddrop': gl.graddrop,
    'trimmed_mean': gl.trimmed_mean,
    'excess_mtl': gl.excess_mtl,
    'moco': gl.moco,
}
GRADS = np.random.default_rng(0).normal(size=(5, 4, 3))


def run(tx, steps):
  """Updates of every step, on one leaf."""
  params = jnp.zeros(steps[0].shape[1:])
  state, found = tx.init(params), []
  update = jax.jit(tx.update)
  for rows in steps:
    rows = jnp.asarray(rows, jnp.float32)
    out, state = update(rows, state, params)
    found.append(np.asarray(out))
  return np.array(found), state


class BatteryTest(parameterized.TestCase):

  @parameterized.named_parameters(*MAKE.items())
  def test_a_missing_task_axis_is_refused(self, make):
    tx = optax.chain(make(num_tasks=3), optax.adam(1e-3))
    params = {'w': jnp.ones((2, 3))}
    state = tx.init(params)
    for shape in ((2, 3), (4, 2, 3), (3, 2, 1)):
      with self.assertRaisesRegex(ValueError, r"leaf \['w'\] has shape"):
        tx.update({'w': jnp.ones(shape)}, state, params)
    with self.assertRaisesRegex(ValueError, 'needs the parameters'):
      tx.update({'w': jnp.ones((3, 2, 3))}, state)

  @parameterized.named_parameters(*MAKE.items())
  def test_state_and_dtypes_keep_their_structure(self, make):
    tx = make(num_tasks=3)
    params = {'a': jnp.ones(2, jnp.bfloat16), 'b': jnp.ones((2, 2))}
    grads = jax.tree.map(lambda p: jnp.ones((3, *p.shape), p.dtype), params)
    state = tx.init(params)
    updates, new = jax.jit(tx.update)(grads, state, params)
    self.assertEqual(updates['a'].dtype, jnp.bfloat16)
    for one, other in ((updates, params), (new, state)):
      jax.tree.map(
          lambda x, y: self.assertEqual((x.shape, x.dtype), (y.shape, y.dtype)),
          one, other,
      )

  @parameterized.named_parameters(*MAKE.items())
  def test_hard_rows_give_finite_updates(self, make):
    scales = 10.0 ** np.array([-10, 0, 10])[:, None]
    normal = np.random.default_rng(1).normal(size=(3, 6))
    for rows in (0 * normal, normal, scales * normal, normal * 0 + normal[:1]):
      found, _ = run(make(num_tasks=3), [rows] * 3)
      self.assertTrue(np.isfinite(found).all())


class GradDropTest(absltest.TestCase):

  def test_every_entry_has_one_sign_and_the_mean_is_that_of_the_paper(self):
    # Entries 1, 2 and -1: P = (1 + 2/4) / 2 = 3/4, so that the mean is
    # 3/4 * 3 - 1/4 = 2; the plain sum is 2 as well, but never an outcome.
    rows = np.tile(np.array([[1.0], [2.0], [-1.0]]), (1, 20_000))
    (out,), _ = run(gl.graddrop(num_tasks=3), [rows])
    self.assertEqual(set(np.unique(out)), {3.0, -1.0})
    # One standard error: 4 * sqrt(3/16 / 20000) = 0.0122.
    self.assertAlmostEqual(out.mean(), 2.0, delta=0.05)

  def test_leaks(self):
    rows = GRADS[0]
    (out,), _ = run(gl.graddrop(num_tasks=4, leak=1.0), [rows])
    np.testing.assert_allclose(out, rows.sum(0), rtol=1e-5)
    with self.assertRaisesRegex(ValueError, 'leak=2'):
      gl.graddrop(num_tasks=4, leak=2)

  def test_draws_differ_from_step_to_step(self):
    rows = np.tile(np.array([[1.0], [-1.0]]), (1, 100))
    found, _ = run(gl.graddrop(num_tasks=2), [rows, rows])
    self.assertGreater(np.abs(found[0] - found[1]).sum(), 0)


class TrimmedMeanTest(parameterized.TestCase):

  def test_is_torchjds(self):
    # Of TorchJD 0.18.0 in float64: without the extremes of three rows the
    # median is left.
    rows = np.array([
        [1.0, 0.0, 2.0, -1.0], [-2.0, 1.0, 0.5, 0.0], [0.5, -1.5, -1.0, 1.0],
    ])
    (out,), _ = run(gl.trimmed_mean(num_tasks=3), [rows])
    np.testing.assert_allclose(out, [0.5, 0.0, 0.5, 0.0], atol=1e-7)

  def test_on_the_golden_matrices_by_hand(self):
    path = pathlib.Path(__file__).parent / 'torchjd_values.json'
    rows = np.array(json.loads(path.read_text())['normal_4x10']['rows'])
    (out,), _ = run(gl.trimmed_mean(num_tasks=4), [rows])
    want = (rows.sum(0) - rows.max(0) - rows.min(0)) / 2
    np.testing.assert_allclose(out, want, atol=1e-6)

  def test_nothing_left(self):
    with self.assertRaisesRegex(ValueError, 'leaves none of num_tasks=2'):
      gl.trimmed_mean(num_tasks=2)


class TrackedTest(absltest.TestCase):

  def test_excess_mtl(self):
    squares, weights, first, want = 0, np.ones(4), None, []
    for rows in GRADS:
      squares = squares + rows**2
      excess = (rows**2 / np.sqrt(squares)).sum(1)
      if first is None:
        first = excess
      else:
        weights = weights * np.exp(0.3 * excess / first)
        weights = 4 * weights / weights.sum()
      want.append(weights @ rows)
    found, state = run(gl.excess_mtl(num_tasks=4, step_size=0.3), list(GRADS))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.weights_K, weights, rtol=1e-5)
    self.assertGreater(np.ptp(weights), 0.2)

  def test_moco(self):
    tracked, weights, want = np.zeros((4, 3)), np.full(4, 0.25), []
    grads = GRADS * np.array([[0.5], [1], [2], [3]])
    for t, rows in enumerate(grads, start=1):
      tracked = tracked - 0.5 / t**0.5 * (tracked - rows)
      slope = tracked @ tracked.T @ weights + 0.1 * weights
      logits = weights - 2.0 / t**0.5 * slope
      weights = np.exp(logits) / np.exp(logits).sum()
      want.append(weights @ tracked)
    found, state = run(
        gl.moco(num_tasks=4, gamma=2.0, rho=0.1), list(grads)
    )
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.weights_K, weights, rtol=1e-4)
    self.assertGreater(np.ptp(weights), 0.1)


if __name__ == '__main__':
  absltest.main()
