"""What a task is, and what it is made of."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Record(NamedTuple):
  """One prompt of a task.

  Attributes:
    prompt: what the model reads.
    answer: a reference answer, for supervised steps and reports; empty where
      the verifier needs none.
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
  verify: Callable[[str, Record], Any]


class Row(NamedTuple):
  """One record of a source, before the task's template.

  Attributes:
    question: what is asked, in the source's words.
    answer: a reference answer, or empty.
    entry: further fields, plain values, for the verifier and the template.
  """

  question: str
  answer: str
  entry: dict[str, Any]


class Source(NamedTuple):
  """Where the records of a task come from.

  Attributes:
    rows: by random access. Reading one that is malformed raises a ValueError
      which names the file and the record.
    verify: the source's own verifier: a function, or a spec of one.
    heldout: rows of held-out data of its own; None has `rows` split.
    generated: whether rows are drawn, as many as one likes.
    answers: whether a row without an answer is of no use.
    max_chars: of a prompt; longer ones are dropped. 0 drops none.
  """

  rows: Sequence[Row]
  verify: str | Callable[[str, Record], Any]
  heldout: Sequence[Row] | None = None
  generated: bool = False
  answers: bool = True
  max_chars: int = 0
