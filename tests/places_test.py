"""Places: prompts of unequal numbers in a batch of one shape."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import joint_loss
from joint_loss import B, G, K
import numpy as np
import optax
import pytest

from gradlens import experience, rollout
from gradlens.configs import default
from gradlens.experience import places
from gradlens.step import objective, train_step
from gradlens.step.optimizer import make_optimizer

S = 2


def random_found(count, seed=0, of=jnp.asarray):
  """Found, of prompts as `joint_loss` has them, and rewards of all kinds."""
  rng = np.random.default_rng(seed)
  t, c = joint_loss.T, joint_loss.C
  prompt_mask = np.arange(t) >= rng.integers(0, t, (count, 1))
  lengths = rng.integers(1, c + 1, (count, G))
  mask = np.arange(c) < lengths[..., None]
  tokens = rng.integers(1, joint_loss.V, mask.shape, np.int32) * mask
  logprobs = rng.normal(-3.4, 0.4, mask.shape).astype(np.float32) * mask
  rewards = rng.integers(0, 4, (count, G)).astype(np.float32) / 4
  return experience.Found(
      rng.integers(2, joint_loss.V, prompt_mask.shape, np.int32) * prompt_mask,
      prompt_mask, rollout.Completions(*map(of, (tokens, mask, logprobs))),
      rewards, np.stack([rewards, 1 - rewards], -1),
      rewards.max(1) == rewards.min(1), lengths, lengths == c, rewards == 0.25,
      rewards == 0.5, 1 + rewards,
      dict(rollout=1.0, verify=2.0),
  )


class PlacesTest(parameterized.TestCase):

  @parameterized.parameters(
      ([4, 2], 4, 2), ([6, 0, 12], 12, 3), ([8, 8], 8, 4), ([2, 16, 6], 16, 2),
      ([5, 3], 7, 1),
  )
  def test_every_prompt_once_and_splits_alike(self, quotas, size, splits):
    index, filled = places.places(np.array(quotas), size, splits)
    # In their order, task after task.
    np.testing.assert_array_equal(index[filled], np.arange(sum(quotas)))
    np.testing.assert_array_equal(filled.sum(1), quotas)
    of_split = filled.reshape(len(quotas), splits, -1)
    np.testing.assert_array_equal(
        of_split.sum(2), np.repeat(quotas, splits).reshape(-1, splits) // splits
    )
    # Spread: any m places next to each other hold m q / B, to one.
    per = size // splits
    for k, quota in enumerate(quotas):
      for m in range(1, per + 1):
        for start in range(per - m + 1):
          held = of_split[k, :, start: start + m].sum(1)
          self.assertLess(np.abs(held - m * quota / size).max(), 1 + 1e-9)
    # Elsewhere are numbers of prompts that there are.
    self.assertBetween(index.min(), 0, sum(quotas) - 1)
    self.assertLess(index.max(), sum(quotas))

  @parameterized.parameters(np.asarray, jnp.asarray)
  def test_what_was_found_is_where_its_prompt_is(self, of):
    found = random_found(14, of=of)  # two of them are not asked for
    index, filled = places.places(np.array([4, 2, 6]), 6, S)
    batch = places.arrange(found, index, filled, S)
    first = places.drawn(found, index, filled)
    at = np.argwhere(filled)
    for n, (k, b) in enumerate(at):
      for whole, part in (
          (batch.prompts_KxBxT, found.prompts_NxT),
          (batch.prompt_mask_KxBxT, found.prompt_mask_NxT),
          (batch.tokens_KxBxGxC, found.completions.tokens_NxGxC),
          (batch.mask_KxBxGxC, found.completions.mask_NxGxC),
          (batch.logprobs_KxBxGxC, found.completions.logprobs_NxGxC),
          (batch.rewards_KxBxG, found.rewards_NxG),
          (batch.parts_KxBxGxM, found.parts_NxGxM),
          (first.parts_KxBxGxM, found.parts_NxGxM),
          (first.equal_KxB, found.equal_N),
          (first.rewards_KxBxG, found.rewards_NxG),
          (first.lengths_KxBxG, found.lengths_NxG),
          (first.truncated_KxBxG, found.truncated_NxG),
      ):
        np.testing.assert_array_equal(whole[k, b], part[n])
    self.assertLen(at, 12)
    for k, b in np.argwhere(~filled):
      self.assertFalse(np.asarray(batch.mask_KxBxGxC)[k, b].any())
      self.assertFalse(batch.parts_KxBxGxM[k, b].any())
      self.assertTrue(batch.prompt_mask_KxBxT[k, b].any())  # attends to some
      split = slice(3 * (b // 3), 3 * (b // 3) + 3)
      own = batch.rewards_KxBxG[k, split][filled[k, split]]
      np.testing.assert_allclose(batch.rewards_KxBxG[k, b], own.mean(), 1e-6)
      self.assertLen(set(batch.rewards_KxBxG[k, b].tolist()), 1)
    kinds = {type(a) for a in batch}
    self.assertIn(type(found.completions.mask_NxGxC), kinds)

  def test_equal_quotas_are_as_they_lie(self):
    found = random_found(12)
    batch = places.arrange(
        found, *places.places(np.array([4, 4, 4]), 4, S), S
    )
    for whole, part in zip(batch, jax.tree.leaves(tuple(found[:5])),
                           strict=True):
      np.testing.assert_array_equal(whole, part.reshape(3, 4, *part.shape[1:]))

  @parameterized.parameters(np.asarray, jnp.asarray)
  def test_put(self, of):
    old, new = random_found(6, of=of), random_found(4, seed=1, of=of)
    index = np.array([-1, 2, -1, 0, -1, -1])
    found = places.put(old, new, index)
    self.assertEqual(found.seconds, dict(rollout=2.0, verify=4.0))
    for a, b, got in zip(*(
        jax.tree.leaves(f._replace(seconds={})) for f in (old, new, found)
    ), strict=True):
      for n, at in enumerate(index):
        np.testing.assert_array_equal(got[n], a[n] if at < 0 else b[at])


@pytest.mark.slow
class GradientTest(parameterized.TestCase):

  def step(self, batch, **options):
    model, params = joint_loss.policy()
    config = default.get_config()
    config.optimizer.schedule, config.optimizer.warmup_steps = 'cosine', 0
    config.optimizer.clip_norm = 1e3
    optimizer = make_optimizer(config, K, None)
    step = train_step.make_train_step(
        model, optimizer, objective.grpo(
            advantage_scale='std', clip_low=joint_loss.CLIP_LOW,
            clip_high=joint_loss.CLIP_HIGH,
        ), num_splits=S, temperature=joint_loss.TEMPERATURE, instrument=True,
        **options,
    )
    state = train_step.TrainState(
        params, optimizer.corrected.init(params), jax.random.key(0), {}, {}
    )
    state, measured = jax.jit(step)(state, batch)
    moments = optax.tree.get(state.opt_state, 'mu')
    return measured, 10 * joint_loss.vector(moments)

  def test_a_place_without_a_prompt_adds_nothing(self):
    aggregate, normalize = 'sequence_mean', 'batch'
    quotas = np.array([4, 2, 2])
    index, filled = places.places(quotas, B, S)
    found = random_found(8)
    batch = places.arrange(found, index, filled, S)
    measured, gradient = self.step(
        batch, aggregate=aggregate, normalize=normalize
    )
    # The oracle goes by sampled tokens: it knows of no places.
    batch = jax.tree.map(np.asarray, batch)
    weights = joint_loss.token_weights(batch, aggregate, normalize)
    _, want = joint_loss.joint(batch, weights)
    self.assertLess(joint_loss.distance(gradient, want), 1e-5)
    np.testing.assert_allclose(measured.shares_K, quotas / 8, rtol=1e-6)
    grams = sum(
        np.asarray(gram, np.float64).reshape(-1, K * S, K * S).sum(0)
        for gram in measured.grams.values()
    )
    for k in range(K):
      for s in range(S):
        only = np.zeros_like(weights)
        own = slice(s * B // S, (s + 1) * B // S)
        only[k, own] = weights[k, own]
        _, row = joint_loss.joint(batch, only)
        np.testing.assert_allclose(
            grams[k * S + s, k * S + s], row @ row, rtol=1e-4
        )
    np.testing.assert_array_equal(measured.advantages_KxBxG[~filled], 0)
    self.assertGreater(np.abs(measured.advantages_KxBxG[filled]).mean(), 0.1)


if __name__ == '__main__':
  absltest.main()
