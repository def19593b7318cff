"""MATH: problems of mathematics competitions."""

from collections.abc import Iterator

from etils import epath

from gradlens.tasks.builders import base
from gradlens.tasks.types import Row

_SUBJECTS = (
    'algebra', 'counting_and_probability', 'geometry', 'intermediate_algebra',
    'number_theory', 'prealgebra', 'precalculus',
)


class GradlensMath(base.Builder):
  """Problems of mathematics competitions, with their subject and level."""

  HOMEPAGE = 'https://huggingface.co/datasets/EleutherAI/hendrycks_math'
  CITATION = 'Hendrycks et al., 2021, arXiv 2103.03874'
  BASE = f'{HOMEPAGE}/resolve/main/'
  FILES = {
      split: [f'{s}/{split}-00000-of-00001.parquet' for s in _SUBJECTS]
      for split in ('train', 'test')
  }
  HELDOUT = 'test'

  def rows(self, path: epath.Path) -> Iterator[Row]:
    """The answer is what the solution boxes last; empty if it boxes none."""
    for record in base.parquet_rows(path):
      yield Row(record['problem'], boxed(record['solution']), {
          'subject': record['type'], 'level': record['level'],
      })


def boxed(solution: str) -> str:
  r"""What stands in the last `\boxed{}` or `\fbox{}`, or after `\boxed `.

  >>> boxed(r'so \boxed{1}, and at last $\boxed{\frac{1}{2}}$.')
  '\\frac{1}{2}'
  """
  start = max(solution.rfind(r'\boxed'), solution.rfind(r'\fbox'))
  if start < 0:
    return ''
  rest = solution[start:].partition('box')[2].removeprefix('ed')
  if not rest.startswith('{'):
    return rest.partition('$')[0].strip()
  depth = 0
  for i, letter in enumerate(rest):
    depth += (letter == '{') - (letter == '}')
    if not depth:
      return rest[1:i]
  return ''
