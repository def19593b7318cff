"""The methods of docs/losses.md: each is built from its keys, and steps."""

import re

from absl.testing import absltest, parameterized
import jax
import joint_loss
from joint_loss import B, G, K
import numpy as np
import pages
import pytest

from gradlens.configs import default, toy
from gradlens.setup import goal
from gradlens.setup.values import check_values
from gradlens.step import train_step
from gradlens.step.optimizer import make_optimizer

PAGE = pages.ROOT / 'docs' / 'losses.md'
S = 2


def methods():
  """Name -> the argument of a config."""
  text = PAGE.read_text().partition('## Methods')[2].partition('\n## ')[0]
  rows = re.findall(r'^\| (.+?) \| (.+?) \|$', text, re.M)[1:]
  return {
      re.sub(r'\[(.+?)\]\(.*?\)', r'\1', name): keys.strip('`')
      for name, keys in rows
  }


def step(arg):
  """The last gradient of a step, and what it measured."""
  config = default.get_config()
  # Four prompts of a task in two splits.
  default.parse_arg(config, arg.replace('batches=4', 'batches=2'))
  # The first moment is then the gradient.
  config.optimizer.update(b1=0.0, clip_norm=1e3, warmup_steps=0)
  model, params = joint_loss.policy()
  optimizer = make_optimizer(config, K, None)
  run = jax.jit(train_step.make_train_step(
      model, optimizer,
      goal.make_objective(config, (1,), np.tile([0.7, 0.3], (K, 1))),
      num_splits=S,
      temperature=joint_loss.TEMPERATURE, aggregate=config.loss.aggregate,
      normalize=config.loss.normalize, instrument=False,
      num_mini_batches=config.num_mini_batches,
  ))
  kept = params if config.loss.kl_coef else {}
  state = train_step.TrainState(
      params, optimizer.corrected.init(params), jax.random.key(0), {}, kept
  )
  batch = joint_loss.random_batch()
  # In groups of two and one, all deviations would be the same.
  rewards = np.random.default_rng(1).random((K, B, G), np.float32)
  # Another reward beside it, of which one method knows.
  parts = np.stack([rewards, rewards[..., ::-1] ** 2], -1)
  state, measured = run(state, batch._replace(
      rewards_KxBxG=rewards, parts_KxBxGxM=parts
  ))
  return joint_loss.vector(state.opt_state[2][0].mu), measured


class KeysTest(parameterized.TestCase):

  def test_there_are_all(self):
    self.assertContainsSubset(
        {'GRPO', 'Dr. GRPO', 'DAPO', 'RLOO', 'REINFORCE++', 'GSPO', 'CISPO'},
        methods(),
    )

  @parameterized.parameters(*(set(methods()) - {'GRPO'}))
  def test_a_config_takes_them(self, name):
    config = toy.get_config(methods()[name])
    check_values(config)
    self.assertNotEqual(config, toy.get_config())


@pytest.mark.slow
class StepTest(absltest.TestCase):

  def test_each_has_a_gradient_of_its_own(self):
    moved, advantages = {}, {}
    for name, keys in methods().items():
      gradient, measured = step('' if name == 'GRPO' else keys)
      self.assertTrue(np.isfinite(gradient).all(), name)
      self.assertGreater(float(measured.update_norm), 1e-3, name)
      self.assertIn('clip_fraction', measured.terms_R)
      for other, theirs in moved.items():
        self.assertGreater(
            joint_loss.distance(gradient, theirs), 1e-2, f'{name}, {other}'
        )
      moved[name] = gradient
      advantages[name] = measured.advantages_KxBxG
    np.testing.assert_allclose(
        advantages['RLOO'], advantages['Dr. GRPO'] * G / (G - 1), rtol=1e-5
    )


if __name__ == '__main__':
  absltest.main()
