"""The best checkpoint by whatever steps record."""

import json
import pathlib
from unittest import mock

from absl.testing import absltest, parameterized
import pytest
import tiny_config

from gradlens import train
from gradlens.workdir import best, checkpoint


@pytest.mark.slow
class BestTest(parameterized.TestCase):

  def test_of_all_that_is_recorded_one_is_lowest_where_it_is_kept(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    check, known = best.check, []

    def spy(name, always, sometimes):
      known.append(always)
      check(name, always, sometimes)

    with mock.patch.object(best, 'check', spy):
      train.train(tiny_config.get_config(
          'checkpoint.best=-update_norm,checkpoint.every=1,checkpoint.keep=1,'
          'gain_window=1,evaluate.every=4'
      ), workdir)
    lines = [
        json.loads(line)
        for line in (workdir / 'metrics.jsonl').read_text('utf-8').splitlines()
    ]
    steps = {
        line['step']: line['scalars'] for line in lines
        if 'update_norm' in line.get('scalars', {})
    }
    tags = {tag for scalars in steps.values() for tag in scalars}
    times = {tag for tag in tags if tag.startswith('seconds/')}
    self.assertNotEmpty(times)
    self.assertEqual(known, [tags - times])
    values = {step: scalars['update_norm'] for step, scalars in steps.items()}
    self.assertLen(values, 4)
    lowest = min(values.values())
    # Of equal ones the newest.
    expected = max(step for step, v in values.items() if v == lowest)
    self.assertLess(lowest, max(values.values()))
    kept = [int(p.name) for p in (workdir / checkpoint.STATES).iterdir()]
    self.assertEqual(set(kept), {expected, 4})
    # Or this could not be told from the newest alone.
    self.assertLess(expected, 4)
    with checkpoint.open_states(workdir, 'best') as states:
      self.assertEqual(states.find('best'), expected)

  @parameterized.parameters(
      ('checkpoint.best=loss/lung', "records 'loss/lung'.*mean 'loss/long'"),
      ('checkpoint.best=-reward', "records 'reward', of what"),
      ('checkpoint.best=seconds/step', "records 'seconds/step'"),
      ('checkpoint.best=grad_norm,instrument_every=2', 'set instrument_every='),
      ('checkpoint.best=grad_norm,instrument_every=0', "records 'grad_norm'"),
      ('checkpoint.best=-heldout/lung', "one of .*'heldout/long'"),
  )
  def test_refused_before_anything_is_written(self, arg, message):
    workdir = pathlib.Path(self.create_tempdir().full_path) / 'run'
    with self.assertRaisesRegex(ValueError, message):
      train.train(tiny_config.get_config(arg), workdir)
    self.assertFalse(workdir.exists())


if __name__ == '__main__':
  absltest.main()
