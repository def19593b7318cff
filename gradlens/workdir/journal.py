"""Journal: the file of what a run has recorded, a JSON object a line."""

import contextlib
import json
from typing import Any

from etils import epath

HISTORY = 'metrics.jsonl'


class HistoryWriter:
  """Appends scalars and texts to the run's history, a JSON object a line."""

  def __init__(self, workdir: epath.PathLike):
    self._open = contextlib.ExitStack()
    # Of a bucket's file there is a context only.
    self._file = self._open.enter_context(
        (epath.Path(workdir) / HISTORY).open('a')
    )

  def _write(self, step: int, **content: Any) -> None:
    self._file.write(json.dumps(dict(step=step, **content)) + '\n')

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    self._write(step, scalars=scalars)

  def write_texts(self, step: int, texts: dict[str, str]) -> None:
    self._write(step, texts=texts)

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._open.close()


def truncate(workdir: epath.PathLike, step: int) -> None:
  """Drops what a run wrote after the state it resumes from.

  The last line may be cut short, where the run was killed; another line that
  is not JSON is an error.

  Raises:
    ValueError: naming file and line.
  """
  path = epath.Path(workdir) / HISTORY
  if not path.exists():
    return
  lines = path.read_text().split('\n')
  kept = []
  for number, line in enumerate(lines[:-1], 1):
    try:
      if json.loads(line)['step'] <= step:
        kept.append(line + '\n')
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
          f'{path}, line {number} is damaged ({error}); remove that line.'
      ) from error
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(''.join(kept))
  temporary.replace(path)
