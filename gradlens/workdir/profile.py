"""Profile: a trace of some of a run's steps, for TensorBoard."""

from collections.abc import Callable, Iterator
import contextlib
from typing import Any

from etils import epath
import jax

from gradlens import hosts


@contextlib.contextmanager
def tracing(
    folder: epath.PathLike, *, start: int, steps: int
) -> Iterator[Callable[[int, Any], None]]:
  """Traces `steps` steps from step `start` on, into `folder`.

  Of several hosts the first one is traced: all run the same program, and a
  trace of each would fill the bucket with one and the same picture.

  Args:
    folder: TensorBoard's, local or remote (gs://...).
    start: number of the first step, from 0.
    steps: how many; 0 is none.

  Yields:
    A function to call before every step, with the step's number and all that
    was computed so far. The trace ends with the context at the latest.
  """
  chosen = range(start, start + steps if hosts.first() else start)
  traced = False
  with contextlib.ExitStack() as running:

    def before(step: int, state: Any) -> None:
      nonlocal traced
      if traced == (step in chosen):
        return
      # Steps are dispatched ahead: what runs still belongs to this side.
      jax.block_until_ready(state)
      traced = not traced
      if traced:
        running.enter_context(jax.profiler.trace(folder))
      else:
        running.close()

    yield before
