"""What each weighting promises, on 200 random matrices, in float64 numpy.

Two to sixteen tasks, of every rank and of lengths that differ by up to 1e3.
"""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from weighting_cases import normal, weights_of

import gradlens as gl

NON_CONFLICTING = {
    'upgrad': gl.upgrad, 'dual_proj': gl.dual_proj, 'mgda': gl.mgda,
    'nash_mtl': gl.nash_mtl, 'fairgrad': gl.fairgrad,
    'conflict_free': gl.conflict_free, 'imtl_g': gl.imtl_g,
}


@functools.cache
def matrices(full_rank=False):
  """Rows `[K, 40]` of 200 seeds."""
  found = []
  for seed in range(200):
    rng = np.random.default_rng(seed)
    # Not all numbers of tasks: each is compiled once for every method.
    num_tasks = rng.choice([2, 3, 5, 9, 16])
    rows = rng.normal(size=(num_tasks, 40))
    if not full_rank:
      rank = rng.integers(1, num_tasks + 1)
      rows = rng.normal(size=(num_tasks, rank)) @ rows[:rank]
    scales = 10 ** rng.uniform(-1.5, 1.5, (num_tasks, 1))
    # As the weighting sees them: float32.
    found.append((rows * scales).astype(np.float32).astype(np.float64))
  return found


def units(rows):
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@functools.cache
def solved(name, full_rank=False):
  """Weights of all matrices, float64."""
  weighting = MAKE[name]()
  step = jax.jit(lambda gram_KxK: weighting.update(gram_KxK, ())[0])
  return [
      np.asarray(step(gl.gram(jnp.asarray(rows, jnp.float32))), np.float64)
      for rows in matrices(full_rank)
  ]


MAKE = {**NON_CONFLICTING, 'cagrad': gl.cagrad, 'aligned_mtl': gl.aligned_mtl,
        'fairgrad_2': lambda: gl.fairgrad(2.0),
        'nash_whole': lambda: gl.nash_mtl(max_norm=None)}


class NonConflictingTest(parameterized.TestCase):

  @parameterized.parameters('upgrad', 'dual_proj')
  def test_no_task_is_worked_against(self, name):
    # In units of both lengths; TorchJD's own tolerance is 4e-4. Where the
    # update is 0, its rounding is in units of what it was made of.
    worst = 0.0
    for rows, weights in zip(matrices(), solved(name), strict=True):
      update = weights @ rows
      parts = np.abs(weights) @ np.linalg.norm(rows, axis=1)
      length = max(np.linalg.norm(update), 1e-2 * parts)
      worst = min(worst, (units(rows) @ update / length).min())
    self.assertGreater(worst, -4e-4)

  @parameterized.parameters('mgda', 'nash_mtl', 'fairgrad', 'imtl_g',
                            'conflict_free')
  def test_nor_with_gradients_in_general_position(self, name):
    worst = 0.0
    for rows, weights in zip(matrices(True), solved(name, True), strict=True):
      update = weights @ rows
      worst = min(worst, (units(rows) @ update / np.linalg.norm(update)).min())
    self.assertGreater(worst, -4e-4)

  def test_the_average_does_conflict(self):
    conflicts = sum(
        (rows @ rows.mean(0)).min() < 0 for rows in matrices(True)
    )
    self.assertGreater(conflicts, 100)


class OptimalityTest(absltest.TestCase):

  def kkt(self, rows, bound, v):
    """Errors of `min |v @ rows|^2, v >= bound`, in units of lengths."""
    lengths = np.linalg.norm(rows, axis=1)
    size = np.linalg.norm(bound @ rows) + np.max(lengths * bound)
    slack = (v - bound) * lengths / size
    slope = units(rows) @ (v @ rows) / size
    return max(-slack.min(), -slope.min(), np.abs(slack * slope).max())

  def test_dual_proj(self):
    for rows, v in zip(matrices(), solved('dual_proj'), strict=True):
      bound = np.full(len(rows), 1 / len(rows))
      self.assertLess(self.kkt(rows, bound, v), 1e-4)

  def test_upgrad_is_the_mean_of_exact_projections(self):
    # By an active-set method of our own, on vectors: the projection onto the
    # dual cone is g + NNLS on the rows.
    for rows, weights in zip(matrices(), solved('upgrad'), strict=True):
      want = np.mean([project(rows, row) for row in rows], axis=0)
      error = np.linalg.norm(weights @ rows - want)
      # Where the optimum is 0, in units of the longest row.
      longest = np.linalg.norm(rows, axis=1).max()
      if np.linalg.norm(want) > 1e-2 * longest:
        self.assertLess(error, 1e-4 * np.linalg.norm(want))
      else:
        self.assertLess(error, 1e-5 * longest)

  def test_mgda(self):
    # <g_i, d> >= |d|^2 for all i, with equality where w_i > 0.
    for rows, w in zip(matrices(True), solved('mgda', True), strict=True):
      self.assertGreaterEqual(w.min(), 0)
      self.assertAlmostEqual(w.sum(), 1, 5)
      update = w @ rows
      length = np.linalg.norm(update)
      gap = rows @ update - length**2
      # Products are known in units of both lengths.
      reach = np.maximum(np.linalg.norm(rows, axis=1), length) * length
      self.assertGreater((gap / reach).min(), -1e-5)
      self.assertLess(w @ np.abs(gap), 1e-4 * length**2)

  def test_cagrad(self):
    # With z = w - u >= 0 and |z J| = c |g0|: <g_i, d> is least, and equal,
    # where z_i > 0.
    for rows, w in zip(matrices(True), solved('cagrad', True), strict=True):
      mean = rows.mean(0)
      z = w - 1 / len(rows)
      lengths = np.linalg.norm(rows, axis=1)
      self.assertGreater((z * lengths).min(), -1e-6 * np.linalg.norm(mean))
      np.testing.assert_allclose(
          np.linalg.norm(z @ rows), 0.5 * np.linalg.norm(mean), rtol=1e-4
      )
      gains = rows @ (w @ rows)
      least = gains.min()
      share = np.maximum(z * lengths, 0) / np.sum(np.maximum(z * lengths, 0))
      scale = np.linalg.norm(w @ rows) * lengths
      self.assertLess(share @ ((gains - least) / scale), 1e-4)

  def test_bargains(self):
    for name, power in (('nash_whole', 1.0), ('fairgrad', 1.0),
                        ('fairgrad_2', 0.5)):
      for rows, a in zip(matrices(True), solved(name, True), strict=True):
        self.assertGreater(a.min(), 0)
        np.testing.assert_allclose(
            (rows @ (a @ rows)) * a**power, 1.0, rtol=1e-3
        )

  def test_aligned(self):
    # The update is one length of every principal component: J'G^(-1/2) u is
    # orthogonal, so that its products with the left vectors are u's.
    for rows, w in zip(
        matrices(True), solved('aligned_mtl', True), strict=True
    ):
      left, singular, right = np.linalg.svd(rows, full_matrices=False)
      want = singular.min() * (left.T @ np.full(len(rows), 1 / len(rows)))
      got = right @ (w @ rows)
      np.testing.assert_allclose(got, want, atol=2e-4 * np.linalg.norm(want))

  def test_equal_cosines_and_equal_projections(self):
    for rows, w in zip(
        matrices(True), solved('conflict_free', True), strict=True
    ):
      update = w @ rows
      cosines = units(rows) @ update / np.linalg.norm(update)
      self.assertLess(np.ptp(cosines), 1e-3)
      # The length is the sum of the projections.
      np.testing.assert_allclose(
          np.linalg.norm(update),
          np.sum(rows @ update) / np.linalg.norm(update), rtol=1e-3,
      )
    for rows, w in zip(matrices(True), solved('imtl_g', True), strict=True):
      projections = units(rows) @ (w @ rows)
      np.testing.assert_allclose(
          projections, projections.mean(), atol=1e-3 * abs(projections.mean())
      )


def project(rows, vector):
  """The nearest vector with no negative product with a row (Lawson-Hanson)."""
  u = units(rows)
  active = np.zeros(len(u), bool)
  z = np.zeros(len(u))
  for _ in range(20 * len(u)):
    slope = -(u @ (vector + z @ u))
    slope[active] = -np.inf
    if slope.max() < 1e-10 * np.linalg.norm(vector):
      break
    active[slope.argmax()] = True
    while True:
      trial = np.zeros(len(u))
      trial[active] = np.linalg.lstsq(u[active].T, -vector, rcond=None)[0]
      if trial[active].min() > 0:
        z = trial
        break
      bad = active & (trial <= 0)
      step = np.min(z[bad] / (z[bad] - trial[bad]))
      z = z + step * (trial - z)
      active &= z > 1e-14
      z[~active] = 0
      if not active.any():
        break
  return vector + z @ u


class ScalingTest(parameterized.TestCase):

  @parameterized.parameters('upgrad', 'nash_mtl', 'fairgrad', 'conflict_free')
  def test_a_tasks_part_follows_its_length(self, name):
    # UPGrad's update is linear in each row's length; the bargains' and ConFIG's
    # cosines do not depend on lengths at all.
    rows = normal(6, 20)
    scales = 10 ** np.linspace(-2, 2, 6)[:, None]
    if name == 'upgrad':
      parts = [
          weights_of(gl.upgrad(), rows * np.where(np.arange(6)[:, None] == i,
                                                  scales, 1e-6)) @
          (rows * np.where(np.arange(6)[:, None] == i, scales, 1e-6))
          for i in range(6)
      ]
      whole = weights_of(gl.upgrad(), rows * scales) @ (rows * scales)
      error = np.linalg.norm(sum(parts) - whole) / np.linalg.norm(whole)
      self.assertLess(error, 1e-4)  # TorchJD's tolerance is 6e-2.
    else:
      updates = [
          weights_of(NON_CONFLICTING[name](), own) @ own
          for own in (rows, rows * scales)
      ]
      directions = [u / np.linalg.norm(u) for u in updates]
      np.testing.assert_allclose(*directions, atol=1e-4)

  @parameterized.parameters(
      'upgrad', 'dual_proj', 'mgda', 'cagrad', 'aligned_mtl', 'imtl_g',
      'conflict_free',
  )
  def test_a_common_factor_is_a_factor_of_the_update(self, name):
    rows = normal(5, 20)
    plain = weights_of(MAKE[name](), rows)
    for scale in (1e-9, 1e9):
      np.testing.assert_allclose(
          weights_of(MAKE[name](), rows * scale), plain, rtol=1e-3, atol=1e-5
      )


class StationaryTest(parameterized.TestCase):

  @parameterized.product(
      name=('upgrad', 'dual_proj', 'mgda', 'conflict_free'),
      seed=(0, 1, 2, 3, 4),
  )
  def test_opposite_gradients_give_no_update(self, name, seed):
    row = normal(1, 40, seed=seed)
    rows = row * [[1.0], [-2.3]]
    update = weights_of(MAKE[name](), rows) @ rows
    self.assertLess(np.linalg.norm(update), 1e-5 * np.linalg.norm(row))

  def test_equal_projections_on_opposite_gradients_are_zero(self):
    for seed in range(5):
      rows = normal(1, 40, seed=seed) * [[1.0], [-1.0]]
      update = weights_of(gl.imtl_g(), rows) @ rows
      self.assertLess(np.linalg.norm(update), 1e-5 * np.linalg.norm(rows))


if __name__ == '__main__':
  absltest.main()
