"""The benchmarks run, and have a row for all that they are to compare."""

import re
import subprocess
import sys

from absl.testing import absltest, parameterized
from pages import ROOT
import pytest

_TINY = '--config=tests/tiny_config.py'
# Arguments for as little as can be, and the first cells of some of the rows.
_CASES = dict(
    step=(
        [_TINY, '--repeats=1'], ['plain', 'total', 'equalize_norms', 'pcgrad']
    ),
    overlap=(
        [f'{_TINY}:prompts_per_task=2', '--repeats=1', '--verify_seconds=0'],
        ['serial', 'overlapped'],
    ),
    instrument=(
        ['--sizes=small', '--rows=2', '--sequences=2', '--length=16',
         '--repeats=1'],
        ['joint', 'tap', 'two_pass', 'stacked'],
    ),
    verifiers=(['--math=4', '--code=3', '--num_workers=1'], ['math', 'code']),
)


@pytest.mark.slow
class BenchmarksTest(parameterized.TestCase):

  @parameterized.named_parameters(*((name, name) for name in _CASES))
  def test_has_its_rows(self, name):
    args, names = _CASES[name]
    done = subprocess.run(
        [sys.executable, '-m', f'benchmarks.{name}', *args], cwd=ROOT,
        text=True, capture_output=True,
    )
    self.assertEqual(done.returncode, 0, done.stderr[-3000:])
    for row in names:
      line = re.search(rf'^(?:.*\| )?{row}\b(.*)', done.stdout, re.M)
      self.assertIsNotNone(line, f'{row} in\n{done.stdout}')
      *_, last = re.findall(r'\d+(?:\.\d+)?', line[1])
      self.assertGreater(float(last), 0, line[0])


if __name__ == '__main__':
  absltest.main()
