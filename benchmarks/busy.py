"""A verifier that takes as much CPU time as it is told to."""

from collections.abc import Callable
import dataclasses
import time
from typing import Any

from gradlens import tasks


@dataclasses.dataclass(frozen=True)
class Busy:
  """Another verifier, and work before it.

  Attributes:
    verify: the other one.
    seconds: of CPU time for each completion.
  """

  verify: Callable[[str, tasks.Record], Any]
  seconds: float

  def __call__(self, completion: str, record: tasks.Record) -> Any:
    start = time.process_time()
    while time.process_time() - start < self.seconds:
      pass
    return self.verify(completion, record)
