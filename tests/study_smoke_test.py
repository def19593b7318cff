"""The studies' smoke variants: every kind of arm, to tables and figures."""

import pathlib
import shutil
import subprocess
import sys

from absl.testing import absltest
import pytest

from experiments import tables

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
    self.assertIn('9 of 9', said)
    results = tables.read(folder / 'results')
    self.assertEqual(set(results), {
        'steps', 'heldout', 'blocks', 'fixed', 'stages', 'prompts', 'function',
        'runs',
    })
    # Two seeds of 4 steps in blocks of 2, and as many of an optimizer twice.
    self.assertLen(results['steps'], 4 * 2 * 4)
    self.assertTrue((results['steps'].naive >= 0).all())
    self.assertGreater(results['steps'].naive.max(), 0)
    self.assertLen(results['stages'], 18)
    self.assertLen(results['prompts'], 18 * 2 * 8)
    # Every task's step on every task; two seeds, four tasks, two blocks.
    function = results['function']
    self.assertLen(function, 4 * 4)
    self.assertGreater(function.kl.abs().max(), 0)
    self.assertLen(results['blocks'], 2 * 4 * 2)
    self.assertLen(results['runs'], 9)
    printed = study('experiments.imbalance.plot', '--variant=smoke')
    self.assertIn('| mixed | palindrome |', printed)
    for path in ('figure', 'confounds'):
      figure = (folder / 'figures' / f'{path}.svg').read_text()
      self.assertIn('palindrome', figure)
    # Tasks whose squared norm has a logarithm.
    figure = (folder / 'figures' / 'anatomy.svg').read_text()
    stages = results['stages'].set_index('task').norm_sq
    for task, norm_sq in stages.items():
      self.assertEqual(f'>{task}</text>' in figure, norm_sq > 0, task)


class CorrectionsTest(absltest.TestCase):

  def test_smoke(self):
    folder = ROOT / 'runs' / 'corrections-smoke'
    shutil.rmtree(folder, ignore_errors=True)
    said = study('experiments.corrections.run', '--variant=smoke')
    self.assertIn('6 of 6', said)
    results = tables.read(folder / 'results')
    steps, heldout, runs = (results[n] for n in ('steps', 'heldout', 'runs'))
    self.assertEqual(set(steps.method), {'total', 'mgs', 'fixed_weights'})
    # Three methods, two seeds, four tasks, three evaluations.
    self.assertLen(heldout, 3 * 2 * 4 * 3)
    first = heldout[heldout.step == 0]
    self.assertEqual(  # seeds share prompts and keys
        first.groupby(['seed', 'task']).reward.nunique().max(), 1
    )
    self.assertEqual(runs.config_hash.nunique(), 6)
    printed = study('experiments.corrections.plot', '--variant=smoke')
    self.assertRegex(printed, r'\| mgs \| 3e-04 \| 0\.\d+ \[')
    for name in ('differences', 'profiles'):
      self.assertIn('mgs', (folder / 'figures' / f'{name}.svg').read_text())


class CausesTest(absltest.TestCase):

  def test_smoke(self):
    folder = ROOT / 'runs' / 'causes-smoke'
    shutil.rmtree(folder, ignore_errors=True)
    said = study('experiments.causes.run', '--variant=smoke')
    self.assertEqual(said.count('4 of 4: '), 2)  # a part a seed, and subsets
    self.assertIn('2 of 2: ', said)
    results = tables.read(folder / 'results')
    steps, heldout = results['steps'], results['heldout']
    # Two evaluations; of four tasks in two seeds of three parts and in two
    # subsets, and of one task by itself.
    self.assertLen(heldout, 2 * (4 * (2 * 3 + 2) + 2))
    first = heldout[(heldout.step == 0) & (heldout.part != 'subset')]
    # All start with one policy.
    self.assertEqual(first.groupby(['seed', 'task']).reward.nunique().max(), 1)
    # Of the same first gradients one is four times longer.
    at = steps[steps.step == steps.step.min()].set_index(['part', 'task'])
    self.assertGreater(
        at.share_corrected['dose', 'gcd'].sum(),
        at.share_corrected['base', 'gcd'].sum(),
    )
    printed = study('experiments.causes.plot', '--variant=smoke')
    self.assertIn('| gcd | 4 |', printed)
    self.assertIn('| all | 32 |', printed)
    figure = (folder / 'figures' / 'doses.svg').read_text()
    self.assertIn('palindrome', figure)


class EstimatorsTest(absltest.TestCase):

  def test_smoke(self):
    folder = ROOT / 'runs' / 'estimators-smoke'
    shutil.rmtree(folder, ignore_errors=True)
    study('experiments.estimators.run', '--variant=smoke')
    results = tables.read(folder / 'results')
    # Four estimators of 3 steps and 4 tasks.
    self.assertLen(results['steps'], 4 * 3 * 4)
    naive = results['steps'].query('estimator == "naive"').norm_sq
    self.assertTrue((naive >= 0).all())
    self.assertGreater(naive.max(), 0)
    blocks = results['blocks']
    self.assertLen(blocks.block.unique(), 6)
    # The blocks' squared norms add up.
    whole = blocks.groupby('task')[['norm_sq', 'whole']].agg(
        dict(norm_sq='sum', whole='first')
    )
    self.assertGreater(whole.whole.abs().max(), 0)
    self.assertLess(
        (whole.norm_sq - whole.whole).abs().max(),
        1e-3 * whole.whole.abs().max(),
    )
    printed = study('experiments.estimators.plot', '--variant=smoke')
    self.assertIn('| layers.03 |', printed)
    figure = (folder / 'figures' / 'estimates.svg').read_text()
    self.assertIn('palindrome', figure)


if __name__ == '__main__':
  absltest.main()
