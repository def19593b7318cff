"""Rewards: what the verifiers of a run's tasks give, one by one.

M is the largest number of rewards that a task has.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from gradlens.tasks import verifiers
from gradlens.tasks.types import Task


class Rewards(NamedTuple):
  """The rewards of every task, by name and weight.

  Attributes:
    names: of each task's rewards.
    weights_KxM: float32; 0 where a task has fewer than another.
  """

  names: list[list[str]]
  weights_KxM: np.ndarray

  @classmethod
  def of(cls, tasks: Sequence[Task]) -> Self:
    """Those that the tasks' verifiers give."""
    found = [verifiers.rewards(task.verify) for task in tasks]
    weights_KxM = np.zeros((len(found), max(map(len, found))), np.float32)
    for k, own in enumerate(found):
      weights_KxM[k, : len(own)] = list(own.values())
    return cls([list(own) for own in found], weights_KxM)

  @classmethod
  def one(cls, num_tasks: int) -> Self:
    """One reward for every task."""
    return cls([['reward']] * num_tasks, np.ones((num_tasks, 1), np.float32))
