"""Reading a source: distinct prompts, what is dropped, and the split in two."""

import bisect
import collections
from collections.abc import Iterator, Sequence
import hashlib
import itertools
import logging
import random

from gradlens.tasks.template import Cut
from gradlens.tasks.types import Record, Row, Source, Task

# Held out are the prompts whose digest is below a quarter of its range.
_HELDOUT_BELOW = bytes([64])

Records = dict[bytes, Record]
Split = tuple[list[Record], list[Record]]


class Reader:
  """Reads rows into records of distinct prompts, and counts what it drops.

  Args:
    source: its `answers` and `max_chars` say what is dropped.
    cut: turns a question and an entry into a prompt.

  Attributes:
    num_read: rows that were read.
    dropped: reason to number of rows.
    held: digests of prompts to drop.
  """

  def __init__(self, source: Source, cut: Cut) -> None:
    self._source, self._cut = source, cut
    # Digests to answers.
    self._seen: dict[bytes, str] = {}
    self.num_read = 0
    self.held: set[bytes] = set()
    self.dropped: collections.Counter[str] = collections.Counter()

  def records(
      self, rows: Sequence[Row], order: Sequence[int]
  ) -> Iterator[tuple[bytes, Record]]:
    """Prompts that have not come before, with the digests of their texts."""
    for i in order:
      self.num_read += 1
      row = rows[i]
      reason = self._unfit(row)
      if reason:
        self.dropped[reason] += 1
        continue
      prompt = self._cut(row.question, row.entry)
      found = digest(prompt)
      reason = self._superfluous(prompt, found, row.answer)
      if reason:
        self.dropped[reason] += 1
        continue
      self._seen[found] = row.answer
      yield found, Record(prompt, row.answer, row.entry)

  def _unfit(self, row: Row) -> str:
    if not row.question.strip():
      return 'without a question'
    if self._source.answers and not row.answer.strip():
      return 'without an answer'
    return ''

  def _superfluous(self, prompt: str, found: bytes, answer: str) -> str:
    limit = self._source.max_chars
    if 0 < limit < len(prompt):
      return f'longer than {limit} characters'
    if found in self.held:
      return 'in the held-out data'
    if found not in self._seen:
      return ''
    same = self._seen[found] == answer
    return 'repeated' if same else 'repeated with another answer'


def digest(prompt: str) -> bytes:
  """Of a prompt's text, blanks and case aside."""
  return hashlib.sha256(' '.join(prompt.casefold().split()).encode()).digest()


def drawn(
    reader: Reader, source: Source, name: str, num_train: int, num_heldout: int
) -> Split:
  """Exactly as many as asked for, out of what is drawn.

  Only if one side has too few, those with the nearest digests change sides.

  Raises:
    ValueError: there are not as many prompts.
  """
  records: Records = {}
  missing = [num_train, num_heldout]
  rows = source.rows
  for found, record in reader.records(rows, range(len(rows))):
    records[found] = record
    missing[found < _HELDOUT_BELOW] -= 1
    if max(missing) <= 0:
      break
  asked = num_train + num_heldout
  if len(records) < asked:
    raise ValueError(
        f'{name!r} holds {len(records)} distinct prompts (in {len(rows)} '
        f'draws), {asked} asked; widen its parameters or ask for fewer'
    )
  digests = sorted(records)
  below = bisect.bisect_left(digests, _HELDOUT_BELOW)
  below = min(max(below, num_heldout), len(digests) - num_train)
  held = set(digests[:below])
  train = [r for found, r in records.items() if found not in held]
  heldout = [r for found, r in records.items() if found in held]
  return train[:num_train], heldout[:num_heldout]


def divided(
    reader: Reader, source: Source, num_train: int, num_heldout: int, seed: int
) -> Split:
  """At most as many as asked for, out of data without a split."""
  train, heldout = [], []
  rows = source.rows
  for found, record in reader.records(rows, _shuffled(len(rows), seed)):
    side, asked = (
        (heldout, num_heldout) if found < _HELDOUT_BELOW
        else (train, num_train)
    )
    if len(side) < asked:
      side.append(record)
    if len(train) == num_train and len(heldout) == num_heldout:
      break
  return train, heldout


def apart(
    reader: Reader, source: Source, num_train: int, num_heldout: int, seed: int
) -> Split:
  """At most as many as asked for, out of data with held-out data of its own.

  What is held out is the same for every seed. No prompt of the held-out data
  is trained on, whether or not it is among those that are asked for.
  """
  rows = source.heldout
  held = dict(reader.records(rows, range(len(rows))))
  heldout = [held[found] for found in sorted(held)[:num_heldout]]
  reader.held = set(held)
  rows = source.rows
  train = reader.records(rows, _shuffled(len(rows), seed))
  return [record for _, record in itertools.islice(train, num_train)], heldout


def across(tasks: Sequence[Task]) -> list[Task]:
  """The same tasks; what one holds out no other trains on.

  Raises:
    ValueError: a task has nothing left to train on.
  """
  held = {digest(record.prompt) for task in tasks for record in task.heldout}
  return [_without(task, held) for task in tasks]


def _without(task: Task, held: set[bytes]) -> Task:
  train = [r for r in task.train if digest(r.prompt) not in held]
  dropped = len(task.train) - len(train)
  if not train:
    raise ValueError(
        f'all {dropped} records of task {task.name!r} are held out by other '
        'tasks; take one of them out of the config'
    )
  if dropped:
    logging.warning(
        'Task %r does not train on %d records that other tasks hold out.',
        task.name, dropped,
    )
  return task._replace(train=train)


def _shuffled(size: int, seed: int) -> list[int]:
  order = list(range(size))
  random.Random(seed).shuffle(order)
  return order
