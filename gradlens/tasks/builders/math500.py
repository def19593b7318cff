"""MATH-500: those 500 problems of MATH's test split that are reported on."""

from collections.abc import Iterator

from etils import epath

from gradlens.tasks.builders import base
from gradlens.tasks.types import Row


class GradlensMath500(base.Builder):
  """500 problems of MATH's test split, to be held out."""

  HOMEPAGE = 'https://huggingface.co/datasets/HuggingFaceH4/MATH-500'
  CITATION = 'Lightman et al., 2023, arXiv 2305.20050'
  BASE = f'{HOMEPAGE}/resolve/main/'
  FILES = {'test': ['test.jsonl']}
  HELDOUT = 'test'

  def rows(self, path: epath.Path) -> Iterator[Row]:
    """A row of each record."""
    for record in base.json_lines(path):
      yield Row(record['problem'], record['answer'], {
          'subject': record['subject'], 'level': record['level'],
      })
