"""Weightings with a state, against the papers' algorithms in numpy loops."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from weighting_cases import normal

import gradlens as gl

STEPS = 6


def run(weighting, grams, **extras):
  """Weights of every step; extras are lists with one entry for each."""
  state = weighting.init(len(grams[0]))
  update = jax.jit(weighting.update)
  found = []
  for t, gram_KxK in enumerate(grams):
    own = {
        name: jnp.asarray(values[t], jnp.float32)
        for name, values in extras.items()
    }
    weights_K, state = update(jnp.asarray(gram_KxK, jnp.float32), state, **own)
    found.append(np.asarray(weights_K))
  return np.array(found)


def drifting_rows(num_tasks=4):
  """Rows of every step: a common start, and noise."""
  base = normal(num_tasks, 12) * np.array([0.5, 1, 2, 4])[:num_tasks, None]
  return [base + 0.5 * normal(num_tasks, 12, seed=t) for t in range(STEPS)]


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


class Adam:
  """As in Kingma and Ba, 2014."""

  def __init__(self, size):
    self.m, self.v, self.t = np.zeros(size), np.zeros(size), 0

  def __call__(self, g):
    self.t += 1
    self.m = 0.9 * self.m + 0.1 * g
    self.v = 0.999 * self.v + 0.001 * g**2
    m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
    return m / (np.sqrt(v) + 1e-8)


def nearest_on_simplex(point):
  """By bisection on the level that is taken off."""
  low, high = point.min() - 1, point.max()
  for _ in range(200):
    level = (low + high) / 2
    if np.maximum(point - level, 0).sum() > 1:
      low = level
    else:
      high = level
  return np.maximum(point - level, 0)


LOSSES = np.exp(0.3 * normal(STEPS, 4)) * np.array([0.2, 0.5, 0.6, 0.9])
REWARDS = 1 / (1 + np.exp(-normal(STEPS, 4, seed=3)))


class StatefulTest(parameterized.TestCase):

  def test_gradvac_on_vectors(self):
    # Of two tasks the order is no choice.
    grams, want = [], []
    target = np.zeros((2, 2))
    for rows in drifting_rows(2):
      rows[1] -= 2 * rows[0]    # A conflict, so that something happens.
      rows[1] *= 10
      grams.append(rows @ rows.T)
      turned = rows.copy()
      for i, j in ((0, 1), (1, 0)):
        own, other = np.linalg.norm(turned[i]), np.linalg.norm(rows[j])
        cosine = turned[i] @ rows[j] / own / other
        goal = target[i, j]
        if cosine < goal:
          rest = np.sqrt(1 - goal**2)
          by = goal * np.sqrt(1 - cosine**2) - cosine * rest
          turned[i] += own * by / (other * rest) * rows[j]
        target[i, j] = (1 - 0.3) * goal + 0.3 * cosine
      want.append((turned.sum(0), rows))
    got = run(gl.gradvac(beta=0.3), grams)
    for weights, (update, rows) in zip(got, want, strict=True):
      np.testing.assert_allclose(
          weights @ rows, update, atol=2e-5 * np.linalg.norm(update)
      )
    # It does not stay pcgrad.
    plain = run(gl.pcgrad(), grams)
    self.assertGreater(np.abs(plain - got)[1:].max(), 0.1)

  def test_gradnorm(self):
    weights, adam, want, grams = np.ones(4), Adam(4), [], []
    for t, rows in enumerate(drifting_rows()):
      grams.append(rows @ rows.T)
      norms = np.linalg.norm(rows, axis=1)
      norms = norms / norms.mean()
      rates = LOSSES[t] / LOSSES[0]
      rates = rates / rates.mean()
      lengths = weights * norms
      goals = lengths.mean() * rates**1.5
      weights = weights - 0.1 * adam(np.sign(lengths - goals) * norms)
      weights = 4 * weights / weights.sum()
      want.append(weights)
    got = run(gl.gradnorm(learning_rate=0.1), grams, losses_K=LOSSES)
    np.testing.assert_allclose(got, want, atol=1e-5)
    self.assertGreater(np.ptp(want[-1]), 0.1)

  def test_modo(self):
    weights, want, crosses = np.full(4, 0.25), [], []
    for t, rows in enumerate(drifting_rows()):
      second = rows + 0.1 * normal(4, 12, seed=50 + t)
      cross = rows @ second.T
      crosses.append(cross)
      step = cross @ weights + 0.2 * weights
      weights = nearest_on_simplex(weights - 0.02 * step)
      want.append(weights)
    got = run(gl.modo(gamma=0.02, rho=0.2), crosses, gram_cross_KxK=crosses)
    np.testing.assert_allclose(got, want, atol=2e-6)
    self.assertGreater(np.ptp(want[-1]), 0.1)

  def test_sdmgrad(self):
    weights, want, crosses = np.full(4, 0.25), [], []
    for t, rows in enumerate(drifting_rows()):
      second = rows + 0.1 * normal(4, 12, seed=50 + t)
      cross = rows @ second.T
      crosses.append(cross)
      unit = np.sqrt(np.maximum(np.diag(cross), 0)).mean()
      speed = np.zeros(4)
      for _ in range(5):
        speed = 0.5 * speed + cross / unit**2 @ (weights + 0.3 / 4)
        weights = nearest_on_simplex(weights - 0.05 * speed)
      want.append((weights + 0.3 / 4) / 1.3)
    got = run(
        gl.sdmgrad(learning_rate=0.05, num_steps=5), crosses,
        gram_cross_KxK=crosses,
    )
    np.testing.assert_allclose(got, want, atol=2e-6)
    self.assertGreater(np.ptp(want[-1]), 0.1)

  def test_mt_grpo(self):
    logits, adam, want, last = np.zeros(4), Adam(4), [], None
    for rewards in REWARDS:
      gains = 0 if last is None else np.clip(rewards - last, -0.1, 0.1)
      last = rewards
      signal = gains + 0.9 * rewards
      shares = softmax(logits)
      step = adam(shares * (signal - shares @ signal))
      logits = logits - 0.1 * (step + 0.01 * logits)
      want.append(softmax(logits))
    got = run(
        gl.mt_grpo(lam=0.9, learning_rate=0.1, weight_decay=0.01),
        [np.eye(4)] * STEPS, rewards_K=REWARDS,
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)
    self.assertGreater(np.ptp(want[-1]), 0.05)

  def test_mt_grpo_turns_to_the_task_that_earns_least(self):
    rewards = [[0.9, 0.5, 0.1]] * STEPS
    got = run(gl.mt_grpo(), [np.eye(3)] * STEPS, rewards_K=rewards)
    self.assertTrue((np.diff(got[:, 2]) > 0).all())
    self.assertLess(got[-1, 0], got[-1, 1])

  def test_famo(self):
    logits, adam, want, last = np.zeros(4), Adam(4), [], LOSSES[0]
    for losses in LOSSES:
      drops = np.log(last) - np.log(losses)
      last = losses
      shares = softmax(logits)
      step = adam(shares * (drops - shares @ drops) + 0.01 * logits)
      logits = logits - 0.1 * step
      weights = softmax(logits) / losses
      want.append(weights / weights.sum())
    got = run(
        gl.famo(learning_rate=0.1, weight_decay=0.01), [np.eye(4)] * STEPS,
        losses_K=LOSSES,
    )
    np.testing.assert_allclose(got, want, rtol=1e-4)

  def test_uncertainty_weighting_tends_to_half_the_inverse_loss(self):
    losses = np.array([0.2, 0.5, 2.0])
    got = run(
        gl.uncertainty_weighting(learning_rate=0.05), [np.eye(3)] * 400,
        losses_K=[losses] * 400,
    )
    np.testing.assert_allclose(got[-1], 1 / (2 * losses), rtol=1e-2)
    self.assertGreater(np.abs(got[0] - 1 / (2 * losses)).min(), 0.1)

  def test_dwa(self):
    want = [np.ones(4)] * 2
    for t in range(2, STEPS):
      want.append(4 * softmax(LOSSES[t - 1] / LOSSES[t - 2] / 2.0))
    got = run(gl.dwa(), [np.eye(4)] * STEPS, losses_K=LOSSES)
    np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_stch_is_a_gradient(self):
    pref, mu = np.array([0.1, 0.2, 0.3, 0.4]), 0.05

    def smooth_max(losses):
      return mu * np.log(np.exp(pref * losses / mu).sum())

    want = [
        [(smooth_max(x + e) - smooth_max(x - e)) / 2e-6
         for e in 1e-6 * np.eye(4)] for x in LOSSES
    ]
    got = run(gl.stch(mu, pref), [np.eye(4)] * STEPS, losses_K=LOSSES)
    np.testing.assert_allclose(got, want, atol=1e-5)

  def test_pcd_keeps_its_constraints(self):
    # In units of the moving root mean square; the first step is its own unit.
    average = np.zeros(4)
    grams = [rows @ rows.T for rows in drifting_rows()]
    got = run(gl.pcd(tau=0.1, beta=0.8), grams)
    for t, (rows, weights) in enumerate(zip(drifting_rows(), got, strict=True)):
      norms = np.linalg.norm(rows, axis=1)
      average = 0.8 * average + 0.2 * norms**2
      usual = np.sqrt(average / (1 - 0.8 ** (t + 1)))
      scaled = rows / usual[:, None]
      own = weights * usual
      own = own / own[0]
      update = own @ scaled
      np.testing.assert_allclose(
          np.linalg.norm(weights @ rows), norms[0], rtol=1e-5
      )
      gains = scaled[1:] @ update - 0.1 * (scaled[1:] ** 2).sum(1)
      self.assertGreater(gains.min(), -1e-5)
      self.assertGreaterEqual(own.min(), 0)
      self.assertLess(np.abs(own[1:] * gains).max(), 1e-5)

  def test_pcd_without_a_way_is_the_primary_gradient(self):
    rows = np.array([[1.0, 1.0], [3.0, 0.0], [-3.0, 0.0]])
    (weights,) = run(gl.pcd(), [rows @ rows.T])
    np.testing.assert_allclose(weights @ rows, rows[0], rtol=1e-5)

  def test_krum_takes_the_crowd(self):
    rows = np.array([[1.0, 0.0], [9.0, 9.0], [1.1, 0.0], [1.0, 0.2]])
    (weights,) = run(gl.krum(1, 2), [rows @ rows.T])
    # Squared distances to the nearest one: 0.01, 128 and more, 0.01, 0.04.
    np.testing.assert_allclose(weights, [0.5, 0, 0.5, 0], atol=1e-7)
    with self.assertRaisesRegex(ValueError, 'needs 5 tasks or more, got 4'):
      gl.krum(2).init(4)


class WrappersTest(parameterized.TestCase):

  def test_ema_gram_smooths_what_is_indefinite(self):
    grams = [np.array([[1.0, 2.0], [2.0, 1.0]]), np.diag([3.0, 3.0])]
    got = run(gl.ema_gram(gl.equalize_norms(), decay=0.5), grams)
    # First [[1.5, 1.5], [1.5, 1.5]] of eigenvalues 3 and -1; then the average
    # (first + 2 * second) / 3 = [[7, 2], [2, 7]] / 3.
    np.testing.assert_allclose(got[0], 0.5 / np.sqrt([1.5, 1.5]), rtol=1e-5)
    np.testing.assert_allclose(got[1], 0.5 / np.sqrt([7 / 3] * 2), rtol=1e-5)

  def test_cr_mogm(self):
    grams = [np.diag(values) for values in ([1, 4], [16, 1], [1, 1])]
    plain = [np.array(w) for w in ([0.5, 0.25], [0.125, 0.5], [0.5, 0.5])]
    want = [plain[0]]
    for weights in plain[1:]:
      want.append(0.9 * want[-1] + 0.1 * weights)
    got = run(gl.cr_mogm(gl.equalize_norms()), grams)
    np.testing.assert_allclose(got, want, rtol=1e-6)

  def test_extras_reach_what_is_wrapped(self):
    weighting = gl.ema_gram(gl.cr_mogm(gl.clip_weights(gl.stch(), 0.1, 0.2)))
    got = run(weighting, [np.eye(2)], losses_K=[[0.1, 0.9]])
    np.testing.assert_allclose(got, [[0.2, 0.2]], rtol=1e-6)

  @parameterized.parameters(
      (lambda: gl.ema_gram(gl.mean(), decay=1.0), 'decay=1.0'),
      (lambda: gl.cr_mogm(gl.mean(), alpha=2.0), 'alpha=2.0'),
      (lambda: gl.clip_weights(gl.mean(), 2.0, 1.0), 'low=2.0 is above'),
      (lambda: gl.cagrad(c=1.0), 'c=1.0 must be in'),
      (lambda: gl.fairgrad(0.0), 'alpha=0.0 must be positive'),
      (lambda: gl.upgrad([1, 2]).init(3), r'pref=\(1, 2\) for 3 tasks'),
      (lambda: gl.pcd(tau=2.0), 'tau=2.0'),
      (lambda: gl.random_weights('cauchy'), "'normal' or 'dirichlet'"),
      (lambda: gl.aligned_mtl('max'), "'min', 'median' or 'mean'"),
  )
  def test_misuse(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()


if __name__ == '__main__':
  absltest.main()
