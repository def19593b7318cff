"""Advantages, losses and masked reductions against numbers worked by hand."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from gradlens import advantages, losses, masked


class MaskedTest(absltest.TestCase):

  def test_what_is_masked_may_be_anything(self):
    x = jnp.array([1.0, jnp.nan, 5.0, jnp.inf])
    mask = jnp.array([True, False, True, False])
    self.assertEqual(float(masked.sum(x, mask)), 6.0)
    self.assertEqual(float(masked.mean(x, mask)), 3.0)

  def test_the_mean_of_nothing_is_zero_with_zero_gradient(self):
    mask = jnp.zeros(3, bool)
    value, gradient = jax.value_and_grad(masked.mean)(jnp.ones(3), mask)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


class AdvantagesTest(parameterized.TestCase):

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


class PolicyGradientTest(parameterized.TestCase):

  @parameterized.parameters(
      # advantage, ratio, loss, gradient of the loss in the log-probability
      (2.0, 1.0, -2.0, -2.0),
      (2.0, 1.1, -2.2, -2.2),
      (2.0, 1.5, -2.6, 0.0),  # clipped at 1.3: no more pull
      (2.0, 0.5, -1.0, -1.0),  # not clipped below, where it pulls back
      (-2.0, 0.5, 1.6, 0.0),  # clipped at 0.8
      (-2.0, 1.5, 3.0, 3.0),
  )
  def test_clipping(self, advantage, ratio, loss, gradient):
    def f(logprob):
      return losses.policy_gradient(
          logprob.reshape(1, 1, 1), jnp.full((1, 1, 1), -1.0),
          jnp.full((1, 1), advantage), clip_low=0.2, clip_high=0.3,
      )[0, 0, 0]

    got = jax.value_and_grad(f)(jnp.log(ratio) - 1.0)
    np.testing.assert_allclose(got, (loss, gradient), rtol=1e-5, atol=1e-6)


class AggregateTest(parameterized.TestCase):
  # Two completions of 1 and 3 tokens, and a third that has none.
  values = jnp.array([[[6.0, 9.0, 9.0], [1.0, 2.0, 3.0], [9.0, 9.0, 9.0]]])
  mask = jnp.array([[[1, 0, 0], [1, 1, 1], [0, 0, 0]]], bool)

  @parameterized.parameters(
      ('token_mean', 12.0, 4.0),
      ('sequence_mean', 8.0, 2.0),
      ('fixed_length', 12.0, 6.0),
  )
  def test_sums_and_counts(self, aggregate, total, count):
    self.assertEqual(
        float(losses.row_sum(self.values, self.mask, aggregate=aggregate)),
        total,
    )
    self.assertEqual(
        float(losses.row_count(self.mask, aggregate=aggregate)), count
    )

  @parameterized.parameters(
      ('batch', [[10, 10], [10, 10], [10, 10]], [0.4, 0.6, 0.0]),
      # Three tasks, of which the last has no tokens and must not divide by 0.
      ('task', [[12, 12], [18, 18], [1, 1]], [1 / 3] * 3),
  )
  def test_denominators_and_shares(self, normalize, want, shares):
    counts = jnp.array([[1.0, 3.0], [4.0, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(
        losses.denominators(counts, normalize=normalize), want
    )
    got = losses.task_shares(counts, normalize=normalize)
    np.testing.assert_allclose(got, shares, rtol=1e-6)

  def test_unknown_normalize(self):
    with self.assertRaisesRegex(ValueError, "normalize='tokens'"):
      losses.denominators(jnp.ones((1, 1)), normalize='tokens')


if __name__ == '__main__':
  absltest.main()
