"""The history of a run: a line for each write, and none of them lost."""

import json
import pathlib

from absl.testing import absltest, parameterized

from gradlens.workdir import journal


class HistoryTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.path = self.workdir / journal.HISTORY
    self.write(1, 2, 3)

  def write(self, *steps):
    writer = journal.HistoryWriter(self.workdir)
    for step in steps:
      writer.write_scalars(step, {'loss/a': step / 4})
    writer.write_texts(steps[-1], {'samples/a': 'one\ntwo'})
    writer.close()

  def lines(self):
    return [json.loads(line) for line in self.path.read_text().splitlines()]

  def test_a_line_for_each_write(self):
    scalars = [dict(step=i, scalars={'loss/a': i / 4}) for i in (1, 2, 3)]
    texts = dict(step=3, texts={'samples/a': 'one\ntwo'})
    self.assertEqual(self.lines(), [*scalars, texts])

  def test_flush_puts_lines_on_disk(self):
    writer = journal.HistoryWriter(self.workdir)
    writer.write_scalars(4, {'loss/a': 1.0})
    writer.flush()
    self.assertEqual(self.lines()[-1]['step'], 4)
    writer.close()

  def test_a_resumed_run_writes_its_steps_once(self):
    with self.path.open('a') as file:
      file.write('{"step": 4, "scal')  # killed here
    journal.truncate(self.workdir, 2)
    self.assertEqual([line['step'] for line in self.lines()], [1, 2])
    self.write(3, 4)
    self.assertEqual([line['step'] for line in self.lines()], [1, 2, 3, 4, 4])
    self.assertEqual([path.name for path in self.workdir.iterdir()],
                     [journal.HISTORY])

  def test_a_cut_off_last_line_is_dropped_whatever_its_step(self):
    whole = self.path.read_text()
    self.path.write_text(whole + '{"step": 1, "scalars": {}}')
    journal.truncate(self.workdir, 3)
    self.assertEqual(self.path.read_text(), whole)

  @parameterized.parameters('{"step": 2, "sca', '7', 'null', '{"scalars": {}}')
  def test_a_damaged_line_is_named(self, damaged):
    lines = self.path.read_text().split('\n')
    lines[1] = damaged
    self.path.write_text('\n'.join(lines))
    with self.assertRaisesRegex(ValueError, f'{self.path}, line 2 is damaged'):
      journal.truncate(self.workdir, 3)
    self.assertEqual(self.path.read_text(), '\n'.join(lines))

  def test_a_new_run_has_nothing_to_drop(self):
    self.path.unlink()
    journal.truncate(self.workdir, 0)
    self.assertEmpty(list(self.workdir.iterdir()))


if __name__ == '__main__':
  absltest.main()
