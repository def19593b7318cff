"""GSM8K: word problems of grade school."""

from collections.abc import Iterator

from etils import epath

from gradlens.tasks.builders import base
from gradlens.tasks.types import Row


class GradlensGsm8k(base.Builder):
  """Word problems of grade school; the answer is a whole number."""

  HOMEPAGE = 'https://github.com/openai/grade-school-math'
  CITATION = 'Cobbe et al., 2021, arXiv 2110.14168'
  # Of this commit the files' checksums are known.
  BASE = (
      'https://raw.githubusercontent.com/openai/grade-school-math/'
      '3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/'
  )
  FILES = {'train': ['train.jsonl'], 'test': ['test.jsonl']}
  HELDOUT = 'test'

  def rows(self, path: epath.Path) -> Iterator[Row]:
    """What follows the last '####' of a solution is its answer."""
    for record in base.json_lines(path):
      _, mark, answer = record['answer'].rpartition('####')
      answer = answer.strip().replace(',', '') if mark else ''
      yield Row(record['question'], answer, {})
