"""Best: the recorded number that a run's best checkpoint is chosen by."""

from collections.abc import Collection, Mapping, Sequence
import math
from typing import Any

import jax
import numpy as np

from gradlens.experience import Batch, Drawn, Sampled
from gradlens.step.train_step import Measured
from gradlens.tasks.query import hint
from gradlens.workdir import metrics

HELDOUT = 'heldout'


def split(best: str) -> tuple[str, int]:
  """A metric's name, and 1 if more of it is better, or -1.

  >>> split('heldout/math'), split('-loss/math')
  (('heldout/math', 1), ('loss/math', -1))
  """
  name = best.removeprefix('-')
  return name, -1 if best.startswith('-') else 1


def by_evaluation(best: str) -> bool:
  """Whether it is a metric of evaluations, which are not of every step."""
  return split(best)[0].split('/')[0] == HELDOUT


def scores(best: str, scalars: Mapping[str, float]) -> dict[str, float]:
  """What a checkpoint is chosen by; empty where it is not to be chosen."""
  name, _ = split(best)
  if name not in scalars or not math.isfinite(scalars[name]):
    return {}
  return {name: scalars[name]}


def quality(best: str, scores: Mapping[str, float]) -> float:
  """More is better."""
  name, sign = split(best)
  return sign * scores[name]


def recorded(
    measured: Any, names: Sequence[str], rewards: Sequence[Sequence[str]],
    num_splits: int,
) -> set[str]:
  """Names of what a step records, but for times, which no run has again.

  Args:
    measured: shapes of `Measured`.
    names: of the tasks.
    rewards: names of each task's rewards.
    num_splits: S.
  """
  measured = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), measured)
  found = metrics.of_step(
      _sampled(measured, max(map(len, rewards))), measured, names=names,
      rewards=rewards, num_splits=num_splits, num_mini_batches=1,
  )
  gains = {f'learning_gain/{name}' for name in names}
  return {
      tag for tag in found if not tag.startswith('seconds/')
  } | gains | {'learning_rate', 'policy_lag'}


def _sampled(measured: Measured, num_rewards: int) -> Sampled:
  """A prompt at every place, and nothing else of note."""
  k, b, g = shape = measured.advantages_KxBxG.shape
  none_KxBxG, none_KxB, none_K = np.zeros(shape), np.zeros((k, b)), np.zeros(k)
  drawn = Drawn(
      none_KxBxG, none_KxBxG, none_KxBxG, np.zeros((*shape, num_rewards)),
      none_KxB,
  )
  return Sampled(
      Batch(*[none_KxB] * len(Batch._fields)), np.ones((k, b), bool), drawn,
      none_KxBxG, none_KxB, *[none_K] * 5, {},
  )


def check(
    best: str, always: Collection[str], sometimes: Collection[str]
) -> None:
  """Refuses to choose by what is not recorded.

  Args:
    best: as in the config.
    always: names of what every step records.
    sometimes: of what those record that are instrumented.

  Raises:
    ValueError: with what may have been meant, or how to have it recorded.
  """
  name, _ = split(best)
  if name in always:
    return
  if name in sometimes:
    raise ValueError(
        f'config.checkpoint.best={best!r} is recorded by instrumented steps'
        ' only, and a checkpoint is chosen by its own step; set'
        ' instrument_every=1.'
    )
  raise ValueError(
      f'config.checkpoint.best={best!r}: no step of this run records {name!r},'
      " of what docs/metrics.md lists (a '-' before a name keeps the lowest)"
      f'{hint(name, sorted({*always, *sometimes}))}'
  )
