"""Scores of runs compared: N seeds by K tasks, in the measures of rliable.

A seed is one run of all tasks, by one policy: seeds are drawn again whole, and
not for each task by itself, as rliable does where every task is a run. Where
methods share seeds, prompts and keys, `paired` compares them seed by seed,
which is sharper.

References:
  Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical
  Precipice, 2021, arXiv 2108.13264
"""

from collections.abc import Callable

import numpy as np
import scipy.stats

from experiments import tables
import gradlens as gl
from gradlens.report.summary import Estimate

_REPEATS = 2000


def iqm(scores_NxK: np.ndarray) -> float:
  """Interquartile mean: of the middle half of all scores."""
  return float(scipy.stats.trim_mean(scores_NxK, 0.25, axis=None))


def worst(scores_NxK: np.ndarray) -> float:
  """The mean of the task that earns least."""
  return float(scores_NxK.mean(0).min())


def improvement(scores_NxK: np.ndarray, others_NxK: np.ndarray) -> float:
  """The probability that a run is better than the other method's, by task.

  Ties are half; the mean over tasks.
  """
  ahead_NxNxK = scores_NxK[:, None] - others_NxK[None]
  return float(((ahead_NxNxK > 0) + 0.5 * (ahead_NxNxK == 0)).mean())


def profile(scores_NxK: np.ndarray, at_T: np.ndarray) -> np.ndarray:
  """The share of runs and tasks with a score above each number: `[T]`."""
  return (scores_NxK[..., None] > at_T).mean((0, 1))


def bootstrap(
    statistic: Callable[..., np.ndarray], *scores: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """`(value, low, high)` of a statistic: percentiles of its bootstrap.

  The same seeds are drawn of all scores. Of five seeds such an interval is too
  narrow: where there is Student's t, as of means, take that.
  """
  draw = np.random.default_rng(seed)
  n = len(scores[0])
  repeats = np.array([
      statistic(*(own[index] for own in scores))
      for index in draw.integers(0, n, (_REPEATS, n))
  ])
  low, high = np.percentile(repeats, [2.5, 97.5], axis=0)
  return np.asarray(statistic(*scores)), low, high


def estimate(
    statistic: Callable[..., float], *scores: np.ndarray
) -> Estimate:
  """A number of the bootstrap."""
  return tables.estimate(bootstrap(statistic, *scores))


def mean(scores_NxK: np.ndarray) -> Estimate:
  """Over seeds and tasks (Student's t over seeds)."""
  return tables.estimate(gl.jackknife(np.mean, scores_NxK))


def paired(scores_N: np.ndarray, others_N: np.ndarray) -> Estimate:
  """The mean difference over seeds (Student's t)."""
  return tables.estimate(gl.jackknife(np.mean, scores_N - others_N))
