"""Verifications that ran out of elapsed time, remembered for a run's resuming.

Elapsed time depends on what else the machine does. So that steps which are done
again learn the same, what ran out of it there runs out of it there again; the
same completion of the same prompt anywhere else is tried.
"""

from collections.abc import Sequence
import hashlib
import json
from typing import Any

from etils import epath


class Late:
  """The places of a run where time ran out, those of this host, in a file.

  Args:
    folder: made when there is something to remember.
    host: the number of this host; what others score is theirs to remember.
  """

  def __init__(self, folder: epath.PathLike, host: int) -> None:
    self._file = epath.Path(folder) / f'host-{host}.json'
    self._known: set[str] = set()
    if self._file.exists():
      self._known = set(json.loads(self._file.read_text()))
    self._part, self._num_batches = '', 0

  def begin(self, part: str) -> None:
    """Says which part of the run comes next: a step or an evaluation.

    Its batches are counted from here on, so that doing it again finds them.
    """
    self._part, self._num_batches = part, 0

  def places(self, items: Sequence[tuple[str, str, Any]]) -> list[str]:
    """Where in the run the items of the next batch are, and what, as digests.

    Args:
      items: name of the task, completion, record of the prompt.
    """
    self._num_batches += 1
    return [
        _digest(
            self._part, self._num_batches, i, name, record.prompt, completion
        )
        for i, (name, completion, record) in enumerate(items)
    ]

  def __contains__(self, place: str) -> bool:
    return place in self._known

  def add(self, places: Sequence[str]) -> None:
    """Remembers places, for those that resume this run."""
    if not places:
      return
    self._known |= set(places)
    self._file.parent.mkdir(parents=True, exist_ok=True)
    temporary = self._file.with_name(self._file.name + '.tmp')
    temporary.write_text(json.dumps(sorted(self._known)))
    temporary.replace(self._file)


def _digest(*parts: Any) -> str:
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
