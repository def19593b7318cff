"""Files: one record a line of JSON, or one a row of a parquet file."""

from collections.abc import Callable, Sequence
import json
from typing import Any

from etils import epath

from gradlens.tasks.sources import columns as columns_lib
from gradlens.tasks.sources import entries
from gradlens.tasks.sources.columns import Columns
from gradlens.tasks.types import Row, Source

_OWN = ('heldout', 'max_chars')


def jsonl(spec: str) -> Source:
  """Opens a file with a JSON object on each line; blank lines are skipped.

  Args:
    spec: `PATH?prompt=COLUMN&answer=COLUMN&NAME=COLUMN`, with `heldout=PATH`
      for held-out data of its own, and `max_chars=N`. A path may be `gs://`.

  Raises:
    ValueError: there is no such file, it is empty, cut off, or not UTF-8, or a
      parameter is wrong.
  """
  return _source(spec, _Lines)


def parquet(spec: str) -> Source:
  """Opens a parquet file; `spec` is as that of `jsonl`.

  Raises:
    ValueError: there is no such file, it is no parquet file or cut off, it has
      no such column, or a parameter is wrong.
  """
  return _source(spec, _Table)


def _source(
    spec: str, read: Callable[[str, Columns], Sequence[Row]]
) -> Source:
  path, own, params = columns_lib.parse(spec, _OWN)
  columns = Columns.take(params)
  return Source(
      read(path, columns),
      entries.verifier(columns.entry, 'exact'),
      read(own['heldout'], columns) if 'heldout' in own else None,
      answers=bool(columns.answer),
      max_chars=columns_lib.number(own, 'max_chars'),
  )


class _Lines(Sequence[Row]):
  """The lines of a file that are not blank."""

  def __init__(self, path: str, columns: Columns) -> None:
    self._path, self._columns = path, columns
    lines = _read(path).split(b'\n')
    self._lines = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not self._lines:
      raise ValueError(f'{path} has no records')
    number, last = self._lines[-1]
    # A whole file ends in a newline, or at least in a whole record.
    if number == len(lines) and not _is_json(last):
      raise ValueError(
          f'{path} is cut off in line {number}; copy the file again'
      )

  def __len__(self) -> int:
    return len(self._lines)

  def __getitem__(self, i: int) -> Row:
    number, line = self._lines[i]
    try:
      return self._columns.row(_object(line))
    except ValueError as error:
      raise ValueError(f'{self._path}, line {number}: {error}') from error


class _Table(Sequence[Row]):
  """The rows of a parquet file, whose columns are in memory."""

  def __init__(self, path: str, columns: Columns) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    self._path, self._columns = path, columns
    data = pa.BufferReader(_read(path))
    try:
      known = pq.read_schema(data).names
      wanted = [name for name in columns.names if name in known]
      self._table = pq.read_table(data, columns=wanted)
    except (pa.ArrowException, OSError) as error:
      raise ValueError(
          f'{path} is no parquet file, or cut off; copy it again ({error})'
      ) from error
    if not len(self):
      raise ValueError(f'{path} has no records')
    if len(wanted) < len(columns.names):
      missing = sorted(set(columns.names) - set(wanted))
      raise ValueError(
          f'{path} has no column {missing[0]!r}; it has {", ".join(known)}'
      )

  def __len__(self) -> int:
    return self._table.num_rows

  def __getitem__(self, i: int) -> Row:
    if not 0 <= i < len(self):
      raise IndexError(i)
    [record] = self._table.slice(i, 1).to_pylist()
    try:
      return self._columns.row(record)
    except ValueError as error:
      raise ValueError(f'{self._path}, record {i + 1}: {error}') from error


def _read(path: str) -> bytes:
  try:
    return epath.Path(path).read_bytes()
  except (OSError, ValueError) as error:
    raise ValueError(f'cannot read the file {path!r}: {error}') from error


def _object(line: bytes) -> dict[str, Any]:
  try:
    found = json.loads(line)
  except UnicodeDecodeError as error:
    raise ValueError(f'not UTF-8; convert the file ({error})') from error
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(
        f'not JSON; mend the line or take it out ({error})'
    ) from error
  if not isinstance(found, dict):
    raise ValueError(f'no object with names but {found!r:.80}')
  return found


def _is_json(line: bytes) -> bool:
  try:
    json.loads(line)
  except (ValueError, RecursionError):
    return False
  return True
