"""FinQA: questions about pages of financial reports."""

from collections.abc import Iterator
from typing import Any

from etils import epath

from gradlens.tasks.builders import base
from gradlens.tasks.types import Row


class GradlensFinQa(base.Builder):
  """Questions about a table and the text around it; answers are numbers."""

  HOMEPAGE = 'https://github.com/czyssrs/FinQA'
  CITATION = 'Chen et al., 2021, arXiv 2109.00122'
  BASE = (
      'https://raw.githubusercontent.com/czyssrs/FinQA/'
      '0f16e2867befa6840783e58be38c9efb9229d742/dataset/'
  )
  FILES = {
      'train': ['train.json'], 'validation': ['dev.json'], 'test': ['test.json']
  }
  HELDOUT = 'test'
  VERIFIER = 'numeric?tolerance=0.01'

  def rows(self, path: epath.Path) -> Iterator[Row]:
    """The answer is what the program of the annotator gives, not rounded."""
    for record in base.json_array(path):
      qa = record['qa']
      yield Row(_question(record), str(qa['exe_ans']), {'stated': qa['answer']})


def _question(record: dict[str, Any]) -> str:
  parts = (
      ' '.join(record['pre_text']),
      '\n'.join(' | '.join(cells) for cells in record['table']),
      ' '.join(record['post_text']),
      record['qa']['question'],
  )
  return '\n\n'.join(part.strip() for part in parts if part.strip())
