"""Evaluating what a run has left, against what the run itself has found."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized
import numpy as np
import pytest
import tiny_config

from gradlens import evaluate, export, train
from gradlens.workdir import checkpoint

_ROOT = pathlib.Path(__file__).parents[1]
# Up the loss, so that what is evaluated first is the best.
_ARG = (
    'init_from=warm,optimizer.learning_rate=-1e-2,rollout.max_new_tokens=12,'
    'evaluate.num_completions=2,checkpoint.keep=1,checkpoint.best=heldout/long'
)


def config(more=''):
  return tiny_config.get_config(f'{_ARG},{more}')


@pytest.mark.slow
class EvaluateTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.workdir = pathlib.Path(root) / 'run'
    cls.run_ = train.train(config(), cls.workdir)

  @parameterized.parameters('', '@best', '@4')
  def test_of_a_run_is_what_the_run_has_found(self, which):
    step = 2 if which == '@best' else 4
    rows = evaluate.evaluate(config(f'init_from={self.workdir}{which}'))
    for task, row in rows.items():
      rewards_N = self.run_.evals[step][task]
      self.assertEqual(row.prompts, 256)
      self.assertEqual(row.reward.value, rewards_N.mean())
      half = 1.97 * rewards_N.std(ddof=1) / 16
      np.testing.assert_allclose(
          row.reward, rewards_N.mean() + np.array([0, -half, half]), atol=1e-3
      )

  def test_the_best_is_still_there(self):
    steps = [int(p.name) for p in (
        self.workdir / checkpoint.STATES).iterdir()]
    self.assertCountEqual(steps, [2, 4])
    rewards = {step: r['long'].mean() for step, r in self.run_.evals.items()}
    self.assertGreater(rewards[2], rewards[4])

  def test_an_exported_checkpoint_has_its_own_rewards(self):
    for which, step in (('@best', 2), ('', 4)):
      origin = export.provenance(f'{self.workdir}{which}')
      self.assertEqual(origin['steps'], step)
      self.assertEqual(origin['heldout']['long'], dict(
          first=self.run_.evals[0]['long'].mean(),
          last=self.run_.evals[step]['long'].mean(), prompts=256,
      ))
      text = export.card(origin)
      self.assertRegex(text, r'\| long \| .* to 0\.\d{3} \| 256 \|')

  def test_passes(self):
    kwargs = dict(ks=(1, 2), passes_from=0.2)
    # Of what the run started with.
    rows = evaluate.evaluate(config(), **kwargs)
    file = self.workdir / 'evals/00000000.npz'
    for task, passed_NxG in np.load(file).items():
      passed_NxG = passed_NxG >= 0.2
      passes = rows[task].passes
      self.assertAlmostEqual(passes[1].value, passed_NxG.mean())
      self.assertAlmostEqual(passes[2].value, passed_NxG.any(axis=1).mean())
      self.assertLess(passes[1].value, passes[2].value)

  def test_the_likeliest_tokens(self):
    arg = 'evaluate.num_completions=1,'
    greedy, again, cold = (
        evaluate.evaluate(config(f'{arg}evaluate.temperature={t},seed={seed}'))
        for t, seed in ((0, 0), (0, 0), (1e-4, 0))
    )
    self.assertEqual(greedy, again)
    self.assertEqual(greedy, cold)
    drawn = evaluate.evaluate(config(arg))
    self.assertNotEqual(greedy, drawn)

  def test_by_command(self):
    done = subprocess.run(
        [sys.executable, '-m', 'gradlens.evaluate', '--k=1,2', '--json',
         f'--config=tests/tiny_config.py:{_ARG}',
         f'--config.init_from={self.workdir}'],
        cwd=_ROOT, env=os.environ | dict(JAX_PLATFORMS='cpu'), text=True,
        capture_output=True, check=True,
    )
    *lines, last = done.stdout.splitlines()
    self.assertEqual(lines[0].split('  ')[0], 'task')
    self.assertEqual([line.split()[:2] for line in lines[1:]],
                     [['long', '256'], ['short', '256']])
    found = json.loads(last)['long']
    self.assertCountEqual(found, ['prompts', 'reward', 'pass@1', 'pass@2'])
    self.assertEqual(
        found['reward']['value'], self.run_.evals[4]['long'].mean()
    )


class RefusalsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('checkpoint.best=heldout/ling', "'heldout/ling' must be one of .*long"),
      ('checkpoint.best=heldout,checkpoint.every=3', 'every=3 must be a mult'),
      ('evaluate.temperature=0,evaluate.num_completions=2',
       'num_completions=2 to 1'),
      ('evaluate.temperature=-1', 'must be 0 or more'),
  )
  def test_config(self, arg, message):
    with self.assertRaisesRegex(ValueError, message):
      evaluate.evaluate(tiny_config.get_config(arg))

  def test_more_completions_than_there_are(self):
    with self.assertRaisesRegex(ValueError, '--k=3 must be from 1 to .*=1'):
      evaluate.evaluate(tiny_config.get_config(), ks=(1, 3))


if __name__ == '__main__':
  absltest.main()
