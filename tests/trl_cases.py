"""TRL's losses and advantages, and how far ours are from them.

    make trl-check

prints the differences from the TRL that is installed; trl_values.json is what
version 1.16.0 gave.
"""

import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from gradlens import advantages, losses
from gradlens.experience import Batch
from gradlens.models import Scores
from gradlens.step import objective
from gradlens.step.rows import Row

VALUES = pathlib.Path(__file__).with_name('trl_values.json')
CLIPS = dict(clip_low=0.2, clip_high=0.3)
BETA = 0.1
COMPLETIONS = 4


def _surrogate(make, **options):
  return objective.surrogate(functools.partial(make, **CLIPS | options))


CLIP = _surrogate(losses.clipped)
# Name -> how it aggregates, and its terms. A batch is one row: K = S = 1.
LOSSES = dict(
    grpo=('sequence_mean', [CLIP]),
    bnpo=('token_mean', [CLIP]),
    dr_grpo=('fixed_length', [CLIP]),
    dapo=('token_mean', [CLIP]),
    # TRL bounds the weight above only, by 1.3.
    cispo=('token_mean', [_surrogate(losses.weight_clipped, clip_low=1.0)]),
    gspo=('sequence_mean', [_surrogate(losses.sequence_clipped)]),
    dual_clip=('sequence_mean', [_surrogate(losses.dual_clipped, bound=1.6)]),
    k3=('sequence_mean', [CLIP, objective.kl(coef=BETA, estimator='k3')]),
    k3_weighted=(
        'token_mean', [CLIP, objective.weighted_kl(coef=BETA, estimator='k3')]
    ),
    entropy=('token_mean', [CLIP, objective.entropy_bonus(coef=0.05)]),
    importance=('token_mean', [objective.corrected_surrogate(
        functools.partial(losses.clipped, **CLIPS), cap=2.0
    )]),
)
ADVANTAGES = dict(
    rloo=dict(baseline='leave_one_out', scale='none'),
    dr_grpo=dict(baseline='group', scale='none'),
)


def row(given, sampled):
  """All completions of all prompts: `[B, G, C]` and `[B, G]`."""

  def shaped(a):
    a = jnp.asarray(a)
    return a.reshape(-1, COMPLETIONS, *a.shape[1:])

  mask = shaped(given['mask'])
  tokens = jnp.zeros(mask.shape, jnp.int32)
  none = jnp.zeros((len(mask), 1))
  rewards = shaped(given['rewards'])
  batch = Batch(
      none, none, tokens, mask, shaped(sampled), rewards, rewards[..., None]
  )
  others = {
      objective.OLD: shaped(given['old']),
      objective.REFERENCE: shaped(given['reference']),
  }
  return Row(batch, shaped(given['advantages']), others, jnp.ones(()))


def loss(name, given):
  """Ours, and its gradient in the log-probabilities."""
  aggregate, terms = LOSSES[name]
  old = np.asarray(given['old'])
  # What was sampled from: the old policy, but for the weights of tokens.
  sampled = old - np.log(given['importance']) if name == 'importance' else old
  own = row(given, sampled)
  goal = objective.Objective(None, None, tuple(terms), (), None)
  shape = own.batch.mask_KxBxGxC.shape
  entropy = jnp.asarray(given['entropy']).reshape(shape)
  count = losses.row_count(own.batch.mask_KxBxGxC, aggregate=aggregate)

  def total(logprobs):
    values, _ = goal.loss(Scores(logprobs.reshape(shape), entropy), own)
    return losses.row_sum(
        values, own.batch.mask_KxBxGxC, aggregate=aggregate
    ) / count

  value, gradient = jax.value_and_grad(total)(jnp.asarray(given['logprobs']))
  return float(value), np.asarray(gradient)


def advantage(name, given):
  """Ours, of prompts that are all of one task."""
  rewards = jnp.asarray(given['rewards']).reshape(1, -1, COMPLETIONS)
  found = advantages.relative(
      rewards, np.ones(rewards.shape[:2], bool), num_splits=1,
      **ADVANTAGES[name],
  )
  return np.asarray(found).reshape(-1)


def differences(values):
  """Case -> the largest difference of a loss, and of its gradient."""
  found, given = {}, values['given']
  for name, theirs in values['losses'].items():
    value, gradient = loss(name, given)
    found[f'loss of {name}'] = max(
        abs(value - theirs['loss']),
        np.abs(gradient - np.asarray(theirs['gradient'])).max(),
    )
  for name, theirs in values['advantages'].items():
    own = advantage(name, given)
    found[f'advantages of {name}'] = np.abs(own - np.asarray(theirs)).max()
  return found


def main(path):
  """Prints them, and ends with an error if one is too large."""
  found = differences(json.loads(pathlib.Path(path).read_text()))
  for name, difference in found.items():
    print(f'{name:24s} {difference:.1e}')
  sys.exit(int(max(found.values()) > 1e-5))


if __name__ == '__main__':
  main(sys.argv[1])
