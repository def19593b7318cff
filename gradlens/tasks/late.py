"""Verifications that ran out of elapsed time, remembered for a run's resuming.

Elapsed time depends on what else the machine does. So that steps which are done
again learn the same, what ran out of it once has run out of it for good.
"""

import hashlib
import json
from typing import Any

from etils import epath


def digest(item: tuple[str, str, Any]) -> str:
  """Of a task's name, a completion and the prompt that it is of."""
  name, completion, record = item
  text = json.dumps([name, record.prompt, completion])
  return hashlib.sha256(text.encode()).hexdigest()


class Late:
  """A set of items in a folder, in which each host has a file of its own.

  Args:
    folder: made when there is something to remember.
    host: the number of this host.
  """

  def __init__(self, folder: epath.PathLike, host: int) -> None:
    self._file = epath.Path(folder) / f'host-{host}.json'
    self._own: set[str] = set()
    self._all: set[str] = set()
    if self._file.parent.exists():
      for file in self._file.parent.glob('host-*.json'):
        self._all |= set(json.loads(file.read_text()))
      if self._file.exists():
        self._own = set(json.loads(self._file.read_text()))

  def __contains__(self, item: tuple[str, str, Any]) -> bool:
    return bool(self._all) and digest(item) in self._all

  def add(self, items: list[tuple[str, str, Any]]) -> None:
    """Remembers items, for this run and those that resume it."""
    if not items:
      return
    self._own |= {digest(item) for item in items}
    self._all |= self._own
    self._file.parent.mkdir(parents=True, exist_ok=True)
    temporary = self._file.with_name(self._file.name + '.tmp')
    temporary.write_text(json.dumps(sorted(self._own)))
    temporary.replace(self._file)
