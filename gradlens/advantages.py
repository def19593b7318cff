"""Advantages: how much better a completion was than its prompt's others.

K tasks, B prompts a task, G completions a prompt, M rewards a completion, S
splits of a task's prompts. Statistics of more than a group are of one split:
those of all prompts would make the splits depend on each other, and norms are
unbiased only where they do not.
"""

import jax
import jax.numpy as jnp

from gradlens import masked

BASELINES = ('group', 'leave_one_out', 'task', 'batch')
SCALES = ('std', 'none', 'task', 'batch')
DECOUPLED = 'decoupled'  # the scale of several rewards, each by itself


def degenerate_groups(rewards_KxBxG: jax.Array) -> jax.Array:
  """Which groups hold one reward only, and so carry no gradient: `[K, B]`."""
  return jnp.max(rewards_KxBxG, axis=-1) == jnp.min(rewards_KxBxG, axis=-1)


def _mean(x, axis):
  return jnp.mean(x, axis=axis, keepdims=True)


def _deviation(x, axis):
  """Exactly 0 where all are equal, which rounding is not."""
  equal = jnp.max(x, axis, keepdims=True) == jnp.min(x, axis, keepdims=True)
  return jnp.where(equal, 0.0, jnp.std(x, axis=axis, keepdims=True))


def _kept(rewards_KxBxG, advantages_KxBxG):
  """Exactly 0 in a group of equal rewards, which rounding is not."""
  return jnp.where(
      degenerate_groups(rewards_KxBxG)[..., None], 0.0, advantages_KxBxG
  )


def group_advantages(rewards_KxBxG: jax.Array, *, scale: str) -> jax.Array:
  """Rewards relative to the group of completions of the same prompt.

  Statistics never leave a group, so the advantages of different prompts are
  independent, which the unbiased gradient norms rely on.

  Args:
    rewards_KxBxG: float32 rewards.
    scale: 'std' divides by the group's (population) standard deviation;
      'none' only subtracts the mean.

  Returns:
    float32 `[K, B, G]`; exactly 0 in a group of equal rewards, where rounding
    of the mean would otherwise be divided by a deviation of almost 0.

  Raises:
    ValueError: an unknown `scale`.

  References:
    Shao et al., DeepSeekMath, 2024, arXiv 2402.03300 ('std');
    Liu et al., Understanding R1-Zero-Like Training, 2025, arXiv 2503.20783
    ('none').
  """
  if scale not in ('std', 'none'):
    raise ValueError(f"scale={scale!r}: choose 'std' or 'none'.")
  values = rewards_KxBxG - _mean(rewards_KxBxG, -1)
  if scale == 'std':
    values = masked.divide(values, _deviation(rewards_KxBxG, -1))
  return _kept(rewards_KxBxG, values)


def leave_one_out(rewards_KxBxG: jax.Array) -> jax.Array:
  """Rewards relative to the mean of the group's other completions.

  The baseline does not depend on the completion, so the policy gradient is
  unbiased. It is `G / (G - 1)` times the distance to the group's mean.

  Args:
    rewards_KxBxG: float32 rewards, G > 1.

  Returns:
    float32 `[K, B, G]`; exactly 0 in a group of equal rewards.

  Raises:
    ValueError: there are no others.

  References:
    Ahmadian et al., Back to Basics, 2024, arXiv 2402.14740;
    Kool et al., Buy 4 REINFORCE Samples, Get a Baseline for Free!, 2019.
  """
  others = rewards_KxBxG.shape[-1] - 1
  if not others:
    raise ValueError('one completion of a prompt has no others to leave.')
  total = jnp.sum(rewards_KxBxG, axis=-1, keepdims=True)
  return _kept(
      rewards_KxBxG, rewards_KxBxG - (total - rewards_KxBxG) / others
  )


def _of_split(
    values_KxBxG, filled_KxB, num_splits, over
) -> tuple[jax.Array, jax.Array]:
  """Mean and deviation over a split of each task, or of all: `[K, B, 1]`."""
  k, b, g = values_KxBxG.shape
  axis = dict(task=(2, 3), batch=(0, 2, 3))[over]
  values = values_KxBxG.reshape(k, num_splits, b // num_splits, g)
  filled = jnp.broadcast_to(
      filled_KxB.reshape(k, num_splits, b // num_splits, 1), values.shape
  )

  def spread(found):
    found = jnp.expand_dims(found, axis)
    shape = (k, num_splits, b // num_splits, 1)
    return jnp.broadcast_to(found, shape).reshape(k, b, 1)

  mean = masked.mean(values, filled, axis)
  off = values - jnp.expand_dims(mean, axis)
  deviation = jnp.sqrt(masked.mean(off**2, filled, axis))
  # Exactly 0 where all are equal, which rounding is not.
  most = jnp.max(jnp.where(filled, values, -jnp.inf), axis)
  least = jnp.min(jnp.where(filled, values, jnp.inf), axis)
  return spread(mean), spread(jnp.where(most == least, 0.0, deviation))


def centered(
    values_KxBxG: jax.Array, filled_KxB: jax.Array, *, over: str,
    num_splits: int,
) -> jax.Array:
  """Values without their mean over a split.

  Args:
    values_KxBxG: float32; the prompts of a split lie one after the other.
    filled_KxB: bool, False at places without a prompt, which do not count.
    over: 'task', each task by itself, or 'batch', all of them.
    num_splits: S, a divisor of B.

  Returns:
    float32 `[K, B, G]`; exactly 0 where all are equal.
  """
  mean, deviation = _of_split(values_KxBxG, filled_KxB, num_splits, over)
  return jnp.where(deviation == 0, 0.0, values_KxBxG - mean)


def scaled(
    values_KxBxG: jax.Array, filled_KxB: jax.Array, *, over: str,
    num_splits: int,
) -> jax.Array:
  """Values by their (population) standard deviation over a split.

  Args:
    values_KxBxG: float32; the prompts of a split lie one after the other.
    filled_KxB: bool, False at places without a prompt, which do not count.
    over: 'task', each task by itself (Zhang et al., AgentRL, 2025, arXiv
      2510.04206, there of tokens), or 'batch', all of them (Hu et al.,
      REINFORCE++, 2025, arXiv 2501.03262).
    num_splits: S, a divisor of B.

  Returns:
    float32 `[K, B, G]`, and 0 where there is no deviation.
  """
  _, deviation = _of_split(values_KxBxG, filled_KxB, num_splits, over)
  return masked.divide(values_KxBxG, deviation)


def relative(
    rewards_KxBxG: jax.Array, filled_KxB: jax.Array, *, baseline: str,
    scale: str, num_splits: int,
) -> jax.Array:
  """Rewards less a baseline, by a scale.

  | method | baseline | scale |
  |---|---|---|
  | GRPO | 'group' | 'std' |
  | Dr. GRPO | 'group' | 'none' |
  | RLOO | 'leave_one_out' | 'none' |
  | REINFORCE++ | 'batch' | 'batch' |
  | REINFORCE++ with the group's baseline | 'group' | 'batch' |
  | AgentRL | 'group' | 'task' |

  Args:
    rewards_KxBxG: float32 rewards.
    filled_KxB: bool, False at places without a prompt, which have no part in
      the statistics of others.
    baseline: what is subtracted, the mean of the 'group', of its other
      completions ('leave_one_out'), of the 'task', or of the 'batch'.
    scale: what is divided by, the standard deviation of the group ('std'), of
      the 'task' or of the 'batch', after the baseline; or 'none'.
    num_splits: S, a divisor of B. Means and deviations of 'task' and 'batch'
      are each split's own.

  Returns:
    float32 `[K, B, G]`.

  Raises:
    ValueError: names that are not known, or do not go together.
  """
  if baseline not in BASELINES or scale not in SCALES:
    raise ValueError(
        f'baseline={baseline!r}, scale={scale!r}: choose of'
        f' {", ".join(BASELINES)}, and of {", ".join(SCALES)}.'
    )
  if baseline in ('task', 'batch'):
    if scale == 'std':
      raise ValueError(
          f"scale='std' is the group's, and baseline={baseline!r} is not; use"
          " scale='task' or 'batch'."
      )
    values = centered(
        rewards_KxBxG, filled_KxB, over=baseline, num_splits=num_splits
    )
  elif baseline == 'leave_one_out':
    values = leave_one_out(rewards_KxBxG)
  else:
    values = group_advantages(rewards_KxBxG, scale='none')
  if scale == 'none':
    return values
  if scale == 'std':
    return masked.divide(values, _deviation(rewards_KxBxG, -1))
  return scaled(values, filled_KxB, over=scale, num_splits=num_splits)


def decoupled(
    rewards_KxBxGxM: jax.Array, weights_KxM: jax.Array, filled_KxB: jax.Array,
    *, num_splits: int,
) -> jax.Array:
  """Several rewards, each normalized in its group before they are added.

  Rewards that are added first are told apart by their sum only: of two
  rewards, (1, 0) and (0, 1) then have one advantage.

  .. math::
    a = \\sum_m w_m (r_m - \\mathrm{mean}_G r_m) / \\mathrm{std}_G r_m

  and this in the standard deviations of its split, of all tasks. Its mean there
  is 0 already, and is not subtracted: what a group of equal rewards has is then
  exactly 0, which rounding is not.

  Args:
    rewards_KxBxGxM: float32 rewards of each completion.
    weights_KxM: float32, of each reward; 0 where a task has fewer than M.
    filled_KxB: bool, False at places without a prompt, which do not count.
    num_splits: S, a divisor of B; the last normalization is each split's own.

  Returns:
    float32 `[K, B, G]`.

  References:
    Liu et al., GDPO: Group reward-Decoupled Normalization Policy Optimization,
    2026, arXiv 2601.05242.
  """
  each = jax.vmap(
      lambda rewards_KxBxG: group_advantages(rewards_KxBxG, scale='std'),
      in_axes=-1, out_axes=-1,
  )(rewards_KxBxGxM)
  # No product of matrices, which an accelerator would round.
  values = jnp.sum(each * weights_KxM[:, None, None], axis=-1)
  return scaled(values, filled_KxB, over='batch', num_splits=num_splits)
