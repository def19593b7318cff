"""What a task is."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Record(NamedTuple):
  """One prompt of a task.

  Attributes:
    prompt: what the model reads.
    answer: a reference answer, for supervised steps and reports.
    entry: what the verifier of the source needs beside the completion.
  """

  prompt: str
  answer: str
  entry: dict[str, Any]


class Task(NamedTuple):
  """Prompts with a verifier, split by prompt text.

  Attributes:
    name: of the task, in configs, metrics and reports.
    train: records to learn from.
    heldout: records to evaluate on; no prompt of theirs is in `train`.
    verify: `verify(completion, record)` is the reward, clipped into [0, 1] by
      `Verifier`. It is pickled by reference, so it belongs in a module.
  """

  name: str
  train: list[Record]
  heldout: list[Record]
  verify: Callable[[str, Record], float]
