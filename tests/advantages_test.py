"""Advantages against plain numpy, prompt by prompt and split by split."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from gradlens import advantages

K, B, G, M, S = 3, 4, 5, 2, 2
_ALL = np.ones((K, B), bool)


class GroupTest(parameterized.TestCase):

  def test_std(self):
    rewards = jnp.array([[[1.0, 0.0, 0.0, 0.0]]])
    # Mean 1/4; variance (9 + 1 + 1 + 1) / 64 = 3/16. The sample standard
    # deviation, 1/2, would give 1.5 and -0.5.
    got = advantages.group_advantages(rewards, scale='std')
    root = np.sqrt(3.0)
    np.testing.assert_allclose(
        got, [[[root, -root / 3, -root / 3, -root / 3]]], rtol=1e-6
    )

  def test_none(self):
    rewards = jnp.array([[[1.0, 0.0], [0.5, 0.25]]])
    got = advantages.group_advantages(rewards, scale='none')
    np.testing.assert_allclose(got, [[[0.5, -0.5], [0.125, -0.125]]])

  def test_equal_rewards_give_exactly_no_advantage(self):
    # In float32 the mean of seven times 0.9 is not 0.9.
    rewards = jnp.full((1, 1, 7), 0.9)
    centered = rewards - jnp.mean(rewards)
    self.assertGreater(float(jnp.abs(centered).max()), 0)
    got = advantages.group_advantages(rewards, scale='std')
    np.testing.assert_array_equal(got, 0.0)
    self.assertTrue(bool(advantages.degenerate_groups(rewards)[0, 0]))

  def test_groups_do_not_touch_each_other(self):
    rewards = jax.random.uniform(jax.random.key(0), (2, 3, 4))
    whole = advantages.group_advantages(rewards, scale='std')
    alone = advantages.group_advantages(rewards[1:, 2:], scale='std')
    np.testing.assert_allclose(whole[1:, 2:], alone, rtol=1e-6)

  def test_unknown_scale(self):
    with self.assertRaisesRegex(ValueError, "scale='mad'"):
      advantages.group_advantages(jnp.ones((1, 1, 2)), scale='mad')


def _rewards(seed=0, shape=(K, B, G)):
  """Some groups of one reward, and in one split of a task all of one."""
  rewards = np.random.default_rng(seed).integers(0, 4, shape) / 3
  rewards[0, 0] = 0.9
  rewards[2, B // S:] = 0.9
  return rewards.astype(np.float32)


def _split(b):
  """The prompts of a split."""
  begin = b // (B // S) * (B // S)
  return slice(begin, begin + B // S)


def _by(values, scale):
  """In deviations, unless there are none."""
  return values / scale if scale > 1e-7 else 0 * values


def _mean(values):
  """0 of no prompts."""
  return np.mean(values) if values.size else 0.0


def _oracle(rewards, baseline, scale, filled=_ALL):
  """In float64, one prompt after the other."""
  r = rewards.astype(np.float64)
  values = np.zeros_like(r)
  for k, b, g in np.ndindex(r.shape):
    rest = [r[k, b, i] for i in range(G) if i != g]
    mean = dict(
        group=np.mean(r[k, b]), leave_one_out=np.mean(rest),
        task=_mean(r[k, _split(b)][filled[k, _split(b)]]),
        batch=_mean(r[:, _split(b)][filled[:, _split(b)]]),
    )[baseline]
    values[k, b, g] = r[k, b, g] - mean
  found = np.zeros_like(r)
  for k, b in np.ndindex(K, B):
    among = dict(
        std=r[k, b], none=None,
        task=values[k, _split(b)][filled[k, _split(b)]],
        batch=values[:, _split(b)][filled[:, _split(b)]],
    )[scale]
    if among is None:
      found[k, b] = values[k, b]
    elif among.size:
      found[k, b] = _by(values[k, b], np.std(among))
  return found


COMBINATIONS = [
    (baseline, scale) for baseline in advantages.BASELINES
    for scale in advantages.SCALES
    if scale != 'std' or baseline in ('group', 'leave_one_out')
]


class RelativeTest(parameterized.TestCase):

  @parameterized.parameters(*COMBINATIONS)
  def test_is_numpys(self, baseline, scale):
    rewards = _rewards()
    with jax.enable_x64(True):  # how sums round is the compiler's affair
      got = advantages.relative(
          jnp.asarray(rewards, jnp.float64), _ALL, baseline=baseline,
          scale=scale, num_splits=S,
      )
    want = _oracle(rewards, baseline, scale)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    for other in COMBINATIONS:
      # To leave one out is a factor, which a scale of all groups undoes.
      same = scale == other[1] and scale in ('task', 'batch') and (
          {baseline, other[0]} == {'group', 'leave_one_out'}
      )
      if other != (baseline, scale) and not same:
        difference = np.abs(_oracle(rewards, *other) - want).max()
        self.assertGreater(difference, 1e-2, other)

  @parameterized.parameters(*COMBINATIONS)
  def test_splits_do_not_touch_each_other(self, baseline, scale):
    rewards = jnp.asarray(_rewards())
    other = rewards.at[:, B // S:].set(_rewards(1)[:, B // S:])
    whole, changed = (
        advantages.relative(
            r, _ALL, baseline=baseline, scale=scale, num_splits=S
        ) for r in (rewards, other)
    )
    np.testing.assert_array_equal(whole[:, :B // S], changed[:, :B // S])
    self.assertGreater(float(jnp.abs(whole - changed).max()), 0.1)

  @parameterized.parameters(*COMBINATIONS)
  def test_places_without_a_prompt_do_not_count(self, baseline, scale):
    rewards = _rewards()
    filled = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    got, changed = (
        np.asarray(advantages.relative(
            jnp.asarray(r), filled, baseline=baseline, scale=scale,
            num_splits=S,
        ))[filled] for r in (
            rewards, np.where(filled[..., None], rewards, rewards[..., ::-1])
        )
    )
    want = _oracle(rewards, baseline, scale, filled)
    np.testing.assert_allclose(got, want[filled], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(got, changed)
    if {baseline, scale} & {'task', 'batch'}:
      every = _oracle(rewards, baseline, scale)
      self.assertGreater(np.abs((every - want)[filled]).max(), 1e-2)

  @parameterized.parameters(*COMBINATIONS)
  def test_equal_rewards_give_exactly_no_advantage(self, baseline, scale):
    # Of 0.9 the mean is off by rounding, and so is the deviation from it.
    got = advantages.relative(
        jnp.full((2, 6, 7), 0.9), np.ones((2, 6), bool), baseline=baseline,
        scale=scale, num_splits=2,
    )
    np.testing.assert_array_equal(got, 0.0)

  @parameterized.parameters(
      ('group', 'mad', "scale='mad'"),
      ('median', 'std', "baseline='median'"),
      ('batch', 'std', "baseline='batch' is not"),
      ('task', 'std', "baseline='task' is not"),
  )
  def test_refuses(self, baseline, scale, message):
    with self.assertRaisesRegex(ValueError, message):
      advantages.relative(
          jnp.ones((1, 2, 2)), np.ones((1, 2), bool), baseline=baseline,
          scale=scale, num_splits=1,
      )

  def test_one_completion_has_no_others(self):
    with self.assertRaisesRegex(ValueError, 'no others'):
      advantages.leave_one_out(jnp.ones((1, 1, 1)))


class DecoupledTest(parameterized.TestCase):

  def test_is_numpys(self):
    rewards = _rewards(2, (K, B, G, M))
    rewards[..., 1] *= 10  # the weight of a reward is not its range
    weights = np.array([1.0, 0.5], np.float32)
    values = np.zeros((K, B, G))
    for k, b, m in np.ndindex(K, B, M):
      own = rewards[k, b, :, m].astype(np.float64)
      values[k, b] += weights[m] * _by(own - own.mean(), own.std())
    want = np.zeros_like(values)
    for b in range(B):
      among = values[:, _split(b)]
      want[:, b] = (values[:, b] - among.mean()) / among.std()
    got = advantages.decoupled(
        jnp.asarray(rewards), np.tile(weights, (K, 1)), _ALL, num_splits=S
    )
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)

  def test_tells_rewards_of_one_sum_apart(self):
    # Two of four have the first reward, one the second: it is rarer, and so
    # worth more. Added first, both would be worth the same.
    rewards = jnp.array([[[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]])
    got = advantages.decoupled(
        rewards, jnp.ones((1, 2)), np.ones((1, 1), bool), num_splits=1
    )[0, 0]
    self.assertGreater(float(got[2]), float(got[0]) + 0.1)
    added = advantages.group_advantages(rewards.sum(-1), scale='std')[0, 0]
    self.assertEqual(float(added[2]), float(added[0]))


if __name__ == '__main__':
  absltest.main()
