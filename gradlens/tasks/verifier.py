"""The guard around verifiers: a process of its own, with limits per item."""

from collections.abc import Sequence
import logging
import multiprocessing.connection as mpc
import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys
from typing import Any, NamedTuple, Self

from gradlens.tasks.types import Record, Task

_SCRIPT = pathlib.Path(__file__).with_name('worker.py')
_START_SECONDS = 300.0  # Imports from a cold network disk.
_STOP_SECONDS = 5.0


class Result(NamedTuple):
  """What a verifier made of a completion.

  Attributes:
    score: in [0, 1]; 0 unless `status` is 'ok'.
    status: 'ok', 'timeout', or 'error' (the verifier raised, died, or gave
      no finite number).
  """

  score: float
  status: str


class Verifier:
  """Scores completions with the verifiers of tasks, in a worker process.

  A verifier that raises, hangs or takes the process down costs its own item
  only: that item scores 0, all others are scored as if nothing had been.

  A context manager; the worker starts in the background on entry.

  Args:
    tasks: of different names. Their `verify` functions belong in modules that
      can be imported, since they are pickled by reference.
    cpu_seconds: CPU time for one item.
    wall_seconds: elapsed time for one item, for verifiers that sleep or wait.
      Whether it runs out depends on the load of the machine as well, so that
      a run in which it does, which is logged, may not repeat bit for bit.

  Raises:
    ValueError: tasks that share a name.
  """

  def __init__(
      self, tasks: Sequence[Task], *, cpu_seconds: float = 2.0,
      wall_seconds: float = 60.0,
  ) -> None:
    self._pickled = {task.name: pickle.dumps(task.verify) for task in tasks}
    if len(self._pickled) < len(tasks):
      raise ValueError(
          f'tasks {[task.name for task in tasks]} share a name; rename one'
      )
    self._cpu_seconds, self._wall_seconds = cpu_seconds, wall_seconds
    self._worker: _Worker | None = None

  def __enter__(self) -> Self:
    self._start()
    return self

  def __exit__(self, *unused: Any) -> None:
    del unused
    if self._worker is not None:
      self._worker.stop()
      self._worker = None

  def score(self, items: Sequence[tuple[str, str, Record]]) -> list[Result]:
    """Scores completions, in order.

    Args:
      items: name of the task, completion, record of the prompt.

    Returns:
      One result for each item.

    Raises:
      ValueError: an item of a task that this verifier does not know.
      RuntimeError: not entered, or the worker cannot load a verifier or a
        record.
    """
    unknown = {name for name, _, _ in items} - set(self._pickled)
    if unknown:
      raise ValueError(
          f'no verifier for tasks {sorted(unknown)}; there are '
          f'{sorted(self._pickled)}'
      )
    if self._worker is None:
      raise RuntimeError("enter the verifier first: 'with verifier: ...'")
    results: list[Result] = []
    try:
      while len(results) < len(items):
        results += self._score_until_death(items[len(results):])
    except BaseException:
      # Answers to this batch must not be taken for answers to the next.
      self._worker.stop(seconds=0)
      raise
    return results

  def _score_until_death(
      self, items: Sequence[tuple[str, str, Record]]
  ) -> list[Result]:
    """Results of all items, or of those up to the first that kills."""
    if not self._worker.alive():
      logging.warning('The verifier worker is gone; another one starts.')
      self._restart()
    self._worker.wait_until_ready()
    results: list[Result] = []
    try:
      self._worker.send(list(items))
      for _ in items:
        results.append(Result(*self._worker.receive(self._wall_seconds)))
      return results
    except TimeoutError:
      status, cause = 'timeout', f'it took {self._wall_seconds} s'
    except (EOFError, ConnectionError):
      code = self._worker.stop()
      if code == -signal.SIGXCPU:
        status, cause = 'timeout', f'it took {self._cpu_seconds} s of CPU time'
      else:
        status, cause = 'error', f'it ended the process with code {code}'
    self._restart()
    name, completion, _ = items[len(results)]
    logging.warning(
        'The verifier of task %r was stopped, as %s; the completion scores 0: '
        '%.200r', name, cause, completion
    )
    return [*results, Result(0.0, status)]

  def _start(self) -> None:
    self._worker = _Worker(
        self._pickled, self._cpu_seconds, self._wall_seconds
    )

  def _restart(self) -> None:
    self._worker.stop(seconds=0)
    self._start()


class _Worker:
  """One life of the worker process, and the connection to it."""

  def __init__(self, *setup: Any) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
      self._process = subprocess.Popen(
          # -P: the script's folder must not hide modules of the same names.
          [sys.executable, '-P', str(_SCRIPT), str(theirs.fileno())],
          pass_fds=[theirs.fileno()],
          stdin=subprocess.DEVNULL,
          stdout=subprocess.DEVNULL,
          # Equal sets must iterate alike in every run.
          env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONHASHSEED': '0'},
      )
    self._connection = mpc.Connection(ours.detach())
    self._ready = False
    self.send((sys.path, *setup))

  def alive(self) -> bool:
    return self._process.poll() is None

  def wait_until_ready(self) -> None:
    if not self._ready:
      try:
        self.receive(_START_SECONDS)
      except (EOFError, ConnectionError) as error:
        raise RuntimeError(
            f'the verifier worker died at its start, with code {self.stop()}'
        ) from error
      self._ready = True

  def send(self, message: Any) -> None:
    self._connection.send(message)

  def receive(self, seconds: float) -> Any:
    if not self._connection.poll(seconds):
      raise TimeoutError(f'nothing from the verifier worker for {seconds} s')
    message = self._connection.recv()
    if isinstance(message, str):
      raise RuntimeError(
          'the verifier worker cannot load what it was sent; verifiers and '
          f'records must be importable from a module:\n{message}'
      )
    return message

  def stop(self, seconds: float = _STOP_SECONDS) -> int:
    """Ends the process and returns its exit code, -n for signal n."""
    self._connection.close()
    try:
      return self._process.wait(seconds)
    except subprocess.TimeoutExpired:
      self._process.kill()
      return self._process.wait()
