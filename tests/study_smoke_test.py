"""The studies' smoke variants: every kind of arm, to tables and figures."""

import pathlib
import shutil
import subprocess
import sys

from absl.testing import absltest
import pandas as pd
import pytest

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def study(program, *flags):
  """Its output."""
  done = subprocess.run(
      [sys.executable, '-m', program, *flags], cwd=ROOT, text=True,
      capture_output=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


class ImbalanceTest(absltest.TestCase):

  def test_smoke(self):
    folder = ROOT / 'runs' / 'imbalance-smoke'
    shutil.rmtree(folder, ignore_errors=True)
    said = study('experiments.imbalance.run', '--variant=smoke')
    self.assertIn('7 of 7', said)
    results = {
        path.stem: pd.read_csv(path)
        for path in (folder / 'results').glob('*.csv')
    }
    self.assertEqual(set(results), {
        'steps', 'heldout', 'fixed', 'stages', 'prompts', 'runs'
    })
    # Two seeds of 4 steps in blocks of 2, and as many of an optimizer twice.
    self.assertLen(results['steps'], 4 * 2 * 4)
    self.assertTrue((results['steps'].naive >= 0).all())
    self.assertGreater(results['steps'].naive.max(), 0)
    self.assertLen(results['stages'], 18)
    self.assertLen(results['prompts'], 18 * 2 * 8)
    self.assertLen(results['runs'], 7)
    tables = study('experiments.imbalance.plot', '--variant=smoke')
    self.assertIn('| mixed | palindrome |', tables)
    for path in ('figure', 'confounds', 'anatomy'):
      figure = (folder / 'figures' / f'{path}.svg').read_text()
      self.assertIn('palindrome', figure)


if __name__ == '__main__':
  absltest.main()
