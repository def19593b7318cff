"""The notebooks run from top to bottom, and what they claim holds.

A notebook asserts its own numbers, so to run is to hold.
"""

import ast
import os
import re

from absl.testing import absltest, parameterized
import nbclient
import nbformat
from pages import ROOT
import pytest

NOTEBOOKS = [
    (path.name,) for path in sorted((ROOT / 'colabs').glob('*.ipynb'))
]
# Its pictures are the page that readers see; the others are to be run.
WITH_OUTPUTS = ('01_two_tasks.ipynb',)
STRIPPED = [name for name in NOTEBOOKS if name[0] not in WITH_OUTPUTS]


def read(name):
  return nbformat.read(ROOT / 'colabs' / name, as_version=4)


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


class NotebookTest(parameterized.TestCase):

  def test_there_are_notebooks(self):
    self.assertNotEmpty(NOTEBOOKS)

  @parameterized.parameters(*NOTEBOOKS)
  @pytest.mark.slow
  def test_runs_within_minutes_of_its_own_time(self, name):
    notebook = read(name)
    asserts = [
        line for cell in code_cells(notebook)
        for line in re.findall(r'^ *assert .*', cell.source, re.M)]
    self.assertGreater(len(asserts), 3)
    # Time of the processor, since tests share the machine.
    cell = nbformat.v4.new_code_cell('import time; print(time.process_time())')
    notebook.cells.append(cell)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name='python3',
        resources={'metadata': {'path': str(ROOT)}},
    )
    # As a user does: long enough for the compiler's optimizations to pay.
    env = {key: value for key, value in os.environ.items()
           if key not in ('JAX_DISABLE_MOST_OPTIMIZATIONS', 'XLA_FLAGS')}
    client.execute(env=env | dict(JAX_PLATFORMS='cpu'))
    limit = 120 if name in WITH_OUTPUTS else 300
    self.assertLess(float(cell.outputs[0].text), limit)
    pictures = [
        output for cell in code_cells(notebook) for output in cell.outputs
        if 'image/png' in output.get('data', {})]
    self.assertGreater(len(pictures), 1)

  @parameterized.parameters(*STRIPPED)
  def test_is_stripped(self, name):
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
      self.assertEmpty(cell.outputs)
      self.assertIsNone(cell.execution_count)

  @parameterized.parameters(*NOTEBOOKS)
  def test_opens_in_colab(self, name):
    repository = re.search(
        r'^  repository: https://github.com/(\S+)$',
        (ROOT / 'mkdocs.yml').read_text(), re.M)[1]
    self.assertIn(
        'https://colab.research.google.com/github/'
        f'{repository}/blob/main/colabs/{name})', read(name).cells[0].source)

  @parameterized.parameters(*NOTEBOOKS)
  def test_uses_public_names_only(self, name):
    source = '\n'.join(
        # Lines of IPython are no Python.
        re.sub(r'^( *)%.*', r'\1pass', cell.source, flags=re.M)
        for cell in code_cells(read(name)))
    tree = ast.parse(source)
    named = {node.attr for node in ast.walk(tree)
             if isinstance(node, ast.Attribute)}
    named |= {alias.name.rpartition('.')[2] for node in ast.walk(tree)
              if isinstance(node, ast.Import | ast.ImportFrom)
              for alias in node.names}
    self.assertIn('gradlens', named)
    self.assertEmpty([word for word in named if word.startswith('_')])

  @parameterized.parameters(*((name,) for name in WITH_OUTPUTS))
  def test_keeps_small_outputs_of_a_run_in_order(self, name):
    notebook = read(name)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    self.assertEqual(
        [cell.execution_count for cell in cells],
        list(range(1, len(cells) + 1)),
    )
    outputs = [output for cell in cells for output in cell.outputs]
    self.assertTrue(any('image/png' in o.get('data', {}) for o in outputs))
    self.assertFalse(any(
        o.output_type == 'error' or o.get('name') == 'stderr' for o in outputs
    ))
    self.assertLess((ROOT / 'colabs' / name).stat().st_size, 2**20)


if __name__ == '__main__':
  absltest.main()
