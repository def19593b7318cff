"""Curves: what a run measured, over training steps.

Dims here: T training steps, R runs of a group, E evaluations, N prompts.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

from gradlens import intervals
from gradlens.report import history, summary

# A rolling mean takes a twelfth of the run; near zero, norms need more.
PART = 12
NORM_PART = 6


class Curve(NamedTuple):
  """A line with its 95% interval, and the single steps behind it.

  Attributes:
    steps: int64 [T].
    values: float64 [T]: rolling means, averaged over runs.
    low: of the interval over runs, NaN where there is none.
    high: likewise.
    raw_steps: of the values that were averaged; none for several runs.
    raw: these values.
  """
  steps: np.ndarray
  values: np.ndarray
  low: np.ndarray
  high: np.ndarray
  raw_steps: np.ndarray
  raw: np.ndarray


def rolling(values_T: np.ndarray, part: int = PART) -> np.ndarray:
  """Centered rolling mean over 1 / part of the values, less at the ends."""
  window = max(1, len(values_T) // part)
  after = window // 2 + 1
  before = window - after
  known_T = np.isfinite(values_T)
  places_T = np.arange(len(values_T))
  low_T = np.maximum(0, places_T - before)
  high_T = np.minimum(len(values_T), places_T + after)
  sums = np.concatenate([[0.0], np.cumsum(np.where(known_T, values_T, 0.0))])
  counts = np.concatenate([[0], np.cumsum(known_T)])
  total_T = sums[high_T] - sums[low_T]
  count_T = counts[high_T] - counts[low_T]
  return np.where(count_T > 0, total_T / np.maximum(count_T, 1), math.nan)


def learning_gain(rewards_T: np.ndarray, window: int) -> np.ndarray:
  """Mean reward of the next `window` steps minus that of the last ones.

  Args:
    rewards_T: training reward, NaN where absent.
    window: steps on each side; step t itself is in neither.

  Returns:
    Gains [T], NaN where a side does not have its `window` steps.
  """
  gains_T = np.full(len(rewards_T), math.nan)
  for t in range(window, len(rewards_T) - window):
    gains_T[t] = (summary.mean(rewards_T[t + 1:t + 1 + window])
                  - summary.mean(rewards_T[t - window:t]))
  return gains_T


def steps(count: int) -> str:
  """A number of steps in words."""
  return '1 step' if count == 1 else f'{count} steps'


def over_runs(values: np.ndarray) -> tuple[np.ndarray, ...]:
  """Means over the leading axis with Student's 95% intervals.

  Args:
    values: `[R, ...]`, a run each: independent if their seeds differ.

  Returns:
    `(mean, low, high)`; an interval of NaN with one run only.
  """
  if len(values) > 1:
    return intervals.jackknife(lambda runs: runs.mean(0), values)
  unknown = np.full(values.shape[1:], math.nan)
  return values[0], unknown, unknown


def metric(
    runs: Sequence[history.Run], tag: str, part: int, window: int = 0,
) -> Curve:
  """A metric of a group of runs, as far as all of them have come.

  Args:
    runs: of one group.
    tag: of the metric.
    part: rolling means take 1 / part of a run.
    window: if not 0, the learning gain over so many steps, instead.
  """
  found, raw = [], []
  for run in runs:
    values_T = run.values(tag)
    if window:
      values_T = learning_gain(values_T, window)
    known_T = np.isfinite(values_T)
    raw = run.steps[known_T], values_T[known_T]
    smooth_T = raw[1] if window else rolling(raw[1], part)
    found.append(dict(zip(raw[0].tolist(), smooth_T, strict=True)))
  common = sorted(set.intersection(*map(set, found)))
  values_RxT = np.array([[own[step] for step in common] for own in found])
  if len(runs) > 1 or window:
    raw = np.zeros(0, np.int64), np.zeros(0)
  return Curve(np.array(common, np.int64), *over_runs(values_RxT), *raw)


def heldout(runs: Sequence[history.Run], task: str) -> Curve:
  """Held-out rewards, at the evaluations that all runs of a group have.

  Intervals are over runs; of a single one, over its prompts.
  """
  none = np.zeros(0, np.int64), np.zeros(0)
  found = [run.heldout(task) for run in runs]
  common = sorted(set.intersection(*(set(own.tolist()) for own, _ in found)))
  if len(runs) == 1:
    bounds = _over_prompts(runs[0], task, common)
    return Curve(found[0][0], found[0][1], *bounds, *none)
  values_RxE = np.array([
      [dict(zip(own.tolist(), values, strict=True))[step] for step in common]
      for own, values in found])
  return Curve(np.array(common, np.int64), *over_runs(values_RxE), *none)


def _over_prompts(
    run: history.Run, task: str, at: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
  """Bounds of a run's held-out means, NaN without rewards of its prompts."""
  low, high = np.full((2, len(at)), math.nan)
  for i, step in enumerate(at):
    rewards_N = run.evals.get(step, {}).get(task, np.zeros(0))
    if rewards_N.size > 1:
      _, low[i], high[i] = over_runs(rewards_N)
  return low, high
