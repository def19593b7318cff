"""The README's code runs, prints what it says, and names what exists."""

import os
import re
import tempfile

from absl.testing import absltest, parameterized
from pages import ROOT, blocks, printed
import pytest

DOCS = [
    *sorted((ROOT / 'docs').glob('*.md')),
    *sorted((ROOT / 'experiments').glob('*/*.md')),
]


class ReadmeTest(parameterized.TestCase):

  def test_own_correction_prints_what_is_written_beside_it(self):
    source = blocks('README.md', 'python')[0]
    said = re.search(r'print\(.*\)\s+# (.*)', source)[1]
    self.assertEqual(said, printed(source).strip())

  def test_composes_into_another_project(self):
    table = printed(blocks('README.md', 'python')[2])
    self.assertIn('imbalance', table)
    self.assertIn('weight', table)

  @pytest.mark.slow
  def test_trains_with_an_own_correction(self):
    program = blocks('README.md', 'python')[1]
    program = program.replace('num_steps=20', 'num_steps=2')
    self.assertIn('num_steps=2', program)
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
      os.chdir(folder)
      self.addCleanup(os.chdir, before)
      table = printed(blocks('README.md', 'python')[0], program)
      os.chdir(before)
    for task in ('angles', 'chain_sum', 'palindrome', 'spell_backward'):
      self.assertIn(task, table)

  @parameterized.parameters('README.md', 'CONTRIBUTING.md', *DOCS)
  def test_what_it_names_exists(self, page):
    text = (ROOT / page).read_text()
    files = re.findall(r'\]\((?!http)([^)#]+)\)', text)
    files += re.findall(r'--config=([\w/.]+\.py)', text)
    files += re.findall(r'`((?:tests|gradlens|configs)/[\w/.]+)`', text)
    # What the reader is told to save.
    saved = re.findall(r'^```\w+ title="([\w.]+)"$', text, re.M)
    missing = [
        file for file in files
        if file not in saved and not (ROOT / file).exists()
        and not ((ROOT / page).parent / file).exists()]
    self.assertEmpty(missing)
    for name in re.findall(r'python -m ([\w.]+)', text):
      path = ROOT / name.replace('.', '/')
      self.assertTrue(
          path.with_suffix('.py').exists() or (path / '__main__.py').exists(),
          name)
    targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M)
    self.assertContainsSubset(
        set(re.findall(r'`make ([\w-]+)`', text)), targets)


if __name__ == '__main__':
  absltest.main()
