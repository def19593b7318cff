"""R1-Code: programming problems with unit tests."""

from collections.abc import Iterator
from typing import Any

from etils import epath
import huggingface_hub

from gradlens.tasks.builders import base
from gradlens.tasks.types import Row

_REPOSITORY = 'open-r1/verifiable-coding-problems-python'


class GradlensR1Code(base.Builder):
  """Programming problems for Python, with inputs and expected outputs.

  Open R1's set, of those public ones with unit tests the one that was made to
  reproduce R1. Problems whose tests call a function are left out.
  """

  HOMEPAGE = f'https://huggingface.co/datasets/{_REPOSITORY}'
  CITATION = 'Hugging Face, Open R1, 2025, github.com/huggingface/open-r1'
  BASE = f'{HOMEPAGE}/resolve/main/'
  FILES = {'train': ['data/train-*.parquet']}
  VERIFIER = 'code'
  ANSWERS = False

  def folder(self) -> str:
    """The copy that is named, or the one that the hub's client keeps."""
    if self.files:
      return self.files
    return huggingface_hub.snapshot_download(
        _REPOSITORY, repo_type='dataset', allow_patterns=self.FILES['train']
    )

  @classmethod
  def paths(cls, folder: str) -> dict[str, list[str]]:
    """What the pattern stands for in a copy."""
    [pattern] = cls.FILES['train']
    parent = epath.Path(folder) / pattern.partition('/')[0]
    names = [path.name for path in parent.glob(pattern.partition('/')[2])]
    if not names:
      raise ValueError(f'there is no file {pattern} in {folder}')
    return {'train': [f'{parent.name}/{name}' for name in sorted(names)]}

  def rows(self, path: epath.Path) -> Iterator[Row]:
    """Problems in Python with tests of standard input and output."""
    for record in base.parquet_rows(path):
      tests = record['verification_info']['test_cases']
      if tests and all(_usable(test) for test in tests):
        yield Row(record['problem_statement'], '', _entry(record, tests))


def _usable(test: dict[str, Any]) -> bool:
  texts = isinstance(test['input'], str) and isinstance(test['output'], str)
  return texts and test['type'] == 'stdin_stdout'


def _entry(
    record: dict[str, Any], tests: list[dict[str, str]]
) -> dict[str, Any]:
  return {
      'tests': [
          {'stdin': test['input'], 'stdout': test['output']} for test in tests
      ],
      'solution': record['gold_standard_solution'],
  }
