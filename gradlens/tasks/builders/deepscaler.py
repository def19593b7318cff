"""DeepScaleR: problems of mathematics competitions, collected for RL."""

from collections.abc import Iterator

from etils import epath

from gradlens.tasks.builders import base
from gradlens.tasks.types import Row

_HUB = 'https://huggingface.co/datasets'


class GradlensDeepScaler(base.Builder):
  """Problems of AIME, AMC, Omni-MATH and STILL, with final answers."""

  HOMEPAGE = f'{_HUB}/agentica-org/DeepScaleR-Preview-Dataset'
  CITATION = 'Luo et al., DeepScaleR, 2025'
  BASE = f'{HOMEPAGE}/resolve/main/'
  FILES = {'train': ['deepscaler.json']}

  def rows(self, path: epath.Path) -> Iterator[Row]:
    """A row of each record."""
    for record in base.json_array(path):
      answer = record['answer']
      yield Row(record['problem'], '' if answer is None else str(answer), {})
