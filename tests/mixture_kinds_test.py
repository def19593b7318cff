"""Kinds of mixture: their shares by hand, by another program, and in the limit.
"""

import json
import math

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np

import gradlens as gl
from gradlens.mixture import KINDS, Seen, make_kind

NAMES = ('a', 'b', 'c')
SIZES = (100, 400, 20)
_KWARGS = {
    'fixed': dict(shares=dict(a=1, b=2, c=3)),
    'temperature': dict(temperature=2),
}


def make(name, **kwargs):
  return make_kind(name, _KWARGS.get(name, {}) | kwargs, NAMES, SIZES)


def seen(
    advantages=(0.5, 0.5, 0.5), rewards=(0.5, 0.5, 0.5), gram=None,
    counts=(8, 8, 8), estimate='unbiased',
):
  return Seen(
      np.asarray(counts).tolist(), list(rewards), list(advantages),
      None if gram is None else {estimate: np.asarray(gram).tolist()},
  )


def pac_by_hand(told, window, noise, drift):
  """Posteriors by Bayes' rule, as products of normal densities on a grid."""
  grid = np.linspace(-6, 6, 24001)
  log_density = [-grid**2 / 2] * 3
  for t in range(len(told)):
    total = sum(told[t].completions_K)
    for k in range(3):
      latest = told[max(0, t + 1 - window): t + 1]
      rewards = [one.rewards_K[k] for one in latest]
      rise = 0.0
      if len(rewards) > 1:
        slope = np.polyfit(range(len(rewards)), rewards, 1)[0]
        rise = slope * (len(rewards) - 1)
      utility = (1 + rise) * np.mean(
          [one.abs_advantages_K[k] for one in latest])
      weight = 3 * told[t].completions_K[k] / total / noise**2
      posterior = log_density[k] - weight * (grid - utility) ** 2 / 2
      density = np.exp(posterior - posterior.max())
      mean = density @ grid / density.sum()
      variance = density @ (grid - mean) ** 2 / density.sum() + drift**2
      log_density[k] = -(grid - mean) ** 2 / (2 * variance)
      yield mean, variance


def shares(kind, *seen_by_step):
  """After each step."""
  state, found = kind.init(), []
  for one in seen_by_step:
    # As a checkpoint would keep it.
    state = json.loads(json.dumps(kind.learn(state, one)))
    shares_K = np.asarray(kind.shares(state), np.float64)
    found.append(shares_K / shares_K.sum())
  return np.array(found)


class EveryKindTest(parameterized.TestCase):

  @parameterized.parameters(*KINDS)
  def test_shares_are_above_zero_whatever_was_seen(self, name):
    kind = make(name)
    nothing = [None] * 3
    huge = 1e30 * np.eye(3)
    for one in (
        seen(), seen(nothing, nothing, counts=(0, 0, 0)), seen((0, 0, 0)),
        seen((0.5, None, 1.0), (0.5, None, 1.0), counts=(8, 0, 8)),
        seen(gram=np.zeros((3, 3))), seen(gram=-np.eye(3)), seen(gram=huge),
        seen(gram=np.where(np.eye(3) > 0, np.nan, 1.0)),
        seen((1e6, 0, 0), (1e6, 0, 0)),
    ):
      found = shares(kind, seen(), one, one, seen(gram=np.eye(3)))
      self.assertTrue(np.isfinite(found).all(), (one, found))
      self.assertTrue((found > 0).all(), (one, found))

  @parameterized.parameters(*sorted({*KINDS} - {*_KWARGS, 'proportional'}))
  def test_before_anything_is_seen_all_are_alike(self, name):
    kind = make(name)
    shares_K = np.asarray(kind.shares(kind.init()))
    np.testing.assert_allclose(shares_K, shares_K[0] * np.ones(3))

  # Draws of `pac` are of one task after the other: alike, but other ones.
  @parameterized.parameters(*sorted(
      {*KINDS} - {*_KWARGS, 'proportional', 'pac'}
  ))
  def test_tasks_are_treated_alike(self, name):
    rng = np.random.default_rng(0)
    order = [2, 0, 1]
    rows = rng.normal(size=(4, 3, 5))
    told = [
        (rng.uniform(size=3), rng.uniform(size=3), row @ row.T,
         rng.integers(1, 9, 3)) for row in rows
    ]
    found = shares(make(name), *(seen(*one) for one in told))
    again = shares(make(name), *(
        seen(a[order], r[order], gram[order][:, order], n[order])
        for a, r, gram, n in told
    ))
    np.testing.assert_allclose(again, found[:, order], rtol=1e-12)


class GradientTest(parameterized.TestCase):

  @parameterized.parameters(
      (1.0, [1 / 6, 2 / 6, 3 / 6]), (2.0, [1 / 14, 4 / 14, 9 / 14]),
      (4.0, [1 / 98, 16 / 98, 81 / 98]),
  )
  def test_by_hand(self, power, expected):
    # Norms 1, 2, 3; what is beside the diagonal does not matter.
    gram = np.diag([1.0, 4.0, 9.0]) + 0.5 * (1 - np.eye(3))
    found = shares(make('gradient', power=power), seen(gram=gram))
    np.testing.assert_allclose(found, [expected])

  def test_an_average_over_steps(self):
    kind = make('gradient', power=2.0, smoothing=0.75)
    told = np.array([[1.0, 4.0, 9.0], [-2.0, 4.0, 1.0], [3.0, 0.0, -60.0]])
    found = shares(kind, *(seen(gram=np.diag(row)) for row in told))
    for t in range(3):
      weights = 0.75 ** np.arange(t, -1, -1)
      mean = np.maximum(weights @ told[: t + 1] / weights.sum(), 0)
      np.testing.assert_allclose(
          found[t], mean / mean.sum(), rtol=1e-9, atol=2e-12
      )
    self.assertLess(found[2][2], 1e-11)

  def test_changes_every_so_many_steps(self):
    kind = make('gradient', power=2.0, smoothing=0.0, interval=3)
    found = shares(kind, *(
        seen(gram=np.diag([1.0, 1.0, float(t)])) for t in range(1, 8)
    ))
    expected = [1, 1, 3, 3, 3, 6, 6]
    np.testing.assert_allclose(found[:, 2] / found[:, 0], expected)

  def test_steps_that_measured_nothing_change_nothing(self):
    one, none = seen(gram=np.diag([1.0, 4.0, 9.0])), seen()
    found = shares(make('gradient'), one, none, none)
    np.testing.assert_array_equal(found, found[:1].repeat(3, 0))

  def test_a_task_that_was_not_drawn_is_as_the_others(self):
    gram = np.diag([1.0, 9.0, np.nan])
    found = shares(make('gradient'), seen(gram=gram))
    np.testing.assert_allclose(found, [[1 / 6, 3 / 6, 2 / 6]])

  def test_noise_is_left_out_in_the_mean(self):
    # Equal gradients of norm 1, one of which is measured with three times the
    # noise, in two halves with independent errors.
    rng = np.random.default_rng(0)
    dims, steps, smoothing = 200, 2000, 0.999
    noise_K = np.array([0.1, 0.1, 0.3])
    truth = np.zeros(dims)
    truth[0] = 1.0
    told = {'naive': [], 'unbiased': []}
    for _ in range(steps):
      halves_2xKxN = truth / 2 + noise_K[:, None] * rng.normal(
          size=(2, 3, dims)
      )
      cross_K = 4 * np.sum(halves_2xKxN[0] * halves_2xKxN[1], -1)
      told['unbiased'].append(np.diag(cross_K))
      told['naive'].append(np.diag(np.sum(halves_2xKxN.sum(0) ** 2, -1)))
    found = {
        estimate: shares(
            make('gradient', power=2.0, estimate=estimate, smoothing=smoothing),
            *(seen(gram=gram, estimate=estimate) for gram in grams)
        )[-1] for estimate, grams in told.items()
    }
    # Naive squared norms are 1 + 2 N noise^2: 5, 5 and 37.
    np.testing.assert_allclose(
        found['naive'], np.array([5, 5, 37]) / 47, rtol=0.05
    )
    # The variance of a cross product is 16 (2 noise^2 / 4 + N noise^4): 0.40,
    # 0.40 and 26.6. Weights w^t of w = 0.999 over T = 2000 steps leave
    # (1 - w) / (1 + w) (1 + w^T) / (1 - w^T) = 1 / 1523 of it: standard errors
    # of 0.016, 0.016 and 0.132, on values of 1. Of each five.
    low, high = 1 - 5 * 0.132, 1 + 5 * 0.132
    off = 5 * 0.016
    self.assertBetween(
        found['unbiased'][2], low / (low + 2 * (1 + off)),
        high / (high + 2 * (1 - off)),
    )
    self.assertGreater(37 / 47, high / (high + 2 * (1 - off)) + 0.3)

  @parameterized.parameters(
      (dict(power=0), 'power=0'), (dict(smoothing=1.0), 'smoothing=1.0'),
      (dict(interval=0), 'interval=0'), (dict(estimate='true'), "'true'"),
      (dict(powers=1), "unexpected keyword argument 'powers'"),
  )
  def test_refuses(self, kwargs, message):
    with self.assertRaisesRegex(ValueError, f'kwargs=.*{message}'):
      make('gradient', **kwargs)


class BanditTest(parameterized.TestCase):

  def random(self, steps=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (steps, 3)), rng.integers(1, 40, (steps, 3))

  def test_sec_is_a_running_mean(self):
    advantages_TxK, _ = self.random()
    found = shares(
        make('sec', learning_rate=0.3, temperature=0.4),
        *(seen(row) for row in advantages_TxK)
    )
    for t in range(len(found)):
      # Written out, not as a recursion.
      q = sum(
          0.3 * 0.7 ** (t - s) * advantages_TxK[s] for s in range(t + 1)
      )
      odds = np.exp(q / 0.4)
      np.testing.assert_allclose(found[t], odds / odds.sum(), rtol=1e-12)

  def test_sec_keeps_what_was_not_drawn(self):
    found = shares(
        make('sec', learning_rate=0.5, temperature=1.0), seen((0.8, 0.8, 0.8)),
        seen((0.8, None, 0.0))
    )
    # 0.4, then 0.6, 0.4 and 0.2.
    odds = np.exp([0.6, 0.4, 0.2])
    np.testing.assert_allclose(found[1], odds / odds.sum())

  def test_dump_against_all_completions(self):
    advantages_TxK, counts_TxK = self.random()
    window, temperature = 30, 0.2
    found = shares(
        make('dump', window=window, temperature=temperature),
        *(seen(row, counts=n) for row, n in zip(
            advantages_TxK, counts_TxK, strict=True))
    )
    all_of = [[], [], []]
    for t in range(len(found)):
      scores = []
      for k in range(3):
        all_of[k] += [
            (t, advantages_TxK[t, k])] * int(counts_TxK[t, k])
        # Whole steps: all from the first of the latest 30 on.
        first = all_of[k][-window][0] if len(all_of[k]) >= window else 0
        latest = [value for s, value in all_of[k] if s >= first]
        scores.append(math.fsum(latest) / len(latest))
      n_k = [len(own) for own in all_of]
      bound = [
          score + math.sqrt(2 * math.log(sum(n_k) + 1) / (n + 1))
          for score, n in zip(scores, n_k, strict=True)
      ]
      odds = [math.exp(u / temperature) for u in bound]
      np.testing.assert_allclose(found[t], np.array(odds) / sum(odds), 1e-9)

  def test_dump_explores_what_was_drawn_less(self):
    found = shares(make('dump'), seen(counts=(100, 100, 10)))
    self.assertGreater(found[0][2], found[0][0])
    self.assertEqual(found[0][0], found[0][1])

  def test_mt_grpo_is_the_weighting(self):
    rng = np.random.default_rng(0)
    rewards_TxK = rng.uniform(0, 1, (30, 3)).astype(np.float32)
    kwargs = dict(lam=0.7, learning_rate=0.1, weight_decay=1e-2, clip=0.2)
    found = shares(
        make('mt_grpo', **kwargs),
        *(seen(rewards=row.tolist()) for row in rewards_TxK)
    )
    weighting = gl.mt_grpo(**kwargs)
    state = weighting.init(3)
    for row, got in zip(rewards_TxK, found, strict=True):
      want, state = weighting.update(
          jnp.eye(3), state, rewards_K=jnp.asarray(row)
      )
      np.testing.assert_allclose(got, want, rtol=2e-5)
    self.assertGreater(np.ptp(found[-1]), 0.05)

  def test_pac_is_bayes_rule(self):
    rng = np.random.default_rng(0)
    told = [
        seen(rng.uniform(size=3).tolist(), rng.uniform(size=3).tolist(),
             counts=rng.integers(1, 20, 3)) for _ in range(9)
    ]
    kind = make('pac', window=4, noise=0.7, drift=0.3)
    state, found = kind.init(), []
    for one in told:
      state = json.loads(json.dumps(kind.learn(state, one)))
      found += zip(state['mean'], state['variance'], strict=True)
    np.testing.assert_allclose(
        found, list(pac_by_hand(told, 4, 0.7, 0.3)), rtol=1e-6
    )

  def test_pac_shares_are_chances_to_be_the_best(self):
    kind = make('pac', cold_steps=0)
    state = dict(
        steps=5, recent=[[], [], []], mean=[0.0, 0.5, -9.0],
        variance=[1.0, 0.44, 0.01],
    )
    # b less a is normal with mean 0.5 and variance 1.44: above 0 with
    # Phi(0.5 / 1.2) = 0.6615, c never. Five standard errors of 4096 draws.
    error = 5 * math.sqrt(0.6615 * 0.3385 / 4096)
    found = kind.shares(state)
    np.testing.assert_allclose(found[1], 0.6615, atol=error)
    np.testing.assert_allclose(found[0], 0.3385, atol=error)
    self.assertBetween(found[2], 1e-13, 1e-11)
    # The same in the same step; others in another.
    np.testing.assert_array_equal(kind.shares(state), found)
    self.assertNotEqual(kind.shares(state | dict(steps=6))[0], found[0])

  def test_pac_prefers_progress_at_equal_advantages(self):
    rising = np.linspace(0.2, 0.6, 12)
    told = [seen(rewards=(r, 0.4, 0.8 - r)) for r in rising]
    found = shares(make('pac', cold_steps=11), *told)
    np.testing.assert_array_equal(found[:10], 1 / 3)
    self.assertGreater(found[-1][0], found[-1][1] + 0.1)
    self.assertGreater(found[-1][1], found[-1][2] + 0.1)

  @parameterized.parameters(
      ('pac', dict(noise=0), 'noise=0 must be above 0'),
      ('sec', dict(learning_rate=0), 'learning_rate=0'),
      ('dump', dict(window=0), 'window=0'),
      ('aligned', dict(smoothing=-1), 'smoothing=-1'),
      ('mt_grpo', dict(learning_rate=0), 'learning_rate=0'),
  )
  def test_refuses(self, name, kwargs, message):
    with self.assertRaisesRegex(ValueError, message):
      make(name, **kwargs)


class AlignedTest(absltest.TestCase):

  def test_by_hand(self):
    # Cosines: a and b 0.5, a and c -0.5, b and c -1.
    norms = np.array([1.0, 2.0, 3.0])
    cosines = np.array([[1, 0.5, -0.5], [0.5, 1, -1], [-0.5, -1, 1]])
    gram = cosines * np.outer(norms, norms)
    found = shares(
        make('aligned', temperature=0.5),
        seen((0.2, 0.4, 0.8), gram=gram)
    )
    agreement = np.array([0.0, -0.25, -0.75])
    odds = np.exp(np.array([0.2, 0.4, 0.8]) * (1 + agreement) / 2 / 0.5)
    np.testing.assert_allclose(found[0], odds / odds.sum())
    # Without gradients it is the mean |advantage| that counts.
    found = shares(make('aligned', temperature=0.5), seen((0.2, 0.4, 0.8)))
    odds = np.exp([0.2, 0.4, 0.8])
    np.testing.assert_allclose(found[0], odds / odds.sum())

  def test_no_signal_is_no_agreement(self):
    gram = np.array([[1.0, 5.0, 0.5], [5.0, -1.0, 0.3], [0.5, 0.3, 1.0]])
    found = shares(
        make('aligned', temperature=1.0), seen((1.0, 1.0, 1.0), gram=gram)
    )
    # Of b no squared norm was found: only a and c have a cosine, 0.5.
    odds = np.exp(np.array([1.25, 1.0, 1.25]) / 2)
    np.testing.assert_allclose(found[0], odds / odds.sum())


if __name__ == '__main__':
  absltest.main()
