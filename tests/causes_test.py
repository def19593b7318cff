"""The study of causes: its config, its arms, and what it makes of rewards."""

from absl.testing import absltest
import numpy as np
import pandas as pd
import scipy.stats

from experiments.causes import arms, config, findings
from experiments.zoo import config as zoo


class ConfigTest(absltest.TestCase):

  def test_dose(self):
    c = config.get_config('gcd+spell+sums,dose=spell@0.25,seed=3')
    self.assertEqual(c.correction.name, 'constant')
    self.assertEqual(c.correction.kwargs.weights, (1.0, 0.25, 1.0))
    self.assertTrue(c.correction.match_norm)
    self.assertEqual(c.seed, 3)
    self.assertEqual(
        config.get_config('gcd+spell').to_json(),
        zoo.get_config('gcd+spell').to_json(),
    )

  def test_dose_of_no_task(self):
    for wrong in ('dose=sums@4', 'dose=gcd'):
      with self.assertRaisesRegex(ValueError, f'{wrong}.*gcd.spell'):
        config.get_config(f'gcd+spell,{wrong}')


class ArmsTest(absltest.TestCase):

  def test_subsets(self):
    found = arms.subsets(10)
    self.assertLen(set(map(tuple, found)), 10)
    for tasks in found:
      self.assertLen(set(tasks), 4)
      self.assertLessEqual(set(tasks), set(zoo.TASKS))
    self.assertEqual(arms.subsets(3), found[:3])

  def test_all_have_a_config(self):
    everything = arms.everything()
    self.assertLen({arm.name for arm in everything}, len(everything))
    for arm in everything:
      path, arg = arm.config.split(':')
      self.assertEqual(path, arms.CONFIG)
      tasks = list(config.get_config(arg).tasks)
      if arm.labels['part'] == 'without':
        self.assertEqual(
            {*tasks, arm.labels['kind']},
            set(arms.SETTINGS[arm.labels['setting']].split('+')),
        )
      if arm.labels['part'] == 'alone':
        self.assertEqual(tasks, [arm.labels['kind']])


class FindingsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    draw = np.random.default_rng(0)
    self.first, self.last = {}, {}
    heldout, steps = [], []
    for arm in arms.everything():
      labels = arm.labels
      tasks = arm.config.split(':')[1].split(',')[0].split('+')
      for k, task in enumerate(tasks):
        key = *labels.values(), task
        self.first[key], self.last[key] = draw.uniform(0.1, 0.6, 2)
        for step, reward in (
            (0, self.first[key]), (30, 0.9), (60, self.last[key])
        ):
          heldout.append(labels | dict(task=task, step=step, reward=reward))
        for step in range(10, 61, 10):
          steps.append(labels | dict(
              task=task, step=step, norm_sq=(1 + k) * draw.uniform(0.9, 1.1),
              share_corrected=0.1 * (1 + k), share_optimizer=0.05 * (1 + k),
              prompts=16.0 * (1 + k),
          ))
    # As they are read from files: a column of subsets has numbers in it.
    self.found = dict(heldout=pd.DataFrame(heldout), steps=pd.DataFrame(steps))

  def line(self, table, *begin):
    own = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in table.splitlines()
    ]
    match, = (cells for cells in own if cells[:len(begin)] == list(begin))
    return match

  def lasts(self, part, setting, kind, tasks):
    """Of every seed, the mean over tasks."""
    return np.array([
        np.mean([self.last[part, setting, kind, seed, task] for task in tasks])
        for seed in (1, 2, 3)
    ])

  def gains(self, part, setting, kind, tasks):
    return self.lasts(part, setting, kind, tasks) - np.array([
        np.mean([self.first[part, setting, kind, seed, task] for task in tasks])
        for seed in (1, 2, 3)
    ])

  def difference(self, part, setting, kind, tasks, of=None):
    """Student's interval of a paired difference."""
    of = of or self.gains
    d = of(part, setting, kind, tasks) - of('base', setting, 'uniform', tasks)
    margin = scipy.stats.t.ppf(0.975, 2) * np.std(d, ddof=1) / np.sqrt(3)
    return findings.Estimate(
        np.mean(d), np.mean(d) - margin, np.mean(d) + margin
    )

  def assert_is(self, cell, estimate):
    self.assertEqual(cell, findings.tables._cell(estimate))

  def test_doses(self):
    args = 'dose', 'mixed', 'gcd@0.25'
    cells = self.line(
        findings.dose_table(self.found), 'mixed', 'gcd', '0.25'
    )
    self.assertEqual(cells[3:5], ['10%', '5%'])
    others = ['palindrome', 'spell', 'sums']
    self.assertEqual(cells[5], f'{self.gains(*args, ["gcd"]).mean():.3f}')
    self.assert_is(cells[6], self.difference(*args, ['gcd']))
    self.assertEqual(cells[7], f'{self.gains(*args, others).mean():.3f}')
    self.assert_is(cells[8], self.difference(*args, others))

  def test_references(self):
    cells = self.line(
        findings.references_table(self.found), 'arithmetic', 'terms'
    )
    args = 'arithmetic', 'terms'
    last = self.lasts('alone', *args, ['terms']).mean()
    self.assertEqual(cells[4], f'{last:.3f}')
    self.assert_is(
        cells[5], self.difference('alone', *args, ['terms'], self.lasts)
    )
    self.assert_is(cells[7], self.difference(
        'without', *args, ['decimals', 'sums', 'sums3'], self.lasts
    ))

  def test_sampling(self):
    table = findings.sampling_table(self.found)
    cells = self.line(table, 'mixed', 'all')
    self.assertEqual(cells[2], '160')
    self.assert_is(cells[5], self.difference(
        'sampling', 'mixed', 'gradient', arms.SETTINGS['mixed'].split('+')
    ))
    self.assertEqual(self.line(table, 'mixed', 'palindrome')[2], '32.0')

  def test_subsets(self):
    table = findings.of_subsets(self.found)
    self.assertLen(table, 10)
    for i, tasks in enumerate(arms.subsets(10)):
      self.assertEqual(table.tasks[i], ', '.join(reversed(tasks)))
      self.assertBetween(table.ratio[i], 3, 5)
      keys = [('subset', 'random', str(i), 1, task) for task in tasks]
      gain = [self.last[key] - self.first[key] for key in keys]
      np.testing.assert_allclose(
          table.correlation[i], scipy.stats.spearmanr(range(4), gain).statistic,
          rtol=1e-5,
      )

  def test_no_ratio_is_as_large_as_any(self):
    steps = self.found['steps']
    nothing = (steps.part == 'subset') & (steps.task == steps.task[
        steps.part == 'subset'
    ].iloc[0])
    steps.loc[nothing, 'norm_sq'] = -1.0
    ratio = findings.of_subsets(self.found).ratio
    self.assertGreater(ratio.isna().sum(), 0)
    text = self.line(findings.subsets_table(self.found), '10 subsets')[1]
    self.assertEqual(
        text, f'median {findings.number(np.median(ratio.fillna(np.inf)))}'
    )


if __name__ == '__main__':
  absltest.main()
