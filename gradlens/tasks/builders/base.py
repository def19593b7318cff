"""What all builders share: files of a repository, turned into rows."""

import abc
from collections.abc import Iterator
import json
from typing import Any, ClassVar

from etils import epath
import tensorflow_datasets as tfds

from gradlens.tasks.types import Row


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A dataset of questions, out of the files of a public repository.

  Its examples have three texts: `question`, `answer`, which may be empty, and
  `entry`, a JSON object with what the verifier needs.

  Attributes:
    BASE: address that the files' paths follow.
    FILES: split to paths in the repository; of some, a pattern with `*`.
    HELDOUT: split to hold out; '' splits off some of 'train'.
    VERIFIER: spec of the dataset's own verifier.
    ANSWERS: whether a row without an answer is of no use.
    files: folder with a copy of the repository's files; '' downloads them.
  """

  VERSION = tfds.core.Version('1.0.0')
  BASE: ClassVar[str]
  FILES: ClassVar[dict[str, list[str]]]
  HOMEPAGE: ClassVar[str]
  CITATION: ClassVar[str]
  HELDOUT: ClassVar[str] = ''
  VERIFIER: ClassVar[str] = 'math'
  ANSWERS: ClassVar[bool] = True
  files: str = ''

  @abc.abstractmethod
  def rows(self, path: epath.Path) -> Iterator[Row]:
    """The rows of one of the files."""

  def folder(self) -> str:
    """With a copy of the repository's files; '' if there is none as yet."""
    return self.files

  @classmethod
  def paths(cls, folder: str) -> dict[str, list[str]]:
    """Split to the paths of its files in the repository or in a copy of it."""
    del folder
    return cls.FILES

  def _info(self) -> tfds.core.DatasetInfo:
    texts = ('question', 'answer', 'entry')
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
            dict.fromkeys(texts, tfds.features.Text())
        ),
        description=type(self).__doc__,
        homepage=self.HOMEPAGE,
        citation=self.CITATION,
    )

  def _split_generators(
      self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
    folder = self.folder()
    paths = self.paths(folder)
    if folder:
      found = {
          split: [epath.Path(folder) / path for path in of_split]
          for split, of_split in paths.items()
      }
    else:
      found = dl_manager.download({
          split: [self.BASE + path for path in of_split]
          for split, of_split in paths.items()
      })
    return {
        split: self._generate_examples(files) for split, files in found.items()
    }

  def _generate_examples(
      self, files: list[epath.Path]
  ) -> Iterator[tuple[str, dict[str, str]]]:
    for number, path in enumerate(files):
      count = 0
      try:
        for row in self.rows(path):
          yield f'{number:04}-{count:08}', {
              'question': row.question, 'answer': row.answer,
              'entry': json.dumps(row.entry),
          }
          count += 1
      except KeyError as error:
        raise ValueError(
            f'{path}, after {count} records: there is no field {error}; is it '
            f'a file of {self.HOMEPAGE}?'
        ) from error


def json_lines(path: epath.Path) -> Iterator[dict[str, Any]]:
  """The objects of a file with one on each line.

  Raises:
    ValueError: a line is no JSON, with its number.
  """
  with path.open('rb') as lines:
    for number, line in enumerate(lines, 1):
      try:
        yield json.loads(line)
      except ValueError as error:
        raise ValueError(
            f'{path}, line {number}: not JSON, or cut off; copy the file again '
            f'({error})'
        ) from error


def json_array(path: epath.Path) -> Iterator[dict[str, Any]]:
  """The objects of a file that is one JSON array.

  Raises:
    ValueError: it is not.
  """
  try:
    found = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(
        f'{path}: not JSON, or cut off; copy the file again ({error})'
    ) from error
  if not isinstance(found, list):
    raise ValueError(f'{path} is no JSON array')
  yield from found


def parquet_rows(path: epath.Path) -> Iterator[dict[str, Any]]:
  """The rows of a parquet file, a part after the other.

  Raises:
    ValueError: it is none, or cut off.
  """
  import pyarrow as pa
  import pyarrow.parquet as pq

  with path.open('rb') as data:
    try:
      for batch in pq.ParquetFile(data).iter_batches(256):
        yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
      raise ValueError(
          f'{path} is no parquet file, or cut off; copy it again ({error})'
      ) from error
