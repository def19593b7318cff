"""The worker process of `Verifier`: scores completions, one after the other.

It is run as a script and imports no more of gradlens than the verifiers need,
so that it neither runs the parent's `__main__` again nor starts an accelerator.
"""

from collections.abc import Callable
import math
import multiprocessing.connection as mpc
import numbers
import os
import pickle
import resource
import signal
import sys
import time
import traceback
from typing import Any

_MAX_REASON = 500
# Of this process. To ask for more fails one verification, and not what else
# runs on the machine.
_MAX_MEMORY = 8 << 30


class OutOfTime(BaseException):
  """Raised inside a verifier that has used up its CPU time."""


class Timer:
  """Limits the CPU time of one verification after the other.

  The timer's signal ends Python code, even code that swallows exceptions: it
  comes again. Code that never returns to the interpreter does not see it; the
  kernel ends that together with the process, at most two CPU seconds later.
  """

  def __init__(self, cpu_seconds: float, wall_seconds: float) -> None:
    self.cpu_seconds, self.wall_seconds = cpu_seconds, wall_seconds
    self.running = self.expired = False
    self.hard_limit = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most == resource.RLIM_INFINITY or most > _MAX_MEMORY:
      resource.setrlimit(resource.RLIMIT_DATA, (_MAX_MEMORY, most))
    signal.signal(signal.SIGPROF, self._on_signal)

  def _on_signal(self, *unused: Any) -> None:
    del unused
    if self.running:
      self.expired = True
      raise OutOfTime

  def start(self) -> None:
    limit = math.ceil(time.process_time() + self.cpu_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, self.hard_limit))
    # The parent's wall clock strikes first; this one ends an orphan.
    signal.setitimer(signal.ITIMER_REAL, 2 * self.wall_seconds)
    self.running, self.expired = True, False
    signal.setitimer(signal.ITIMER_PROF, self.cpu_seconds, self.cpu_seconds)

  def stop(self) -> None:
    self.running = False  # A late signal does nothing.
    signal.setitimer(signal.ITIMER_REAL, 0)


def score(
    verify: Callable[[str, Any], Any], completion: str, record: Any,
    timer: Timer, num_rewards: int = 1,
) -> tuple[float, str, str, tuple[float, ...]]:
  """The score in [0, 1], 'ok' or what went wrong, the reason, and rewards.

  A verifier gives a number, a pair of a number and a reason, or these and the
  rewards that the number is made of, so many. It raises `TimeoutError` if it
  has waited for too long.
  """
  late = ''
  try:
    timer.start()
    value = verify(completion, record)
    timer.stop()
  except BaseException as error:  # SystemExit, too, is a failed verification.
    timer.stop()
    value = math.nan
    late = str(error) if isinstance(error, TimeoutError) else ''
  if timer.expired or late:
    return 0.0, 'timeout', late, ()
  reason, parts = '', ()
  if isinstance(value, tuple) and len(value) in (2, 3):
    value, reason, *rest = value
    parts = rest[0] if rest else ()
  if not isinstance(parts, tuple) or len(parts or (value,)) != num_rewards:
    return 0.0, 'error', '', ()
  if not all(map(_is_finite, (value, *parts))):
    return 0.0, 'error', '', ()
  value, *parts = (min(max(float(part), 0.0), 1.0) for part in (value, *parts))
  return value, 'ok', str(reason)[:_MAX_REASON], tuple(parts)


def _is_finite(value: Any) -> bool:
  return isinstance(value, numbers.Real) and math.isfinite(value)


def serve(connection: mpc.Connection) -> None:
  sys.path[:], pickled, cpu_seconds, wall_seconds = connection.recv()
  verifiers = {name: pickle.loads(data) for name, data in pickled.items()}
  timer = Timer(cpu_seconds, wall_seconds)
  connection.send(None)
  # From here on, what a verifier prints is of no use to anyone.
  os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
  while True:
    for name, completion, record in connection.recv():
      verify, num_rewards = verifiers[name]
      start = time.monotonic()
      found = score(verify, completion, record, timer, num_rewards)
      connection.send((*found, time.monotonic() - start))


def main(fd: int) -> None:
  # The parent alone decides when a run ends, and closes the connection.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  connection = mpc.Connection(fd)
  try:
    serve(connection)
  except (EOFError, ConnectionError):
    pass
  except Exception:
    connection.send(traceback.format_exc())


if __name__ == '__main__':
  main(int(sys.argv[1]))
