"""docs/first_hour.md, done as it says: files, commands, and what they print.

Sizes are small, the installation is that of the tests, and nothing else is
changed.
"""

import os
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest
from pages import ROOT
import pytest

from gradlens import command

PAGE = 'docs/first_hour.md'
SMALL = 'num_steps=2,prompts_per_task=4,num_completions=2,num_splits=2'


def blocks():
  """(kind, title, text) of every block, in order."""
  return re.findall(
      r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$',
      (ROOT / PAGE).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
class FirstHourTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    # The page's `python` is the one with the tests' packages.
    (self.folder / 'bin').mkdir()
    program = self.folder / 'bin' / 'python'
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    self.env = dict(
        os.environ, JAX_PLATFORMS='cpu',
        PATH=f'{program.parent}:{os.environ["PATH"]}',
        PYTHONPATH=str(ROOT))
    # A stranger has none of what programs set for themselves.
    for name in command.QUIET:
      self.env.pop(name, None)

  def run_shell(self, line):
    done = subprocess.run(
        ['bash', '-euc', line], cwd=self.folder, env=self.env, text=True,
        capture_output=True)
    self.assertEqual(done.returncode, 0, f'{line}\n{done.stderr[-3000:]}')
    if 'gradlens.main' in line:
      # Libraries have nothing to say: every line is the run's own.
      self.assertRegex(done.stderr, r'\A(\d\d:\d\d:\d\d .*\n)+\Z')
      self.assertRegex(done.stderr, r'step 1/\d+, [\d.]+(s/step| step/s), ')
    return done.stdout

  def test_word_by_word(self):
    output, said, commands = '', 0, 0
    for kind, title, text in blocks()[1:]:    # the first installs
      if title:
        (self.folder / title).write_text(text)
      elif kind == 'text':
        self.assertEqual(text, output)
        said += 1
      elif kind == 'python':
        (self.folder / 'shown.py').write_text(text)
        output = self.run_shell('python shown.py')
      else:
        for line in text.splitlines():
          small = re.sub(r'(my_config.py:\S+)', rf'\1,{SMALL}', line)
          output = self.run_shell(small)
          commands += 1
          if 'head' in line or 'compare' in line:
            compared = output
    self.assertEqual((said, commands), (2, 6))
    self.assertRegex(output, 'mine .*\n')    # of the report
    rows = re.findall(
        r'^(total|equal) +(mine|chain_sum|palindrome) +[+-]\d\.\d{3} \[',
        compared, re.M)
    self.assertLen(set(rows), 6)
    png = (self.folder / 'compare.png').read_bytes()
    self.assertStartsWith(png, b'\x89PNG')
    self.check_what_it_tells(self.folder)

  def check_what_it_tells(self, folder):
    from gradlens.report import history

    runs = [history.load(folder / 'runs' / n) for n in ('total', 'equal')]
    for run in runs:
      self.assertEqual(
          run.setting('tasks.mine.verifier'), 'my_task.same_letters')
      # Scores of the function: multiples of a share of letters, errors none.
      self.assertGreater(run.evals[0]['mine'].max(), 0)
      self.assertEqual(run.per_task('verifier_errors').sum(), 0)
    self.assertEqual(runs[0].setting('correction.name'), 'total')
    self.assertEqual(runs[1].setting('correction.name'), 'equalize_norms')
    # Both start from the same model, on the same prompts.
    for task in runs[0].tasks:
      self.assertEqual(
          *(run.evals[0][task].tolist() for run in runs))


class PageTest(absltest.TestCase):

  def test_installs_what_is_there(self):
    kind, _, text = blocks()[0]
    self.assertEqual(kind, 'sh')
    self.assertIn("pip install -c constraints.txt '.[train]'", text)
    self.assertTrue((ROOT / 'constraints.txt').exists())


if __name__ == '__main__':
  absltest.main()
