"""Mixture: which prompts a step takes from each task."""

from collections.abc import Sequence
import hashlib
from typing import Any

import grain

from gradlens import tasks as tasks_lib


class Mixture:
  """Exact quotas: every step takes as many prompts from each task.

  A task's prompts come in epochs, each in an order of its own. The end of an
  epoch that does not fill a step is skipped: no step takes a prompt twice. A
  batch is a function of the step, whose number is all there is to checkpoint.

  Args:
    tasks: K of them.
    prompts_per_task: B.
    seed: of the orders. A task's order depends on its name too, and on no
      other task.

  Raises:
    ValueError: a task with fewer than B training records.

  >>> records = [tasks_lib.Record(p, '', {}) for p in 'abcd']
  >>> task = tasks_lib.Task('letters', records, [], verify=float)
  >>> mixture = Mixture([task], prompts_per_task=2, seed=0)
  >>> [[r.prompt for r in mixture.batch(step)[0]] for step in (0, 1)]
  [['c', 'b'], ['a', 'd']]
  """

  def __init__(
      self, tasks: Sequence[tasks_lib.Task], prompts_per_task: int, seed: int
  ) -> None:
    for task in tasks:
      if not 0 < prompts_per_task <= len(task.train):
        raise ValueError(
            f'prompts_per_task={prompts_per_task} must be between 1 and the '
            f'{len(task.train)} training records of task {task.name!r}'
        )
    self._prompts_per_task = prompts_per_task
    self._orders = [
        grain.MapDataset.source(task.train)
        .seed(_seed(seed, task.name)).shuffle().repeat()
        for task in tasks
    ]
    self._sizes = [len(task.train) for task in tasks]
    self._data = {
        'seed': seed,
        'prompts_per_task': prompts_per_task,
        'tasks': {task.name: tasks_lib.fingerprint(task) for task in tasks},
    }

  def batch(self, step: int) -> list[list[tasks_lib.Record]]:
    """The training records of a step, counted from 0: `[K][B]`."""
    return [
        self._take(order, size, step)
        for order, size in zip(self._orders, self._sizes, strict=True)
    ]

  def _take(
      self, order: grain.MapDataset, size: int, step: int
  ) -> list[tasks_lib.Record]:
    epoch, part = divmod(step, size // self._prompts_per_task)
    start = epoch * size + part * self._prompts_per_task
    return [order[start + b] for b in range(self._prompts_per_task)]

  def state(self, step: int) -> dict[str, Any]:
    """The position in the data as plain JSON, for a checkpoint."""
    return {'step': step, **self._data}

  def step(self, state: dict[str, Any]) -> int:
    """The step of a `state`.

    Raises:
      ValueError: it belongs to other data.
    """
    for key, value in self._data.items():
      if state[key] != value:
        raise ValueError(
            f'the checkpoint was written with {key}={state[key]}, this run '
            f'has {key}={value}; restore the config and the packages of its '
            'run, or take a new workdir'
        )
    return state['step']


def _seed(seed: int, name: str) -> int:
  digest = hashlib.sha256(f'{seed}/{name}'.encode()).digest()
  return int.from_bytes(digest[:4], 'big')
