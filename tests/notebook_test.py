"""The notebooks run from top to bottom, and what they claim holds.

A notebook asserts its own numbers, so to run is to hold.
"""

import os

from absl.testing import absltest, parameterized
import nbclient
import nbformat
from pages import ROOT
import pytest

NOTEBOOKS = [
    (path.name,) for path in sorted((ROOT / 'colabs').glob('*.ipynb'))
]


def read(name):
  return nbformat.read(ROOT / 'colabs' / name, as_version=4)


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


class NotebookTest(parameterized.TestCase):

  def test_there_are_notebooks(self):
    self.assertNotEmpty(NOTEBOOKS)

  @parameterized.parameters(*NOTEBOOKS)
  @pytest.mark.slow
  def test_runs_within_two_minutes_of_its_own_time(self, name):
    notebook = read(name)
    asserts = sum('\nassert ' in cell.source for cell in code_cells(notebook))
    self.assertGreater(asserts, 3)
    # Time of the processor, since tests share the machine.
    cell = nbformat.v4.new_code_cell('import time; print(time.process_time())')
    notebook.cells.append(cell)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name='python3',
        resources={'metadata': {'path': str(ROOT)}},
    )
    client.execute(env=dict(os.environ, JAX_PLATFORMS='cpu'))
    self.assertLess(float(cell.outputs[0].text), 120)

  @parameterized.parameters(*NOTEBOOKS)
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
