"""A run in one row per task: norms, shares, rewards, with intervals.

Dims here: T training steps, C contiguous blocks of them, N prompts.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import numpy as np

from gradlens import intervals, losses
from gradlens.report import history

# Steps of a run resemble their neighbors, so an observation of the jackknife
# is a block of steps; ten are enough for an interval, and long for short runs.
NUM_BLOCKS = 10
_MAX_LOG = 700.0  # exp of more overflows


class Estimate(NamedTuple):
  """A number with its 95% interval; NaN stands for what is not known."""
  value: float
  low: float = math.nan
  high: float = math.nan

  @property
  def bounded(self) -> bool:
    """Whether there is an interval."""
    return math.isfinite(self.low) and math.isfinite(self.high)


class Row(NamedTuple):
  """One task of a run; every number is an average over the measured steps.

  Attributes:
    task: name.
    estimator: 'unbiased', or 'cross-split' where splits share a denominator.
    steps: number of training steps whose gradients were measured.
    contribution: squared norm of what the task adds to the joint gradient.
    naive: the same with the sampling noise left in.
    intrinsic: squared norm of the gradient of the task's own loss.
    snr: signal-to-noise ratio, of run averages: contribution over noise trace.
    critical_batch: critical batch size in prompts, of run averages; not known
      where the contribution may be zero.
    share_before: share of the update without the correction.
    share_after: share of the update with the correction.
    share_optimizer: share of what the parameters' change does to the losses.
    reward_of: 'held-out' (first and last evaluation) or, where there are not
      two evaluations, 'training' (first and last tenth of the steps).
    reward_before: mean reward at the start.
    reward_after: mean reward at the end.
    gain: held-out reward gained, paired by prompt.
    ratio: contribution over the quietest task's; its interval holds for all
      pairs of tasks at once, because the pair is chosen by looking. A ratio
      without an interval is not known: its divisor may be zero.
  """
  task: str
  estimator: str
  steps: int
  contribution: Estimate
  naive: float
  intrinsic: float
  snr: float
  critical_batch: Estimate
  share_before: float
  share_after: float
  share_optimizer: float
  reward_of: str
  reward_before: float
  reward_after: float
  gain: Estimate
  ratio: Estimate


def summarize(run: history.Run) -> list[Row]:
  """Summarizes a run, one row per task in the config's order.

  Args:
    run: the run's history.

  Returns:
    The rows; NaN where a run has no such measurement (yet).
  """
  norms_TxK = run.per_task('norm_sq/unbiased')
  contributions = [over_steps(float, norms_T) for norms_T in norms_TxK.T]
  ratios = _ratios(norms_TxK)
  # What is measured is the first mini-batch of a step.
  prompts_TxK = run.per_task('prompts') / run.setting('num_mini_batches')
  noise = [_noise(*series) for series in zip(
      run.per_task('norm_sq/naive').T, norms_TxK.T, prompts_TxK.T,
      strict=True)]
  naive, intrinsic, before, after, optimizer = (
      [mean(values_T) for values_T in run.per_task(prefix).T]
      for prefix in ('norm_sq/naive', 'intrinsic_norm_sq/unbiased',
                     'share/before', 'share/after', 'share/optimizer'))
  gains = [_gain(run, task) for task in run.tasks]
  reward_of, rewards = _rewards(run)
  measured = int(np.isfinite(norms_TxK).any(-1).sum())
  return [
      Row(task, estimator(run), measured, contributions[k], naive[k],
          intrinsic[k], *noise[k], before[k], after[k], optimizer[k],
          reward_of, *rewards[k], gains[k], ratios[k])
      for k, task in enumerate(run.tasks)]


def estimator(run: history.Run) -> str:
  """'unbiased' if a task's splits are independent, else 'cross-split'."""
  coupled = losses.couples_splits(
      aggregate=run.setting('loss.aggregate'),
      mask_truncated=run.setting('loss.mask_truncated'),
  )
  one = run.setting('num_splits') == 1
  return 'cross-split' if coupled or one else 'unbiased'


def mean(values: np.ndarray) -> float:
  """Mean of the finite values, NaN if there are none."""
  values = values[np.isfinite(values)]
  return float(values.mean()) if values.size else math.nan


def over_steps(
    statistic: Callable[..., Any], *series_T: np.ndarray,
) -> Estimate:
  """A statistic of run averages; its interval is over blocks of steps."""
  return Estimate(*map(float, intervals.over_steps(
      statistic, *series_T, num_blocks=NUM_BLOCKS)))


def _ratios(norms_TxK: np.ndarray) -> list[Estimate]:
  """Ratios of run-averaged norms to the quietest task's."""
  bounds = intervals.norm_ratios(norms_TxK, num_blocks=NUM_BLOCKS)
  return [Estimate(*map(float, task)) for task in zip(*bounds, strict=True)]


def _noise(
    naive_T: np.ndarray, unbiased_T: np.ndarray, prompts_T: np.ndarray,
) -> tuple[float, Estimate]:
  """A task's signal-to-noise ratio and critical batch size."""
  def log_snr(naive, unbiased):
    noise = naive - unbiased
    # Without a block either may be negative: then there is no interval.
    return math.log(unbiased / noise) if min(unbiased, noise) > 0 else math.nan

  value, low, high = over_steps(log_snr, naive_T, unbiased_T)
  if not (math.isfinite(low) and math.isfinite(high)):
    critical = Estimate(math.nan)
  else:
    prompts = mean(prompts_T)
    critical = Estimate(*(
        prompts * math.exp(min(-log, _MAX_LOG)) for log in (value, high, low)))
  unbiased = mean(unbiased_T)
  noise = mean(naive_T - unbiased_T)
  return unbiased / noise if noise > 0 else math.nan, critical


def _paired(run: history.Run, task: str) -> tuple[np.ndarray, np.ndarray]:
  """Rewards per prompt at the first and the last evaluation of a task."""
  steps = sorted(s for s, rewards in run.evals.items() if task in rewards)
  if len(steps) < 2:
    return np.zeros(0), np.zeros(0)
  before_N, after_N = (run.evals[s][task] for s in (steps[0], steps[-1]))
  if before_N.shape != after_N.shape:
    raise ValueError(
        f'{run.workdir}/evals: {task} has {before_N.shape[0]} prompts at step '
        f'{steps[0]} and {after_N.shape[0]} at step {steps[-1]}; a paired '
        'difference needs the same prompts.')
  return before_N, after_N


def _gain(run: history.Run, task: str) -> Estimate:
  before_N, after_N = _paired(run, task)
  if before_N.size > 1:
    return Estimate(*map(
        float, intervals.jackknife(np.mean, after_N - before_N)))
  _, rewards = run.heldout(task)
  return Estimate(rewards[-1] - rewards[0] if rewards.size > 1 else math.nan)


def _rewards(run: history.Run) -> tuple[str, list[tuple[float, float]]]:
  """Each task's mean reward at the start and at the end of the run."""
  heldout = [run.heldout(task)[1] for task in run.tasks]
  if all(rewards.size > 1 for rewards in heldout):
    return 'held-out', [(float(r[0]), float(r[-1])) for r in heldout]
  rewards_TxK = run.per_task('reward')
  tenth = max(1, len(rewards_TxK) // 10)
  return 'training', [(mean(rewards_T[:tenth]), mean(rewards_T[-tenth:]))
                      for rewards_T in rewards_TxK.T]
