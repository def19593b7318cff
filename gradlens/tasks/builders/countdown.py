"""Countdown: reach a target from three or four numbers."""

from collections.abc import Iterator

from etils import epath

from gradlens.tasks.builders import base
from gradlens.tasks.types import Row


class GradlensCountdown(base.Builder):
  """Numbers to be combined by + - * / into a target; any solution counts."""

  HOMEPAGE = 'https://huggingface.co/datasets/Jiayi-Pan/Countdown-Tasks-3to4'
  CITATION = 'Pan et al., TinyZero, 2025, github.com/Jiayi-Pan/TinyZero'
  BASE = f'{HOMEPAGE}/resolve/main/'
  FILES = {'train': ['data/train-00000-of-00001.parquet']}
  VERIFIER = 'countdown'
  ANSWERS = False

  def rows(self, path: epath.Path) -> Iterator[Row]:
    """The question is ours; the data have numbers and target alone."""
    for record in base.parquet_rows(path):
      numbers, target = record['nums'], record['target']
      yield Row(
          f'Using each of the numbers {", ".join(map(str, numbers))} exactly '
          f'once, and + - * / with brackets, write an expression that equals '
          f'{target}.',
          '', {'numbers': numbers, 'target': target},
      )
