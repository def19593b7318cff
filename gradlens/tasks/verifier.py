"""The guard around verifiers: processes of their own, with limits per item."""

from collections import deque
from collections.abc import Sequence
import dataclasses
import logging
import multiprocessing.connection as mpc
import pickle
import signal
import time
from typing import Any, Self

from gradlens.tasks.late import Late
from gradlens.tasks.process import START_SECONDS, Worker
from gradlens.tasks.types import Record, Task
from gradlens.tasks.verifiers import rewards

# What a worker is given at once.
_SHARE = 16

Item = tuple[str, str, Record]
Share = list[tuple[int, Item]]  # with their places in the batch


@dataclasses.dataclass(frozen=True)
class Result:
  """What a verifier made of a completion.

  Attributes:
    score: in [0, 1]; 0 unless `status` is 'ok'.
    status: 'ok', 'timeout', or 'error' (the verifier raised, died, or gave
      no finite number).
    reason: of the verifier, for people; '' where it gave none.
    parts: rewards that the score is made of, in [0, 1]; empty where there is
      one, and unless `status` is 'ok'.
    seconds: of elapsed time; results that differ in it only are equal.
  """

  score: float
  status: str
  reason: str = ''
  parts: tuple[float, ...] = ()
  seconds: float = dataclasses.field(default=0.0, compare=False)


# Of an item that ran out of elapsed time when its batch was first scored.
_KNOWN = Result(0.0, 'timeout', 'it took too long before')


class Verifier:
  """Scores completions with the verifiers of tasks, in worker processes.

  A verifier that raises, hangs or takes the process down costs its own item
  only: that item scores 0, all others are scored as if nothing had been.

  A context manager; the workers start in the background on entry.

  Args:
    tasks: of different names. Their `verify` functions belong in modules that
      can be imported, since they are pickled by reference.
    cpu_seconds: CPU time for one item.
    wall_seconds: elapsed time for one item, for verifiers that sleep or wait.
      Whether it runs out depends on the load of the machine as well, so that
      a run in which it does, which is logged, may not repeat bit for bit.
    num_workers: how many items are scored at a time. No result depends on it.
    late: what ran out of elapsed time when the same part of the run was done
      before, and is not tried again; all of `score` are its batches.

  Raises:
    ValueError: tasks that share a name.
  """

  def __init__(
      self, tasks: Sequence[Task], *, cpu_seconds: float = 2.0,
      wall_seconds: float = 60.0, num_workers: int = 1,
      late: Late | None = None,
  ) -> None:
    self._pickled = {
        task.name: pickle.dumps((task.verify, len(rewards(task.verify))))
        for task in tasks
    }
    if len(self._pickled) < len(tasks):
      raise ValueError(
          f'tasks {[task.name for task in tasks]} share a name; rename one'
      )
    self._cpu_seconds, self._wall_seconds = cpu_seconds, wall_seconds
    self._num_workers, self._late = num_workers, late
    self._lanes: list[_Lane] = []

  def __enter__(self) -> Self:
    self._lanes = [
        _Lane(self._pickled, self._cpu_seconds, self._wall_seconds)
        for _ in range(self._num_workers)
    ]
    return self

  def __exit__(self, *unused: Any) -> None:
    del unused
    for lane in self._lanes:
      lane.worker.stop()
    self._lanes = []

  def score(self, items: Sequence[Item]) -> list[Result]:
    """Scores completions, in order.

    Args:
      items: name of the task, completion, record of the prompt.

    Returns:
      One result for each item.

    Raises:
      ValueError: an item of a task that this verifier does not know.
      RuntimeError: not entered, or a worker cannot load a verifier or a
        record.
    """
    unknown = {name for name, _, _ in items} - set(self._pickled)
    if unknown:
      raise ValueError(
          f'no verifier for tasks {sorted(unknown)}; there are '
          f'{sorted(self._pickled)}'
      )
    if not self._lanes:
      raise RuntimeError("enter the verifier first: 'with verifier: ...'")
    places = [] if self._late is None else self._late.places(items)
    results = {i: _KNOWN for i, p in enumerate(places) if p in self._late}
    numbered = [pair for pair in enumerate(items) if pair[0] not in results]
    todo = deque(
        numbered[i:i + _SHARE] for i in range(0, len(numbered), _SHARE)
    )
    try:
      for lane in self._lanes:
        lane.waited.clear()
        lane.revive()
      while len(results) < len(items):
        self._advance(todo, results)
    except BaseException:
      # Answers to this batch must not be taken for answers to the next.
      for lane in self._lanes:
        lane.worker.stop(seconds=0)
      raise
    if self._late is not None:
      self._late.add([places[i] for lane in self._lanes for i in lane.waited])
    return [results[i] for i in range(len(items))]

  def _advance(self, todo: deque[Share], results: dict[int, Result]) -> None:
    """Hands out items to workers that have none, and waits for an answer."""
    for lane in self._lanes:
      if todo and lane.worker.ready and not lane.given:
        lane.give(todo.popleft())
    awaited = {
        lane.worker.connection: lane for lane in self._lanes
        if lane.given or (todo and not lane.worker.ready)
    }
    soonest = min(lane.deadline for lane in awaited.values())
    readable = mpc.wait(list(awaited), max(soonest - time.monotonic(), 0))
    for connection, lane in awaited.items():
      if connection in readable:
        lane.receive(todo, results)
      elif lane.deadline <= time.monotonic():
        lane.out_of_time(todo, results)


class _Lane:
  """One worker after the other, and the items that it has been given."""

  def __init__(
      self, pickled: dict[str, bytes], cpu_seconds: float, wall_seconds: float
  ) -> None:
    self._setup = pickled, cpu_seconds, wall_seconds
    self._cpu_seconds, self._wall_seconds = cpu_seconds, wall_seconds
    self.waited: list[int] = []  # places of what ran out of elapsed time
    self._start()

  def _start(self) -> None:
    self.worker = Worker(*self._setup)
    self.given: deque[tuple[int, Item]] = deque()
    self.deadline = time.monotonic() + START_SECONDS

  def revive(self) -> None:
    """Makes sure that there is a worker."""
    if not self.worker.alive():
      logging.warning('The verifier worker is gone; another one starts.')
      self._restart()

  def _restart(self) -> None:
    self.worker.stop(seconds=0)
    self._start()

  def give(self, share: Share) -> None:
    self.given.extend(share)
    self.deadline = time.monotonic() + self._wall_seconds
    try:
      self.worker.send([item for _, item in share])
    except ConnectionError:
      pass  # That it is gone shows when its answer is read.

  def receive(self, todo: deque[Share], results: dict[int, Result]) -> None:
    """Reads a message, or finds that there are no more."""
    was_ready = self.worker.ready
    try:
      message = self.worker.receive()
    except (EOFError, ConnectionError) as error:
      code = self.worker.stop()
      if not was_ready:
        raise RuntimeError(
            f'the verifier worker died at its start, with code {code}'
        ) from error
      if code == -signal.SIGXCPU:
        cause = f'it took {self._cpu_seconds} s of CPU time'
        self._blame('timeout', cause, todo, results)
      else:
        cause = f'it ended the process with code {code}'
        self._blame('error', cause, todo, results)
      return
    if was_ready:
      number, item = self.given.popleft()
      results[number] = Result(*message)
      self.deadline = time.monotonic() + self._wall_seconds
      if message[1] == 'timeout' and message[2]:
        self.waited.append(number)
        _warn(item, message[2])

  def out_of_time(self, todo: deque[Share], results: dict[int, Result]) -> None:
    """Gives up waiting for the worker."""
    if not self.worker.ready:
      raise RuntimeError(
          f'the verifier worker has not started within {START_SECONDS} s'
      )
    self.waited.append(self.given[0][0])
    self._blame('timeout', f'it took {self._wall_seconds} s', todo, results)

  def _blame(
      self, status: str, cause: str, todo: deque[Share],
      results: dict[int, Result],
  ) -> None:
    """The item at work scores 0; another worker takes up those behind it."""
    number, item = self.given.popleft()
    begun = self.deadline - self._wall_seconds
    results[number] = Result(0.0, status, seconds=time.monotonic() - begun)
    if self.given:
      todo.appendleft(list(self.given))
    self._restart()
    _warn(item, cause)


def _warn(item: Item, cause: str) -> None:
  name, completion, _ = item
  logging.warning(
      'The verifier of task %r was stopped, as %s; the completion scores 0: '
      '%.200r', name, cause, completion
  )
