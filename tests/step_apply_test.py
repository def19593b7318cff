"""The step in every way to apply a correction, and over micro-batches."""

import functools

from absl.testing import absltest, parameterized
import jax
import joint_loss
from joint_loss import EMPTY, TEMPERATURE, K
import numpy as np
import pytest

from gradlens.configs import default
from gradlens.step import objective, train_step
from gradlens.step.optimizer import make_optimizer

S = 2
GRPO = objective.grpo(
    advantage_scale='std', clip_low=joint_loss.CLIP_LOW,
    clip_high=joint_loss.CLIP_HIGH,
)

pytestmark = pytest.mark.slow


@functools.cache
def run(name, apply, blocks, num_micro_batches=1, instrument=True):
  """What each of two steps measured, and the state that it left."""
  model, params = joint_loss.policy()
  config = default.get_config()
  config.optimizer.warmup_steps = 0
  config.optimizer.b1 = 0.0  # The first moment is the step's own gradient.
  config.optimizer.learning_rate = 1e-3
  config.correction.update(dict(name=name, apply=apply, blocks=blocks))
  optimizer = make_optimizer(config, K, None)
  step = jax.jit(train_step.make_train_step(
      model, optimizer, GRPO, num_splits=S, temperature=TEMPERATURE,
      aggregate='sequence_mean', normalize='batch', instrument=instrument,
      num_micro_batches=num_micro_batches,
  ))
  state = train_step.TrainState(
      params, optimizer.corrected.init(params), jax.random.key(0), {}, {}
  )
  seen = []
  for seed in range(2):
    state, measured = step(state, joint_loss.random_batch(seed))
    seen.append((measured, state))
  return seen


def gradient(state):
  """The last step's, corrected and clipped."""
  return joint_loss.vector(state.opt_state[2][0].mu)


class ApplyTest(parameterized.TestCase):

  def assert_same(self, got, want):
    self.assertLess(joint_loss.distance(got, want), 2e-5)

  @parameterized.parameters(
      ('equalize_norms', 'two_pass', 'global'),
      ('pcgrad', 'two_pass', 'global'),
      ('equalize_norms', 'in_backward', 'layer'),
      ('pcgrad', 'in_backward', 'layer'),
      ('total', 'lagged', 'global'),
  )
  def test_is_the_stacked_step(self, name, apply, blocks):
    # The first: from there on Adam's signs of small entries part their ways.
    (got, state), _ = run(name, apply, blocks)
    (want, expected), _ = run(name, 'stacked', blocks)
    self.assert_same(gradient(state), gradient(expected))
    for field in ('grams', 'weights', 'loss_R', 'entropy_R', 'sampler_gap_R'):
      for a, b in zip(
          jax.tree.leaves(getattr(got, field)),
          jax.tree.leaves(getattr(want, field)), strict=True,
      ):
        np.testing.assert_allclose(
            a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()
        )

  def test_lagged_weights_are_those_that_were_applied(self):
    (first, _), (second, state) = run('equalize_norms', 'lagged', 'global')
    np.testing.assert_array_equal(first.weights, np.ones(K))
    (stacked, _), _ = run('equalize_norms', 'stacked', 'global')
    np.testing.assert_allclose(second.weights, stacked.weights, rtol=1e-4)
    self.assertGreater(np.ptp(second.weights), 0.1)
    self.assertGreater(
        np.abs(state.opt_state[0].weights_K - second.weights).max(), 1e-3
    )

  @parameterized.parameters('stacked', 'lagged', 'plain')
  def test_micro_batches_add_up(self, apply):
    args = ('stacked', 'global') if apply == 'plain' else (apply, 'global')
    (parts, state), _ = run('total', *args, 2, apply != 'plain')
    (whole, expected), _ = run('total', *args)
    self.assert_same(gradient(state), gradient(expected))
    for field in ('loss_R', 'entropy_R', 'sampler_gap_R'):
      np.testing.assert_allclose(
          getattr(parts, field), getattr(whole, field), rtol=1e-4, atol=1e-6
      )
    if apply == 'plain':
      return
    norms, want = (
        np.sqrt(sum(
            np.diagonal(g, axis1=-2, axis2=-1).reshape(-1, K * S).sum(0)
            for g in jax.tree.leaves(measured.grams)
        )) for measured in (parts, whole)
    )
    full = np.arange(K * S) // S != EMPTY
    # Exact, or to four standard errors of a sketch of 4096 numbers.
    tolerance = 1e-4 if apply == 'stacked' else 4 * np.sqrt(0.5 / 4096)
    np.testing.assert_allclose(norms[full], want[full], rtol=tolerance)


if __name__ == '__main__':
  absltest.main()
