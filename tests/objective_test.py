"""Steps of every kind of loss: rows add up to the joint loss's gradient."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import joint_loss
from joint_loss import TEMPERATURE, B, C, G, K
import numpy as np
import pytest

from gradlens import losses, models
from gradlens.configs import default
from gradlens.setup import goal
from gradlens.step import train_step
from gradlens.step.optimizer import make_optimizer

S = 2
R = K * S
# Some of the last tokens are among these.
STOP_TOKENS = tuple(range(1, 25))

# A config's keys, of which every one is in some case.
CASES = dict(
    everything={
        'advantage.scale': 'batch', 'loss.aggregate': 'fixed_length',
        'loss.normalize': 'task', 'loss.kl_coef': 0.5,
        'loss.entropy_coef': 0.2, 'loss.importance_cap': 1.1,
        'loss.mask_truncated': True,
    },
    sequences={
        'advantage.baseline': 'leave_one_out', 'advantage.scale': 'none',
        'loss.surrogate': 'gspo', 'loss.clip_low': 0.05,
        'loss.clip_high': 0.05, 'loss.kl_coef': 0.5, 'loss.kl_estimator': 'k2',
    },
    weights={
        'advantage.baseline': 'batch', 'advantage.scale': 'batch',
        'loss.aggregate': 'token_mean', 'loss.surrogate': 'cispo',
        'loss.kl_coef': 0.5, 'loss.kl_estimator': 'k1',
        'loss.kl_weighted': True,
    },
)


def config_of(keys):
  config = default.get_config()
  config.update_from_flattened_dict(keys)
  # The first moment is then the step's own gradient.
  config.optimizer.update(b1=0.0, clip_norm=1e3, warmup_steps=0)
  return config


def reference():
  """Parameters of another policy."""
  return models.init(joint_loss.policy()[0], jax.random.key(1))


def make_step(keys, instrument=True):
  """First state and compiled step."""
  model, params = joint_loss.policy()
  config = config_of(keys)
  optimizer = make_optimizer(config, K, None)
  step = jax.jit(train_step.make_train_step(
      model, optimizer,
      goal.make_objective(config, STOP_TOKENS, joint_loss.ONE_KxM),
      num_splits=S, temperature=TEMPERATURE, aggregate=config.loss.aggregate,
      normalize=config.loss.normalize, instrument=instrument,
      num_mini_batches=config.num_mini_batches,
      inner_epochs=config.inner_epochs,
  ))
  kept = reference() if config.loss.kl_coef else {}
  return train_step.TrainState(
      params, optimizer.corrected.init(params), jax.random.key(0), {}, kept
  ), step


def gradient(state):
  return joint_loss.vector(state.opt_state[2][0].mu)


def advantages(batch, case):
  """In float64."""
  r = np.asarray(batch.rewards_KxBxG, np.float64)
  in_splits = r.reshape(K, S, B // S, G)
  # A prompt without a token is none.
  there = batch.mask_KxBxGxC.any((2, 3)).reshape(K, S, B // S, 1)
  over = dict(axis=(0, 2, 3), keepdims=True, where=there)
  if case == 'weights':
    mean, std = in_splits.mean(**over), in_splits.std(**over)
    return ((in_splits - mean) / std).reshape(r.shape)
  centered = in_splits - in_splits.mean(-1, keepdims=True)
  if case == 'sequences':
    return (centered * G / (G - 1)).reshape(r.shape)
  return (centered / centered.std(**over)).reshape(r.shape)


def kept(batch, case):
  """The batch without completions that had no room to end."""
  if case != 'everything':
    return batch
  mask = batch.mask_KxBxGxC.copy()
  for where in np.ndindex(K, B, G):
    if mask[where].all() and batch.tokens_KxBxGxC[where][-1] not in STOP_TOKENS:
      mask[where] = False
  return batch._replace(mask_KxBxGxC=mask)


def oracle(batch, case):
  """Loss, gradient, each row's loss, and means over its tokens."""
  keys = CASES[case]
  advantages_KxBxG = advantages(batch, case)
  batch = kept(batch, case)
  names = keys.get('loss.aggregate', 'sequence_mean'), keys.get(
      'loss.normalize', 'batch')
  weights = joint_loss.token_weights(batch, *names)
  tokens, row, position, sampled, _, weight = joint_loss.flatten(
      batch, weights)
  advantage = np.ravel(advantages_KxBxG)[row].astype(np.float32)
  token = tokens[row, position]

  def said(params):
    logprobs = joint_loss.logprobs(params, tokens, row, position)
    return logprobs[np.arange(len(token)), token], -jnp.sum(
        jnp.exp(logprobs) * logprobs, -1)

  _, params = joint_loss.policy()
  old, _ = said(params)
  other, _ = said(reference())

  def values(params):
    new, entropy = said(params)
    log = new - other
    if case == 'everything':
      # At the first update the policy is the old one, whose ratio is 1.
      ratio = jnp.exp(new - jax.lax.stop_gradient(new))
      trust = jnp.minimum(jnp.exp(old - sampled), 1.1)
      return (
          -trust * ratio * advantage + 0.5 * (jnp.exp(-log) - 1 + log)
          - 0.2 * entropy
      ), jnp.exp(-log) - 1 + log, 0 * log
    if case == 'sequences':
      count = jnp.zeros(K * B * G).at[row].add(1.0)
      mean = jnp.zeros(K * B * G).at[row].add(new - sampled) / jnp.maximum(
          count, 1)
      ratio = jnp.exp(mean)[row]
      bounded = jnp.where(
          advantage > 0, jnp.minimum(ratio, 1.05), jnp.maximum(ratio, 0.95))
      return (
          -advantage * bounded + 0.5 * log**2 / 2, log**2 / 2,
          (bounded != ratio) & (advantage != 0),
      )
    ratio = jnp.exp(new - sampled)
    weight = jax.lax.stop_gradient(jnp.clip(ratio, 0.8, 1.2))
    return -weight * advantage * new + 0.5 * ratio * log, log, weight != ratio

  def total(params):
    found, *seen = values(params)
    return jnp.sum(weight * found), (found, *seen)

  (loss, seen), slope = jax.jit(
      jax.value_and_grad(total, has_aux=True)
  )(params)
  of_row = row // (B * G // S)
  found, divergence, clipped = (np.asarray(a, np.float64) for a in seen)
  sums = np.bincount(of_row, weight * found, R)
  count = np.maximum(np.bincount(of_row, minlength=R), 1)
  means = [np.bincount(of_row, a, R) / count for a in (divergence, clipped)]
  return float(loss), joint_loss.vector(slope), sums, *means


@pytest.mark.slow
class StepTest(parameterized.TestCase):

  @parameterized.parameters(*CASES)
  def test_rows_add_up_to_the_joint_gradient(self, case):
    batch = joint_loss.random_batch()
    loss, slope, loss_R, kl_R, clipped_R = oracle(batch, case)
    state, step = make_step(CASES[case])
    state, measured = step(state, batch)
    self.assertLess(joint_loss.distance(gradient(state), slope), 2e-5)
    np.testing.assert_allclose(measured.loss_R.sum(), loss, rtol=2e-5)
    np.testing.assert_allclose(measured.loss_R, loss_R, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        measured.terms_R['kl'], kl_R, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        measured.terms_R['clip_fraction'], clipped_R, rtol=1e-5, atol=1e-6)
    # Without a penalty, or the other denominators, it would be far off.
    _, plain = joint_loss.joint(batch, joint_loss.token_weights(batch))
    self.assertGreater(joint_loss.distance(plain, slope), 0.05)
    if case != 'everything':
      self.assertGreater(clipped_R.max(), 0.1)


@pytest.mark.slow
class SeveralUpdatesTest(parameterized.TestCase):

  def test_are_those_of_the_parts_one_after_the_other(self):
    batch = joint_loss.random_batch()
    state, step = make_step(dict(inner_epochs=2, num_mini_batches=2))
    got, measured = step(state, batch)
    state, step = make_step({})
    seen = []
    for part in (0, 1) * 2:
      # Of splits of two prompts, one each.
      own = jax.tree.map(lambda a, n=part: a[:, [n, 2 + n]], batch)
      state, found = step(state, own)
      seen.append(found)
    self.assertLess(joint_loss.distance(
        joint_loss.vector(got.params), joint_loss.vector(state.params)), 1e-5)
    for field in ('loss_R', 'entropy_R', 'shares_K', 'grams', 'update_norm'):
      jax.tree.map(
          lambda a, b: np.testing.assert_allclose(
              a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()),
          getattr(measured, field), getattr(seen[0], field),
      )
    # Those are of all prompts.
    np.testing.assert_allclose(
        measured.advantages_KxBxG, joint_loss.advantages(batch.rewards_KxBxG),
        rtol=1e-5, atol=1e-6,
    )
    means = np.mean([s.terms_R['clip_fraction'] for s in seen], axis=0)
    np.testing.assert_allclose(
        measured.terms_R['clip_fraction'], means, rtol=1e-4, atol=1e-6)
    # The others' would not do.
    self.assertGreater(np.abs(seen[1].loss_R - seen[0].loss_R).max(), 1e-3)

  def test_the_old_policy_is_the_one_before_the_first(self):
    # Where the sampler is the trainer, weights are 1 and its log-probabilities
    # the old ones. Old ones made anew would have a ratio of 1 each time.
    batch = joint_loss.random_batch()
    tokens, row, position, *_ = joint_loss.flatten(
        batch, joint_loss.token_weights(batch))
    logprobs = np.asarray(joint_loss.logprobs(
        joint_loss.policy()[1], tokens, row, position))
    own = np.zeros_like(batch.logprobs_KxBxGxC)
    own[batch.mask_KxBxGxC] = logprobs[
        np.arange(len(row)), tokens[row, position]]
    batch = batch._replace(logprobs_KxBxGxC=own)
    ends = []
    for keys in ({}, {'loss.importance_cap': 2.0}):
      state, step = make_step(
          {'inner_epochs': 2, 'loss.clip_high': 0.01, 'loss.clip_low': 0.01}
          | keys, instrument=False)
      start = joint_loss.vector(state.params)
      state, measured = step(state, batch)
      ends.append((
          joint_loss.vector(state.params) - start,
          measured.terms_R['clip_fraction'],
      ))
    (plain, clipped_R), (corrected, held_R) = ends
    self.assertGreater(clipped_R.max(), 0.1)
    self.assertLess(joint_loss.distance(corrected, plain), 1e-3)
    np.testing.assert_allclose(held_R, clipped_R, atol=0.05)


class TruncatedTest(absltest.TestCase):

  def test_is_left_out(self):
    batch = joint_loss.random_batch()
    got = goal.make_objective(
        config_of({'loss.mask_truncated': True}), STOP_TOKENS,
        joint_loss.ONE_KxM,
    ).select(batch)
    want = kept(batch, 'everything').mask_KxBxGxC
    np.testing.assert_array_equal(got.mask_KxBxGxC, want)
    full = batch.mask_KxBxGxC.all(-1)
    # Of completions as long as can be, some end with a stop token.
    self.assertBetween(want.all(-1).sum() / full.sum(), 0.1, 0.9)
    # They are not counted.
    self.assertLess(
        float(losses.row_count(jnp.asarray(want), aggregate='fixed_length')),
        C * batch.mask_KxBxGxC.any(-1).sum())

  def test_stays_otherwise(self):
    batch = joint_loss.random_batch()
    got = goal.make_objective(
        config_of({}), STOP_TOKENS, joint_loss.ONE_KxM
    ).select(batch)
    self.assertIs(got, batch)


if __name__ == '__main__':
  absltest.main()
