"""Mixture: which prompts a step takes from each task, with exact quotas."""

from collections.abc import Mapping, Sequence
import hashlib
from typing import Any, NamedTuple

import grain
import numpy as np

from gradlens import tasks as tasks_lib
from gradlens.mixture.kind import State
from gradlens.mixture.kinds import make_kind
from gradlens.mixture.quotas import exact_quotas
from gradlens.mixture.seen import Seen

_NEVER = np.iinfo(int).max


class Draw(NamedTuple):
  """Prompts of a step.

  Attributes:
    records: of every task, as many as its quota.
    taken: numbers of all records that the step has had of each task.
  """

  records: list[list[tasks_lib.Record]]
  taken: list[frozenset[int]]

  @property
  def quotas_K(self) -> np.ndarray:
    """Prompts of every task."""
    return np.array([len(records) for records in self.records])


class Mixture:
  """Exact quotas from the shares of a kind, and an order of prompts.

  A task's prompts come in epochs, each in an order of its own. The end of an
  epoch that does not fill a step is skipped: no step takes a prompt twice.

  It holds nothing that changes. What does is a state of plain JSON, for the
  checkpoint: the step, each task's position in its order, and what its kind has
  learned. All else follows from the state, on any number of hosts.

  Args:
    tasks: K of them.
    prompts_per_task: B, on average; a step has K x B prompts.
    seed: of the orders. A task's order depends on its name too, and on no
      other task.
    num_splits: S; quotas are multiples of it.
    max_prompts: of a task in a step; None is B, which leaves 'uniform' only.
    kind: a key of `KINDS`.
    kwargs: its own arguments.
    active: of some tasks, the first step they are drawn at, and the first they
      are no more, or -1; steps are counted from 0.
    num_steps: that are drawn; None is without end. Nothing is asked of quotas
      after them.

  Attributes:
    kind: what says how large the tasks' shares are.
    max_prompts: of a task in a step.
    absent: names of the tasks that have no prompts at some step.

  Raises:
    ValueError: quotas that cannot be met, at any of the steps, or by a task's
      records; or what makes no sense.

  >>> records = [tasks_lib.Record(p, '', {}) for p in 'abcd']
  >>> task = tasks_lib.Task('letters', records, [], verify=float)
  >>> mixture = Mixture([task], prompts_per_task=2, seed=0)
  >>> state = mixture.init()
  >>> for _ in range(2):
  ...   draw, state = mixture.draw(state)
  ...   print([record.prompt for record in draw.records[0]])
  ['c', 'b']
  ['a', 'd']
  """

  def __init__(
      self, tasks: Sequence[tasks_lib.Task], prompts_per_task: int, seed: int,
      *, num_splits: int = 1, max_prompts: int | None = None,
      kind: str = 'uniform', kwargs: Mapping[str, Any] | None = None,
      active: Mapping[str, tuple[int, int]] | None = None,
      num_steps: int | None = None,
  ) -> None:
    kwargs = {} if kwargs is None else dict(kwargs)
    active = {} if active is None else dict(active)
    self.max_prompts = prompts_per_task if max_prompts is None else max_prompts
    self._tasks = tasks
    self._names = [task.name for task in tasks]
    self._sizes = [len(task.train) for task in tasks]
    self._total, self._unit = prompts_per_task * len(tasks), num_splits
    self._check_records(prompts_per_task)
    self.kind = make_kind(kind, kwargs, self._names, self._sizes)
    if self.kind.needs != 'nothing' and self.max_prompts == prompts_per_task:
      raise ValueError(
          f'mixture.kind={kind!r} learns how many prompts a task has, and'
          f' mixture.max_prompts leaves room for {prompts_per_task}, the mean,'
          ' only; set it to twice that, say.'
      )
    self._from_K, self._to_K = _periods(active, self._names)
    self.absent = self._check_quotas(_NEVER if num_steps is None else num_steps)
    self._orders = [
        grain.MapDataset.range(size).seed(_seed(seed, name)).shuffle().repeat()
        for name, size in zip(self._names, self._sizes, strict=True)
    ]
    self._data = {
        'seed': seed,
        'prompts_per_task': prompts_per_task,
        'mixture': {
            'num_splits': num_splits, 'max_prompts': self.max_prompts,
            'kind': kind, 'kwargs': kwargs,
            'active': {name: list(steps) for name, steps in active.items()},
        },
        'tasks': {task.name: tasks_lib.fingerprint(task) for task in tasks},
    }

  def _check_records(self, prompts_per_task: int) -> None:
    named = 'prompts_per_task', prompts_per_task
    if self.max_prompts > prompts_per_task:
      named = 'mixture.max_prompts', self.max_prompts
    for name, size in zip(self._names, self._sizes, strict=True):
      if not 0 < named[1] <= size:
        raise ValueError(
            f'{named[0]}={named[1]} must be between 1 and the {size} training'
            f' records of task {name!r}'
        )

  def _check_quotas(self, end: int) -> list[str]:
    """At every step where tasks join or leave; the tasks that are absent."""
    absent_K = np.zeros(len(self._tasks), bool)
    shares_K = self.kind.shares(self.kind.init())
    changes = {0, *self._from_K.tolist(), *self._to_K.tolist()}
    for step in sorted(step for step in changes if step < end):
      try:
        quotas_K = self._quotas(shares_K, step)
        # Learned shares are held between their bounds; given ones are met.
        wanted_K = quotas_K
        if self.kind.needs == 'nothing':
          wanted_K = self._quotas(shares_K, step, most=self._total)
      except ValueError as error:
        raise ValueError(
            f'the mixture cannot be drawn at step {step}: {error} Change'
            ' prompts_per_task, mixture.max_prompts or mixture.active.'
        ) from error
      if (wanted_K > self.max_prompts).any():
        k = int(wanted_K.argmax())
        raise ValueError(
            f'at step {step} task {self._names[k]!r} is to have {wanted_K[k]}'
            f' prompts, and mixture.max_prompts leaves room for'
            f' {self.max_prompts}; raise it (0 is prompts_per_task).'
        )
      absent_K |= quotas_K == 0
    return [self._names[k] for k in np.flatnonzero(absent_K)]

  def _quotas(
      self, shares_K: np.ndarray, step: int, most: int | None = None
  ) -> np.ndarray:
    there_K = (self._from_K <= step) & (step < self._to_K)
    return exact_quotas(
        np.where(there_K, shares_K, 0.0), total=self._total, unit=self._unit,
        most=self.max_prompts if most is None else most,
    )

  def init(self) -> State:
    """The state before the first step."""
    return {
        'step': 0, 'positions': [0] * len(self._tasks),
        'kind': self.kind.init(), **self._data,
    }

  def restore(self, state: State) -> State:
    """A state that was saved.

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
    return state

  def quotas(self, state: State) -> np.ndarray:
    """Prompts of every task in the next step: int `[K]`."""
    return self._quotas(self.kind.shares(state['kind']), state['step'])

  def draw(self, state: State) -> tuple[Draw, State]:
    """The training records of the next step, and the state after it."""
    records, taken, positions = [], [], []
    for k, quota in enumerate(self.quotas(state).tolist()):
      start, size = state['positions'][k], self._sizes[k]
      if start % size + quota > size:
        start += size - start % size
      numbers = [self._orders[k][start + b] for b in range(quota)]
      records.append([self._tasks[k].train[n] for n in numbers])
      taken.append(frozenset(numbers))
      positions.append(start + quota)
    state = state | {'step': state['step'] + 1, 'positions': positions}
    return Draw(records, taken), state

  def further(
      self, draw: Draw, state: State, counts_K: Sequence[int]
  ) -> tuple[list[list[tasks_lib.Record]], Draw, State]:
    """More records for a step, none of which it has had.

    Args:
      draw: what it has had.
      state: after that.
      counts_K: how many of each task are asked for.

    Returns:
      The records, fewer where a task has no others; and draw and state after
      them.
    """
    records, all_taken, positions = [], [], []
    for k, count in enumerate(counts_K):
      position, taken, found = state['positions'][k], set(draw.taken[k]), []
      while len(found) < count and len(taken) < self._sizes[k]:
        number = self._orders[k][position]
        position += 1
        if number not in taken:
          taken.add(number)
          found.append(self._tasks[k].train[number])
      records.append(found)
      all_taken.append(frozenset(taken))
      positions.append(position)
    draw = draw._replace(taken=all_taken)
    return records, draw, state | {'positions': positions}

  def learn(self, state: State, seen: Seen) -> State:
    """The state after a step was seen; in the order of the steps."""
    return state | {'kind': self.kind.learn(state['kind'], seen)}


def _periods(
    active: Mapping[str, Sequence[int]], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
  """First steps of the tasks, and the first without them."""
  unknown = sorted(set(active) - set(names))
  if unknown:
    raise ValueError(
        f'mixture.active names {unknown[0]!r}, which is no task; the tasks are'
        f' {", ".join(names)}'
    )
  periods = [tuple(active.get(name, (0, -1))) for name in names]
  for name, period in zip(names, periods, strict=True):
    if len(period) != 2 or not (
        0 <= period[0] and (period[1] == -1 or period[0] < period[1])
    ):
      raise ValueError(
          f'mixture.active.{name}={period} must be a first step, and a later'
          ' one that the task is not drawn at, or -1'
      )
  from_K, to_K = np.array(periods, int).T
  return from_K, np.where(to_K == -1, _NEVER, to_K)


def _seed(seed: int, name: str) -> int:
  digest = hashlib.sha256(f'{seed}/{name}'.encode()).digest()
  return int.from_bytes(digest[:4], 'big')
