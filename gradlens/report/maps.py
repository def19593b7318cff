"""Maps: blocks over time, directions over time, shares on their way.

Dims here: T training steps, K tasks, M blocks of parameters, C buckets of
consecutive measured steps.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

from gradlens.report import curves, history, summary

_LAYER = 'layer_norm_sq/'
_MAX_COLUMNS = 40
_STEPS_PER_COLUMN = 4
_MAX_FRAMES = 8
_STEPS_PER_FRAME = 5
STAGES = ('share/before', 'share/after', 'share/optimizer')


class Buckets(NamedTuple):
  """Consecutive measured steps, in parts of equal number.

  Attributes:
    places: of each part among a run's steps: C arrays.
    spans: first and last step of each: [C] pairs.
  """
  places: list[np.ndarray]
  spans: list[tuple[int, int]]


def buckets(run: history.Run, most: int, per_part: int) -> Buckets:
  """At most so many parts, of at least so many steps if there are enough."""
  measured_T = np.isfinite(run.per_task('norm_sq/naive')).any(-1)
  measured = np.flatnonzero(measured_T)
  count = min(most, max(1, len(measured) // per_part))
  places = np.array_split(measured, count) if len(measured) else []
  return Buckets(places, [
      (int(run.steps[part[0]]), int(run.steps[part[-1]])) for part in places])


def blocks(run: history.Run) -> list[str]:
  """Names of the measured blocks: those before the layers first."""
  ends = tuple(f'/{task}' for task in run.tasks)
  names = {_block(tag, run.tasks) for tag in run.scalars
           if tag.startswith(_LAYER) and tag.endswith(ends)}
  return sorted(names, key=lambda name: (
      0 if name.startswith('embed') else 1 if name.startswith('layers') else 2,
      name not in ('norm', 'final_norm'), name))


def _block(tag: str, tasks: Sequence[str]) -> str:
  """The block of a tag; a task's name may have slashes, and end another's."""
  task = max((t for t in tasks if tag.endswith(f'/{t}')), key=len)
  return tag[len(_LAYER):-len(task) - 1]


def layer_shares(
    run: history.Run, within: Buckets, names: Sequence[str],
) -> np.ndarray:
  """Each block's share of a task's squared norm: float64 [K, M, C + 1].

  Shares are of averages, over every bucket and, last, over the run. NaN where
  the blocks' sum is not above zero.
  """
  parts = [*within.places, np.arange(len(run.steps))]
  shares = np.full((len(run.tasks), len(names), len(parts)), math.nan)
  for k, task in enumerate(run.tasks):
    norms_MxT = np.array([
        run.values(f'{_LAYER}{name}/{task}') for name in names])
    for c, part in enumerate(parts):
      means_M = np.array([summary.mean(own) for own in norms_MxT[:, part]])
      total = np.nansum(means_M)
      if total > 0:
        shares[k, :, c] = means_M / total
  return shares


def cosine_matrix(
    run: history.Run, places: np.ndarray | None = None,
) -> np.ndarray:
  """Debiased cosines [K, K] over some steps; NaN where a norm is not positive.

  Averages come first: the mean inner product over the root of the mean squared
  norms, whose estimate is free of the noise within a task.

  Args:
    run: the run's history.
    places: of the steps among the run's; None takes all.
  """
  places = np.arange(len(run.steps)) if places is None else places
  norms_K = np.array([
      summary.mean(norms_T[places])
      for norms_T in run.per_task('norm_sq/unbiased').T])
  roots_K = np.sqrt(np.where(norms_K > 0, norms_K, math.nan))
  cosines_KxK = np.eye(len(run.tasks))
  for i, one in enumerate(run.tasks):
    for j, other in enumerate(run.tasks[:i]):
      inner = summary.mean(np.concatenate([
          run.values(f'inner/{one}/{other}')[places],
          run.values(f'inner/{other}/{one}')[places]]))
      cosines_KxK[i, j] = cosines_KxK[j, i] = inner
  np.fill_diagonal(cosines_KxK, norms_K)
  return cosines_KxK / roots_K[:, None] / roots_K


def film(run: history.Run) -> tuple[Buckets, list[np.ndarray]]:
  """Cosines over the steps of every frame, and last over the whole run."""
  frames = buckets(run, _MAX_FRAMES, _STEPS_PER_FRAME)
  return frames, [cosine_matrix(run, part) for part in (*frames.places, None)]


def columns(run: history.Run) -> Buckets:
  """Those of heat maps over time."""
  return buckets(run, _MAX_COLUMNS, _STEPS_PER_COLUMN)


def waterfall(
    runs: Sequence[history.Run], task: str,
) -> list[summary.Estimate]:
  """A task's share at every stage, averaged over the run.

  Intervals are over runs; of a single one, over blocks of its steps.
  """
  found = []
  for stage in STAGES:
    tag = f'{stage}/{task}'
    if len(runs) == 1:
      found.append(summary.over_steps(float, runs[0].values(tag)))
    else:
      means_R = np.array([summary.mean(run.values(tag)) for run in runs])
      found.append(summary.Estimate(*map(float, curves.over_runs(means_R))))
  return found


def quarters(
    run: history.Run, k: int, window: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Mean contribution [4] and mean learning gain [4] of task k."""
  task = run.tasks[k]
  norms_T = run.values(f'norm_sq/unbiased/{task}')
  gains_T = curves.learning_gain(run.values(f'reward/{task}'), window)
  norms, gains = (
      [summary.mean(part) for part in np.array_split(values_T, 4)]
      for values_T in (norms_T, gains_T))
  return np.array(norms), np.array(gains)
