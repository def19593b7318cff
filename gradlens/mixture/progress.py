"""A bandit on |advantage| and progress: what pays is to learn, with effect."""

from collections.abc import Sequence

import numpy as np

from gradlens.mixture.kind import Kind, State, above_zero
from gradlens.mixture.seen import Seen, numbers

_DRAWS = 4096  # shares are known to one part in a hundred


def pac(
    names: Sequence[str], sizes_K: Sequence[int], *, window: int = 10,
    cold_steps: int = 10, noise: float = 0.2, drift: float = 0.05,
) -> Kind:
  r"""Thompson sampling on |advantage| times one plus the reward's slope (PAC).

  .. math:: u_k = (1 + s_k)\, \overline{|A|}_k

  with the mean over the latest steps of the task, and :math:`s_k` by how much
  the line through their mean rewards (least squares) rises from the first of
  them to the last. Each task's utility is normal, at first with mean 0 and
  variance 1. With the task's share of the step's completions, times K, as
  :math:`\rho`:

  .. math::
    \sigma^{-2} \leftarrow \sigma^{-2} + \rho / \text{noise}^2, \qquad
    \mu \leftarrow \mu + \sigma^2 \rho\, (u - \mu) / \text{noise}^2, \qquad
    \sigma^2 \leftarrow \sigma^2 + \text{drift}^2

  A task's share is how often its utility is the largest, of many draws.

  .. warning:: After the paper as far as it is known here. The paper draws once
     for each prompt; these draws are more, so that their own chance plays no
     part. How the slope is normalized, and the defaults, are ours.

  Args:
    names: of the tasks.
    sizes_K: unused.
    window: steps.
    cold_steps: steps before which all shares are equal.
    noise: standard deviation of what a step says of a utility.
    drift: by how much utilities move from step to step.

  Raises:
    ValueError: an argument that makes no sense.

  References:
    Yu et al., PAC: Progress-Augmented Advantage Curriculum for Multi-Task
    Reinforcement Learning of LLMs, 2026, arXiv 2608.30528
  """
  del sizes_K
  for name, value in dict(window=window, noise=noise, drift=drift).items():
    above_zero(name, value)
  k = len(names)

  def init():
    return dict(
        steps=0, recent=[[] for _ in names], mean=[0.0] * k, variance=[1.0] * k
    )

  def learn(state: State, seen: Seen):
    recent = [
        own if None in (advantage, reward)
        else [*own, [advantage, reward]][-window:]
        for own, advantage, reward in zip(
            state['recent'], seen.abs_advantages_K, seen.rewards_K, strict=True
        )
    ]
    utility_K = np.array([_utility(own) for own in recent])
    counts_K = numbers(seen.completions_K)
    weight_K = k * counts_K / max(counts_K.sum(), 1) / noise**2
    mean_K, variance_K = numbers(state['mean']), numbers(state['variance'])
    variance_K = 1 / (1 / variance_K + weight_K)
    mean_K = mean_K + variance_K * weight_K * (utility_K - mean_K)
    return dict(
        steps=state['steps'] + 1, recent=recent, mean=mean_K.tolist(),
        variance=(variance_K + drift**2).tolist(),
    )

  def shares(state: State):
    if state['steps'] < cold_steps:
      return np.ones(k)
    draws_NxK = np.random.default_rng(state['steps']).normal(size=(_DRAWS, k))
    draws_NxK = numbers(state['mean']) + draws_NxK * np.sqrt(
        numbers(state['variance'])
    )
    best_K = np.bincount(draws_NxK.argmax(1), minlength=k)
    return np.maximum(best_K / _DRAWS, 1e-12)

  return Kind(init, learn, shares, needs='rewards')


def _utility(recent: list[list[float]]) -> float:
  """Of the latest steps' |advantage| and reward; 0 of none."""
  if not recent:
    return 0.0
  advantages, rewards = np.array(recent).T
  last = len(rewards) - 1
  times = np.arange(last + 1) - last / 2
  rise = last * (times @ rewards) / (times @ times) if last else 0.0
  return float(advantages.mean() * (1 + rise))
