"""The step: rows add up to the joint gradient, whatever the tasks hold."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import joint_loss
from joint_loss import EMPTY, TEMPERATURE, B, C, G, K, T
import numpy as np
import optax
import pytest

from gradlens import rollout
from gradlens.configs import default
from gradlens.step import objective as goals
from gradlens.step import train_step
from gradlens.step.optimizer import make_optimizer

S = 2
R = K * S


def _recording(tx):
  """The same transformation; its state ends with the gradient it was given."""

  tx = optax.with_extra_args_support(tx)

  def update(grads, state, params, **extras):
    updates, new = tx.update(grads, state[:-1], params, **extras)
    return updates, (*new, grads)

  return optax.GradientTransformationExtraArgs(tx.init, update)


def _optimizer():
  """AdamW after the uncorrected sum."""
  config = default.get_config()
  config.optimizer.schedule, config.optimizer.warmup_steps = 'cosine', 0
  config.optimizer.learning_rate = 1e-2
  # Adam undoes a factor in the gradient; clipping must not hide one too.
  config.optimizer.clip_norm = 1e3
  optimizer = make_optimizer(config, K, None)
  return optimizer._replace(
      corrected=_recording(optimizer.corrected),
      plain=_recording(optimizer.plain),
  )


_GRPO = goals.grpo(
    advantage_scale='std', clip_low=joint_loss.CLIP_LOW,
    clip_high=joint_loss.CLIP_HIGH,
)


@functools.cache
def _compiled(
    aggregate='sequence_mean', normalize='batch', objective=_GRPO,
    instrument=True,
):
  """Initial state and step."""
  model, params = joint_loss.policy()
  optimizer = _optimizer()
  step = train_step.make_train_step(
      model, optimizer, objective, num_splits=S, temperature=TEMPERATURE,
      aggregate=aggregate, normalize=normalize, instrument=instrument,
  )
  lead = (R,) if instrument else ()
  recorded = jax.tree.map(lambda p: jnp.zeros((*lead, *p.shape)), params)
  opt_state = (*optimizer.corrected.init(params), recorded)
  state = train_step.TrainState(params, opt_state, jax.random.key(0), {}, {})
  return state, jax.jit(step)


def _run(batch, *options):
  state, step = _compiled(*options)
  return step(state, batch)


def _rows(state):
  """The stacked gradient of the last step."""
  return joint_loss.rows(state.opt_state[-1], R)


def _moments(state):
  return state.opt_state[2][0]  # after correction and clipping


def _combined(state):
  """What Adam was given in the first step: ten times its first moment."""
  return 10 * joint_loss.vector(_moments(state).mu)


class StepTestCase(parameterized.TestCase):

  def assert_same(self, got, want):
    self.assertLess(joint_loss.distance(got, want), 1e-5)  # float32 rounding


class RowsTest(StepTestCase):

  @pytest.mark.slow
  def test_a_supervised_step(self):
    batch = joint_loss.random_batch()
    names = 'token_mean', 'task'
    weights = joint_loss.token_weights(batch, *names)
    loss, gradient = joint_loss.joint(batch, weights, surrogate=False)
    state, measured = _run(batch, *names, goals.supervised())
    self.assert_same(_rows(state).sum(0), gradient)
    self.assert_same(_combined(state), gradient)
    np.testing.assert_allclose(measured.loss_R.sum(), loss, rtol=1e-5)

  def test_grams_are_those_of_the_rows(self):
    state, measured = _run(joint_loss.random_batch())
    rows = _rows(state)
    want = rows @ rows.T
    self.assertEqual(measured.grams['layers'].shape, (2, R, R))
    got = sum(
        np.asarray(gram, np.float64).reshape(-1, R, R).sum(0)
        for gram in measured.grams.values()
    )
    lengths = np.sqrt(np.diag(want))
    empty = lengths == 0
    np.testing.assert_array_equal(np.flatnonzero(empty) // S, EMPTY)
    lengths[empty] = 1.0
    scale = np.outer(lengths, lengths)
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=1e-5)

  def test_entropy_sampler_gap_and_update_norm(self):
    batch = joint_loss.random_batch()
    state, measured = _run(batch)
    tokens, row, position, sampled, *_ = joint_loss.flatten(
        batch, joint_loss.token_weights(batch)
    )
    _, params = joint_loss.policy()
    logprobs = np.asarray(
        joint_loss.logprobs(params, tokens, row, position), np.float64
    )
    entropy = -(np.exp(logprobs) * logprobs).sum(-1)
    own = logprobs[np.arange(len(row)), tokens[row, position]]
    # The oracle tells clipping from none only if some tokens are clipped.
    ratio = np.exp(own - sampled)
    for some in (ratio < 0.7, (ratio > 0.7) & (ratio < 1.2), ratio > 1.2):
      self.assertGreater(some.mean(), 0.1)
    for r in range(R):
      at = row // (B * G // S) == r
      want = 0, 0
      if r // S != EMPTY:
        want = entropy[at].mean(), np.abs(own - sampled)[at].mean()
      got = measured.entropy_R[r], measured.sampler_gap_R[r]
      np.testing.assert_allclose(got, want, rtol=1e-5)
    moved = joint_loss.vector(state.params) - joint_loss.vector(params)
    np.testing.assert_allclose(
        measured.update_norm, np.linalg.norm(moved), rtol=1e-5
    )


class PlainTest(StepTestCase):

  @pytest.mark.slow
  def test_an_instrumented_step_changes_nothing(self):
    states = {}
    for instrument, (state, step) in (
        (True, _compiled()), (False, _compiled(instrument=False))
    ):
      start = joint_loss.vector(state.params)
      for seed in range(3):
        state, measured = step(state, joint_loss.random_batch(seed))
        states[instrument, seed] = state
      self.assertEqual(measured.grams is None, not instrument)
    batch = joint_loss.random_batch()
    _, gradient = joint_loss.joint(batch, joint_loss.token_weights(batch))
    recorded = states[False, 0].opt_state[-1]
    self.assert_same(joint_loss.vector(recorded), gradient)
    for seed in range(3):
      one, plain = states[True, seed], states[False, seed]
      moments = [_moments(state) for state in (one, plain)]
      self.assertEqual([int(m.count) for m in moments], [seed + 1] * 2)
      self.assert_same(*(joint_loss.vector(m.mu) for m in moments))
      self.assert_same(*(joint_loss.vector(m.nu) for m in moments))
      moves = [joint_loss.vector(s.params) - start for s in (one, plain)]
      self.assertGreater(np.abs(moves[1]).max(), 5e-3)
      self.assert_same(*moves)


def _spoiled(batch, field='rewards_KxBxG'):
  """With a NaN in the first split of task 2."""
  values = getattr(batch, field).copy()
  values[(2, 1, 1, 0)[:values.ndim]] = np.nan
  return batch._replace(**{field: values})


class BadTaskTest(StepTestCase):

  @pytest.mark.slow
  def test_a_plain_step_does_not_apply_what_is_not_finite(self):
    state, step = _compiled(instrument=False)
    batch = joint_loss.random_batch()
    after, measured = step(state, _spoiled(batch))
    self.assertTrue(np.isnan(measured.loss_R[2 * S]))
    for seen in (after, step(after, batch)[0]):
      kept = joint_loss.vector((seen.params, _moments(seen)))
      self.assertTrue(np.isfinite(kept).all())

  @parameterized.parameters('logprobs_KxBxGxC', 'rewards_KxBxG')
  def test_a_task_that_is_not_finite_is_left_out(self, field):
    clean = joint_loss.random_batch()
    self.assertTrue(clean.mask_KxBxGxC[2, 1, 1, 0])
    batch = _spoiled(clean, field)
    weights = joint_loss.token_weights(clean)
    _, whole = joint_loss.joint(clean, weights)
    weights[2] = 0.0
    _, others = joint_loss.joint(clean, weights)
    self.assertGreater(joint_loss.distance(whole, others), 1e-2)

    state, step = _compiled()
    skipped = []
    for number, given in enumerate((batch, clean, batch)):
      state, measured = step(state, given)
      skipped.append(measured.skipped_K.tolist())
      kept = state.params, _moments(state), measured.update_norm
      self.assertTrue(np.isfinite(joint_loss.vector(kept)).all())
      if number == 0:
        self.assert_same(_combined(state), others)
        np.testing.assert_array_equal(measured.weights, [1, 1, 0])
        nan_R = np.isnan(measured.loss_R)
        np.testing.assert_array_equal(np.flatnonzero(nan_R), 2 * S)
    self.assertEqual(skipped, [[0, 0, 1], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(state.opt_state[0].skipped_K, [0, 0, 2])


class DegenerateTest(StepTestCase):

  def test_groups_of_one_reward_have_no_part(self):
    batch = joint_loss.random_batch()
    rewards = batch.rewards_KxBxG.copy()
    rewards[0, :2] = [[0.0], [1.0]]
    rewards[2] = 0.3  # a whole task of such groups
    batch = batch._replace(rewards_KxBxG=rewards)
    state, measured = _run(batch)
    advantages = np.asarray(measured.advantages_KxBxG)
    np.testing.assert_array_equal(advantages[0, :2], 0.0)
    np.testing.assert_array_equal(advantages[2], 0.0)
    self.assertGreater(np.abs(advantages[0, 2:]).min(), 0.1)
    np.testing.assert_array_equal(_rows(state)[2 * S:], 0.0)
    _, gradient = joint_loss.joint(batch, joint_loss.token_weights(batch))
    self.assert_same(_combined(state), gradient)
    np.testing.assert_array_equal(measured.skipped_K, 0)

  def test_a_step_without_any_advantage_changes_nothing(self):
    batch = joint_loss.random_batch()
    ones = batch._replace(rewards_KxBxG=np.ones_like(batch.rewards_KxBxG))
    state, step = _compiled()
    stayed, measured = step(state, ones)
    jax.tree.map(np.testing.assert_array_equal, stayed.params, state.params)
    np.testing.assert_array_equal(measured.skipped_K, 0)
    self.assertEqual(float(measured.update_norm), 0.0)
    self.assertGreater(float(step(stayed, batch)[1].update_norm), 1e-2)


class RatioTest(absltest.TestCase):

  def test_the_ratio_is_one_until_the_first_update(self):
    model, params = joint_loss.policy()
    batch = joint_loss.random_batch()
    out = rollout.generate(
        model, params, batch.prompts_KxBxT.reshape(K * B, T),
        batch.prompt_mask_KxBxT.reshape(K * B, T),
        rollout.request_keys(jax.random.key(1), (K * B, G)),
        max_new_tokens=C, temperature=TEMPERATURE, stop_tokens=(1,),
    )
    tokens, mask, logprobs = (np.asarray(a).reshape(K, B, G, C) for a in out)
    batch = batch._replace(
        tokens_KxBxGxC=tokens, mask_KxBxGxC=mask, logprobs_KxBxGxC=logprobs
    )
    state, step = _compiled()
    state, measured = step(state, batch)
    self.assertLess(float(measured.sampler_gap_R.max()), 1e-4)
    # At ratio 1 a token's loss is minus its advantage.
    of_token = joint_loss.advantages(batch.rewards_KxBxG)[..., None]
    want_R = np.sum(
        (-joint_loss.token_weights(batch) * of_token).reshape(R, -1), axis=1
    )
    np.testing.assert_allclose(measured.loss_R, want_R, atol=1e-5)
    _, second = step(state, batch)
    self.assertGreater(float(second.sampler_gap_R.min()), 1e-3)


if __name__ == '__main__':
  absltest.main()
