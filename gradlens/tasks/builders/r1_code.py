"""R1-Code: programming problems with unit tests."""

from collections.abc import Iterator
import fnmatch
from typing import Any

from etils import epath

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

  @classmethod
  def paths(cls, files: str) -> dict[str, list[str]]:
    """What the pattern stands for, in a copy or on the hub."""
    if files:
      folder = epath.Path(files) / 'data'
      names = [f'data/{path.name}' for path in folder.iterdir()]
    else:
      import huggingface_hub

      names = huggingface_hub.list_repo_files(_REPOSITORY, repo_type='dataset')
    [pattern] = cls.FILES['train']
    found = sorted(fnmatch.filter(names, pattern))
    if not found:
      place = files if files else _REPOSITORY
      raise ValueError(f'there is no file {pattern} in {place}')
    return {'train': found}

  def rows(self, path: epath.Path) -> Iterator[Row]:
    """Problems in Python with tests of standard input and output."""
    for record in base.parquet_rows(path):
      tests = record['verification_info']['test_cases']
      if tests and all(test['type'] == 'stdin_stdout' for test in tests):
        yield Row(record['problem_statement'], '', _entry(record, tests))


def _entry(
    record: dict[str, Any], tests: list[dict[str, str]]
) -> dict[str, Any]:
  return {
      'tests': [
          {'stdin': test['input'], 'stdout': test['output']} for test in tests
      ],
      'solution': record['gold_standard_solution'],
  }
