"""Datasets of tensorflow-datasets, ours among them, read at random."""

from collections.abc import Callable, Sequence
import contextlib
import hashlib
import itertools
import json
import tempfile
from typing import Any

from etils import epath

from gradlens.tasks import builders
from gradlens.tasks.sources import columns as columns_lib
from gradlens.tasks.sources import entries
from gradlens.tasks.sources.columns import Columns
from gradlens.tasks.types import Row, Source

_OWN = ('split', 'heldout', 'data_dir', 'files', 'max_chars')

# Instead of a folder: records that are made up, in the form of the real ones.
MADE_UP = 'made_up'


def source(spec: str) -> Source:
  """Opens a dataset, which is downloaded and prepared the first time.

  Args:
    spec: `NAME?KEY=VALUE`. A name of `builders.BUILDERS` is ours; any other is
      one of tensorflow-datasets, `NAME/CONFIG`, which needs `prompt=COLUMN` and
      `answer=COLUMN`. Further keys: `split`, `heldout` (a split, or
      `NAME:SPLIT` of another of our datasets), `data_dir`, `max_chars`, and for
      ours `files`, a folder with a copy of the repository (or 'made_up').

  Raises:
    ValueError: there is no such dataset or split, or it cannot be prepared.
  """
  name, own, params = columns_lib.parse(spec, _OWN)
  opened = _ours if name in builders.BUILDERS else _theirs
  return opened(name, own, params)._replace(
      max_chars=columns_lib.number(own, 'max_chars')
  )


def _ours(name: str, own: dict[str, str], params: dict[str, str]) -> Source:
  if params:
    raise ValueError(
        f'dataset {name!r} has no parameter {min(params)!r}; it has '
        f'{", ".join(_OWN)}'
    )
  cls = _imported(lambda: builders.find(name))
  split = own['split'] if 'split' in own else next(iter(cls.FILES))
  heldout = own['heldout'] if 'heldout' in own else cls.HELDOUT
  other, _, heldout = f'{name}:{heldout}'.rpartition(':')
  other = other.rpartition(':')[2]
  if other not in builders.BUILDERS:
    raise ValueError(
        f'heldout={own["heldout"]!r} of {name!r} names none of our datasets, '
        f'{", ".join(builders.BUILDERS)}'
    )
  if (other, heldout) == (name, split):
    raise ValueError(
        f'{name!r} has split={split!r} to train on and to hold out; give it '
        'another split=, or use it as heldout= of another dataset'
    )
  rows = _Rows(_prepare_ours(name, own), split, _of_ours)
  held = (
      _Rows(_prepare_ours(other, own), heldout, _of_ours) if heldout else None
  )
  return Source(rows, cls.VERIFIER, held, answers=cls.ANSWERS)


def _theirs(name: str, own: dict[str, str], params: dict[str, str]) -> Source:
  if 'files' in own:
    raise ValueError(
        f'files= is for our datasets, {", ".join(builders.BUILDERS)}; {name!r} '
        'is none of them'
    )
  if 'prompt' not in params or 'answer' not in params:
    raise ValueError(
        f'{name!r} is none of our datasets, {", ".join(builders.BUILDERS)}; of '
        'another one say which columns to read: prompt=COLUMN&answer=COLUMN'
    )
  columns = Columns.take(params)
  builder = _imported(lambda: _prepare_theirs(name, own))
  split = own['split'] if 'split' in own else 'train'

  def row(example: dict[str, Any]) -> Row:
    return columns.row(_plain(example))

  return Source(
      _Rows(builder, split, row),
      entries.verifier(columns.entry, 'exact'),
      _Rows(builder, own['heldout'], row) if 'heldout' in own else None,
      answers=bool(columns.answer),
  )


class _Rows(Sequence[Row]):
  """A split of a dataset that is prepared."""

  def __init__(
      self, builder: Any, split: str, row: Callable[[dict[str, Any]], Row]
  ) -> None:
    known = builder.info.splits
    if split not in known:
      raise ValueError(
          f'dataset {builder.name!r} has no split {split!r}; it has '
          f'{", ".join(known)}'
      )
    self._where = f'{builder.name}, split {split}'
    self._source, self._row = builder.as_data_source(split), row

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, i: int) -> Row:
    if not 0 <= i < len(self):
      raise IndexError(i)
    try:
      return self._row(self._source[i])
    except ValueError as error:
      raise ValueError(f'{self._where}, record {i}: {error}') from error


def _of_ours(example: dict[str, Any]) -> Row:
  texts = _plain(example)
  entry = json.loads(texts['entry'])
  return Row(texts['question'], texts['answer'], entries.checked(entry))


def _plain(value: Any) -> Any:
  """An example's value, made of what JSON has."""
  if isinstance(value, dict):
    return {key: _plain(one) for key, one in value.items()}
  if isinstance(value, bytes):
    return value.decode()
  if hasattr(value, 'tolist'):
    return _plain(value.tolist())
  if isinstance(value, list):
    return [_plain(one) for one in value]
  return value


def _prepare_theirs(name: str, own: dict[str, str]) -> Any:
  import tensorflow_datasets as tfds

  data_dir = own['data_dir'] if 'data_dir' in own else None
  try:
    return _prepared(name, lambda: tfds.builder(
        name, data_dir=data_dir, file_format='array_record'
    ))
  except tfds.core.DatasetNotFoundError as error:
    raise ValueError(
        f'tensorflow-datasets has no dataset {name!r}, and ours are '
        f'{", ".join(builders.BUILDERS)}'
    ) from error


def _prepare_ours(name: str, own: dict[str, str]) -> Any:
  cls = builders.find(name)
  data_dir = own['data_dir'] if 'data_dir' in own else None
  if 'files' not in own:
    return _prepared(
        name, lambda: cls(data_dir=data_dir, file_format='array_record')
    )
  with contextlib.ExitStack() as stack:
    files = own['files']
    if files == MADE_UP:
      from gradlens.tasks.builders import made_up

      files = stack.enter_context(tempfile.TemporaryDirectory())
      made_up.write(name, files)
    # What was prepared from other files, or from those of the repository, is
    # no replacement.
    root = epath.Path(data_dir) if data_dir else _data_dir()
    root /= f'files-{_digest(files, cls.paths(files))}'

    def make() -> Any:
      builder = cls(data_dir=root, file_format='array_record')
      builder.files = files
      return builder

    return _prepared(name, make)


def _prepared(name: str, make: Callable[[], Any]) -> Any:
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  builder = make()
  try:
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  except (
      OSError, tfds.core.download.DownloadError,
      tfds.core.download.download_manager.NonMatchingChecksumError,
  ) as error:
    # Two processes may prepare the same; one of them is there first.
    if not builder.data_path.exists():
      raise ValueError(
          f'cannot prepare dataset {name!r}: {error}. Without a network, name '
          'a copy of its files by files=FOLDER, or prepare it elsewhere and '
          'name its data_dir='
      ) from error
  # As it is read from the disk, by whomever it was prepared.
  return make()


def _data_dir() -> epath.Path:
  import tensorflow_datasets as tfds

  return epath.Path(tfds.core.constants.DATA_DIR)


def _digest(files: str, paths: dict[str, list[str]]) -> str:
  """Of the names and the contents of a dataset's files."""
  state = hashlib.sha256()
  for path in itertools.chain(*paths.values()):
    try:
      content = (epath.Path(files) / path).read_bytes()
    except OSError as error:
      raise ValueError(
          f'files={files!r} is to have the file {path}: {error}'
      ) from error
    state.update(f'{path} {hashlib.sha256(content).hexdigest()}\n'.encode())
  return state.hexdigest()[:16]


def _imported(find: Callable[[], Any]) -> Any:
  try:
    return find()
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tasks of tensorflow-datasets need it: pip install 'gradlens[train]'"
    ) from error
