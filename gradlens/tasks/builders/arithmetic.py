"""Arithmetic: the sums that GPT-3 was measured on."""

from collections.abc import Iterator

from etils import epath

from gradlens.tasks.builders import base
from gradlens.tasks.types import Row


class GradlensArithmetic(base.Builder):
  """Ten kinds of sums of one to five digits, 2000 of each."""

  HOMEPAGE = 'https://github.com/openai/gpt-3'
  CITATION = 'Brown et al., 2020, arXiv 2005.14165'
  # Of this commit the files' checksums are known.
  BASE = (
      'https://raw.githubusercontent.com/openai/gpt-3/'
      'd7a9bb505df6f630f9bab3b30c889e52f22eb9ea/data/'
  )
  FILES = {'train': [
      'single_digit_three_ops.jsonl', 'two_digit_multiplication.jsonl', *(
          f'{digits}_digit_{kind}.jsonl'
          for digits in ('two', 'three', 'four', 'five')
          for kind in ('addition', 'subtraction')
      ),
  ]}

  def rows(self, path: epath.Path) -> Iterator[Row]:
    """The question, without the 'Q:' before it and the 'A:' behind."""
    for record in base.json_lines(path):
      question = record['context'].strip()
      question = question.removeprefix('Q:').removesuffix('A:').strip()
      yield Row(question, record['completion'].strip(), {})
