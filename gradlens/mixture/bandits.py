"""Bandits: tasks are arms, and what pays is to learn from them."""

from collections.abc import Sequence

import numpy as np

from gradlens.mixture.kind import Kind, State, above_zero, softmax
from gradlens.mixture.seen import Seen, numbers


def sec(
    names: Sequence[str], sizes_K: Sequence[int], *,
    learning_rate: float = 0.5, temperature: float = 0.2,
) -> Kind:
  r"""A self-evolving curriculum: a running mean of |advantage|.

  .. math::
    Q_k \leftarrow (1 - \alpha) Q_k + \alpha\, \overline{|A|}_k, \qquad
    p_k \propto \exp(Q_k / \tau)

  from :math:`Q_k = 0`; a task that was not drawn keeps its own. The defaults
  are those of the runs that MT-GRPO (arXiv 2602.05547) compares with.

  Args:
    names: of the tasks.
    sizes_K: unused.
    learning_rate: :math:`\alpha`, above 0 and up to 1.
    temperature: :math:`\tau`; lower is greedier.

  Raises:
    ValueError: an argument that makes no sense.

  References:
    Chen et al., Self-Evolving Curriculum for LLM Reasoning, 2025,
    arXiv 2505.14970
  """
  del sizes_K
  above_zero('temperature', temperature)
  if not 0 < learning_rate <= 1:
    raise ValueError(f'learning_rate={learning_rate} must be above 0, up to 1')

  def learn(state: State, seen: Seen):
    q_K, new_K = numbers(state['q']), numbers(seen.abs_advantages_K)
    moved_K = (1 - learning_rate) * q_K + learning_rate * new_K
    return dict(q=np.where(np.isfinite(new_K), moved_K, q_K).tolist())

  return Kind(
      lambda: dict(q=[0.0] * len(names)), learn,
      lambda state: softmax(numbers(state['q']), temperature), needs='rewards',
  )


def dump(
    names: Sequence[str], sizes_K: Sequence[int], *, temperature: float = 0.1,
    window: int = 300,
) -> Kind:
  r"""Upper confidence bounds of |advantage| (DUMP).

  .. math::
    p_k \propto \exp(u_k / \tau), \qquad
    u_k = \overline{|A|}_k + \sqrt{\frac{2 \ln(n + 1)}{n_k + 1}}

  with :math:`n_k` the completions drawn of a task so far, n those of all, and
  the mean over a task's latest completions: the fewest of its latest steps that
  hold `window` of them.

  Args:
    names: of the tasks.
    sizes_K: unused.
    temperature: :math:`\tau`; lower is greedier.
    window: completions.

  Raises:
    ValueError: an argument that makes no sense.

  References:
    Wang et al., DUMP: Automated Distribution-Level Curriculum Learning for
    RL-based LLM Post-training, 2025, arXiv 2504.09710
  """
  del sizes_K
  above_zero('temperature', temperature)
  above_zero('window', window)
  k = len(names)

  def learn(state: State, seen: Seen):
    recent = [
        steps if mean is None else _within([*steps, [count, mean]], window)
        for steps, count, mean in zip(
            state['recent'], seen.completions_K, seen.abs_advantages_K,
            strict=True,
        )
    ]
    counts = np.add(state['counts'], seen.completions_K).tolist()
    return dict(counts=counts, recent=recent)

  def shares(state: State):
    means_K = [_mean(steps) for steps in state['recent']]
    counts_K = numbers(state['counts'])
    bonus_K = np.sqrt(2 * np.log(counts_K.sum() + 1) / (counts_K + 1))
    return softmax(means_K + bonus_K, temperature)

  return Kind(
      lambda: dict(counts=[0] * k, recent=[[] for _ in range(k)]),
      learn, shares, needs='rewards',
  )


def _within(steps: list[list], window: int) -> list[list]:
  """The fewest of the latest `[count, mean]` that hold a window."""
  held = 0
  for start in range(len(steps) - 1, -1, -1):
    held += steps[start][0]
    if held >= window:
      return steps[start:]
  return steps


def _mean(steps: list[list]) -> float:
  """Of completions, from `[count, mean]` of their steps; 0 of none."""
  total = sum(count for count, _ in steps)
  return sum(count * mean for count, mean in steps) / total if total else 0.0


def mt_grpo(
    names: Sequence[str], sizes_K: Sequence[int], *, lam: float = 0.2,
    learning_rate: float = 0.025, weight_decay: float = 1e-5, clip: float = 0.1,
) -> Kind:
  r"""More prompts of tasks that earn little and improve little (MT-GRPO).

  The weights of `gl.mt_grpo` as shares of the prompts, which is where the paper
  has them. Its sampler keeps them where groups of equal rewards drop out; here
  `mixture.refill_rounds` does.

  .. warning:: As in `gl.mt_grpo`, the improvement is the change of the reward
     from step to step, 0 at first.

  Args:
    names: of the tasks.
    sizes_K: unused.
    lam: as in `gl.mt_grpo`.
    learning_rate: of the logits.
    weight_decay: of the logits.
    clip: improvements are clipped to plus and minus this.

  Raises:
    ValueError: an argument that makes no sense.

  References:
    Ramesh et al., Multi-Task GRPO: Reliable LLM Reasoning Across Tasks, 2026,
    arXiv 2602.05547
  """
  del sizes_K
  above_zero('learning_rate', learning_rate)
  zeros = [0.0] * len(names)

  def init():
    return dict(
        count=0, logits=zeros, rewards=[None] * len(names), mu=zeros, nu=zeros
    )

  def learn(state: State, seen: Seen):
    before_K, logits_K = numbers(state['rewards']), numbers(state['logits'])
    rewards_K = numbers(seen.rewards_K)
    # A task that was not drawn is as it was, and at first as the others are.
    rewards_K = np.where(np.isnan(rewards_K), before_K, rewards_K)
    if np.isnan(rewards_K).all():
      return state
    filled_K = np.where(
        np.isnan(rewards_K), np.nanmean(rewards_K), rewards_K
    )
    gains_K = np.nan_to_num(np.clip(rewards_K - before_K, -clip, clip))
    shares_K = softmax(logits_K, 1.0)
    signal_K = gains_K + lam * filled_K
    slope_K = shares_K * (signal_K - shares_K @ signal_K)
    count = state['count'] + 1
    mu_K = 0.9 * numbers(state['mu']) + 0.1 * slope_K
    nu_K = 0.999 * numbers(state['nu']) + 0.001 * slope_K**2
    step_K = mu_K / (1 - 0.9**count) / (
        np.sqrt(nu_K / (1 - 0.999**count)) + 1e-8
    )
    logits_K = logits_K - learning_rate * (step_K + weight_decay * logits_K)
    return dict(
        count=count, logits=logits_K.tolist(), mu=mu_K.tolist(),
        nu=nu_K.tolist(),
        rewards=[None if np.isnan(r) else float(r) for r in rewards_K],
    )

  return Kind(
      init, learn, lambda state: softmax(numbers(state['logits']), 1.0),
      needs='rewards',
  )
