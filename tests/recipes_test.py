"""The methods of docs/losses.md: each is built from its keys, and steps."""

import re

from absl.testing import absltest, parameterized
import jax
import joint_loss
from joint_loss import K
import numpy as np
import pages
import pytest

from gradlens import goal, train_step
from gradlens.configs import default, toy
from gradlens.optimizer import make_optimizer
from gradlens.values import check_values

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


def updated(arg):
  """Parameters before and after a step."""
  config = default.get_config()
  # Four prompts of a task in two splits.
  default.parse_arg(config, arg.replace('batches=4', 'batches=2'))
  # Updates that are clipped, and truncated completions.
  config.optimizer.update(learning_rate=1e-2, warmup_steps=0)
  model, params = joint_loss.policy()
  optimizer = make_optimizer(config, K, None)
  step = jax.jit(train_step.make_train_step(
      model, optimizer, goal.make_objective(config, (1,)), num_splits=S,
      temperature=joint_loss.TEMPERATURE, aggregate=config.loss.aggregate,
      normalize=config.loss.normalize, instrument=False,
      num_mini_batches=config.num_mini_batches,
  ))
  kept = params if config.loss.kl_coef else {}
  state = train_step.TrainState(
      params, optimizer.corrected.init(params), jax.random.key(0), {}, kept
  )
  state, measured = step(state, joint_loss.random_batch())
  return joint_loss.vector(state.params) - joint_loss.vector(params), measured


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

  def test_each_makes_an_update_of_its_own(self):
    moved = {}
    for name, keys in methods().items():
      change, measured = updated('' if name == 'GRPO' else keys)
      self.assertTrue(np.isfinite(change).all(), name)
      self.assertGreater(np.abs(change).max(), 1e-3, name)
      self.assertIn('clip_fraction', measured.terms_R)
      for other, theirs in moved.items():
        self.assertGreater(
            joint_loss.distance(change, theirs), 1e-2, f'{name}, {other}'
        )
      moved[name] = change


if __name__ == '__main__':
  absltest.main()
