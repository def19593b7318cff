"""Runs are grouped by their configs, and averaged over seeds as by hand."""

import csv
import math

from absl.testing import absltest, parameterized
from known_run import Page, ReportCase, write_run
import numpy as np
import scipy.stats

from gradlens import report
from gradlens.report import compare, curves, groups, history, summary

CORRECTIONS = {'x': {'name': 'total'}, 'y': {'name': 'pcgrad'},
               'z': {'name': 'mgda'}}


def student(values):
  """The half width of a 95% interval of the mean."""
  return scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(
      values, ddof=1) / math.sqrt(len(values))


class CompareCase(ReportCase):

  def write(self, name, seed, **kwargs):
    path = self.workdir / name
    kwargs.setdefault('correction', CORRECTIONS['x'])
    return path, write_run(path, seed=seed, **kwargs)

  def seeds(self, number=3, **kwargs):
    pairs = [self.write(f'seed{i}', 10 + i, **kwargs) for i in range(number)]
    return [path for path, _ in pairs], [numbers for _, numbers in pairs]


class GroupsTest(CompareCase):

  def grouped(self, *paths):
    runs = history.load_all(paths)
    return groups.grouped(runs), runs

  def test_a_group_differs_by_its_seed_only(self):
    paths = [self.write(f'{name}{seed}', seed,
                        correction=CORRECTIONS[name])[0]
             for seed in (1, 2) for name in 'xy']
    of, _ = self.grouped(*paths)
    self.assertEqual([group.members for group in of], [(0, 2), (1, 3)])
    self.assertEqual([group.label for group in of],
                     ['correction=total', 'correction=pcgrad'])
    self.assertEqual(of[1].differs, {'correction.name': 'pcgrad'})

  def test_the_same_seed_twice_is_no_repetition(self):
    paths = [self.write(name, 1)[0] for name in ('one', 'two')]
    of, _ = self.grouped(*paths)
    self.assertEqual([group.members for group in of], [(0,), (1,)])
    self.assertEqual([group.label for group in of], ['one', 'two'])

  def test_a_key_that_others_do_not_have_is_a_difference(self):
    one, _ = self.write('one', 1)
    two, _ = self.write('two', 1, extra={'deep': 3})
    of, _ = self.grouped(one, two)
    self.assertEqual([group.differs['extra.deep'] for group in of],
                     ['absent', '3'])
    self.assertEqual([group.label for group in of], ['one', 'extra.deep=3'])

  def test_long_labels_are_cut_and_stay_apart(self):
    paths = [self.write(f'r{i}', 1, extra={'k' * 60: i})[0] for i in (1, 2)]
    labels = [group.label for group in self.grouped(*paths)[0]]
    for i, label in enumerate(labels, start=1):
      self.assertEndsWith(label, f'… (r{i})')

  def test_names_are_the_shortest_ends_of_paths(self):
    paths = [self.write(name, 1)[0] for name in ('a/run', 'b/run', 'b/other')]
    self.assertEqual(groups.names(history.load_all(paths)),
                     ['a/run', 'b/run', 'other'])

  def test_a_run_is_not_compared_with_itself(self):
    path, _ = self.write('one', 1)
    with self.assertRaisesRegex(ValueError, 'one is named twice'):
      report.table([path, self.workdir / 'x/../one'])
    with self.assertRaisesRegex(ValueError, 'at least one run'):
      report.table([])


class OverSeedsTest(CompareCase):

  def test_numbers_are_means_of_runs_with_intervals_over_runs(self):
    paths, numbers = self.seeds()
    runs = history.load_all(paths)
    [*_, line] = compare.lines(runs, groups.grouped(runs))
    self.assertEqual((line.task, line.runs), ('c', 3))
    for name, prefix in (('contribution', 'norm_sq/unbiased'),
                         ('share_optimizer', 'share/optimizer')):
      means = [own[prefix][:, 2].mean() for own in numbers]
      value, low, high = line.cells[name]
      self.assertAlmostEqual(value, np.mean(means), places=6)
      self.assertAlmostEqual(high - value, student(means), places=5)
      self.assertAlmostEqual(value - low, student(means), places=5)

  def test_a_run_alone_keeps_its_own_interval(self):
    paths, _ = self.seeds(1)
    other, _ = self.write('other', 1, correction=CORRECTIONS['y'])
    runs = history.load_all([*paths, other])
    lines = compare.lines(runs, groups.grouped(runs))
    self.assertEqual((lines[1].task, lines[1].group), ('a', 1))
    self.assertEqual(lines[1].cells['gain'],
                     summary.summarize(runs[1])[0].gain)
    self.assertFalse(lines[1].cells['share_after'].bounded)
    # There is no run of its seed to compare it with.
    self.assertTrue(math.isnan(lines[1].cells['beyond'].value))

  def test_gains_of_groups_are_compared_seed_by_seed(self):
    gains, paths = {'x': {}, 'y': {}, 'z': {}}, []
    for name, seeds in (('x', (1, 2, 3, 4)), ('y', (4, 2, 3, 5)),
                        ('z', (3, 4))):
      for seed in seeds:
        # Evaluated last at steps of their own, which sets rewards apart.
        path, numbers = self.write(
            f'{name}{seed}', seed, correction=CORRECTIONS[name],
            evals=(0, 40 if name == 'x' else 40 + seed))
        before, after = (own[:, 1].mean(dtype=float)
                         for own in numbers['evals'])
        gains[name][seed] = after - before
        paths.append(path)
    runs = history.load_all(paths)
    lines = compare.lines(runs, groups.grouped(runs))
    [first, second, third] = [line for line in lines if line.task == 'b']
    self.assertTrue(math.isnan(first.cells['beyond'].value))
    differences = [gains['y'][seed] - gains['x'][seed] for seed in (2, 3, 4)]
    value, low, high = second.cells['beyond']
    self.assertAlmostEqual(value, np.mean(differences), places=6)
    self.assertAlmostEqual(high - value, student(differences), places=6)
    self.assertAlmostEqual(value - low, student(differences), places=6)
    unpaired = np.mean(list(gains['y'].values())) - np.mean(
        list(gains['x'].values()))
    self.assertGreater(abs(unpaired - value), 1e-4)
    differences = [gains['z'][seed] - gains['x'][seed] for seed in (3, 4)]
    self.assertAlmostEqual(third.cells['beyond'].value, np.mean(differences),
                           places=6)

  def test_curves_average_smoothed_runs(self):
    paths, numbers = self.seeds()
    curve = curves.metric(history.load_all(paths), 'reward/b', 12)
    # A twelfth of 40 steps is 3: one before and one after.
    smooth = [[own['reward'][max(0, t - 1):t + 2, 1].mean()
               for t in range(40)] for own in numbers]
    np.testing.assert_allclose(curve.values, np.mean(smooth, 0), rtol=1e-6)
    half = [student(column) for column in np.array(smooth).T]
    np.testing.assert_allclose(curve.high - curve.values, half, rtol=1e-4)
    np.testing.assert_allclose(curve.values - curve.low, half, rtol=1e-4)
    self.assertEmpty(curve.raw)

  def test_curves_end_where_the_shortest_run_does(self):
    one, _ = self.write('one', 1)
    two, numbers = self.write('two', 2, num_steps=25)
    three, _ = self.write('three', 3)
    runs = history.load_all([one, two, three])
    curve = curves.metric(runs, 'reward/a', 12)
    self.assertEqual(curve.steps.tolist(), list(range(1, 26)))
    alone = curves.metric(runs[1:2], 'reward/a', 12)
    np.testing.assert_allclose(alone.raw, numbers['reward'][:, 0])
    self.assertTrue(np.isnan(alone.low).all())

  def test_heldout_of_one_run_is_over_prompts_and_of_several_over_runs(self):
    paths, numbers = self.seeds()
    runs = history.load_all(paths)
    alone = curves.heldout(runs[:1], 'a')
    rewards_N = numbers[0]['evals'][1][:, 0].astype(np.float64)
    self.assertAlmostEqual(alone.high[1] - alone.values[1],
                           student(rewards_N), places=5)
    several = curves.heldout(runs, 'a')
    means = [own['evals'][1][:, 0].mean(dtype=np.float64) for own in numbers]
    self.assertEqual(several.steps.tolist(), [0, 40])
    self.assertAlmostEqual(several.values[1], np.mean(means), places=6)
    self.assertAlmostEqual(several.high[1] - several.values[1],
                           student(means), places=5)
    self.assertGreater(abs(student(means) - student(rewards_N)), 1e-3)

  @parameterized.parameters(1, 2, 7, 40)
  def test_rolling_mean(self, part):
    values_T = np.random.default_rng(0).normal(size=40)
    values_T[[3, 4, 5, 20]] = math.nan
    window = max(1, 40 // part)
    before = window - window // 2 - 1
    want = []
    for t in range(40):
      near = values_T[max(0, t - before):t + window // 2 + 1]
      near = near[np.isfinite(near)]
      want.append(near.mean() if near.size else math.nan)
    np.testing.assert_allclose(curves.rolling(values_T, part), want,
                               rtol=1e-9, atol=1e-12)


class OutputTest(CompareCase):

  def test_files_lie_where_all_runs_do_and_hold_them_all(self):
    paths, numbers = self.seeds(2)
    path = report.write(paths)
    self.assertEqual(str(path), str(self.workdir.resolve() / 'report.html'))
    table = list(csv.DictReader(
        (self.workdir / 'report.csv').read_text().splitlines()))
    self.assertEqual([(row['run'], row['seed'], row['task']) for row in table],
                     [(f'seed{i}', f'{10 + i}', task)
                      for i in range(2) for task in 'abc'])
    steps = list(csv.DictReader(
        (self.workdir / 'report_steps.csv').read_text().splitlines()))
    self.assertLen(steps, 2 * 40)
    for row in steps[::7]:
      own = numbers[int(row['run'][-1])]['norm_sq/naive']
      self.assertEqual(float(row['norm_sq/naive/b']),
                       own[int(row['step']) - 1, 1])

  def test_folder_is_above_all_runs_however_deep(self):
    deep, _ = self.write('x/y/deep', 1)
    high, _ = self.write('high', 2)
    for paths in ([deep, high], [high, deep]):
      path = report.write(paths)
      self.assertEqual(str(path), str(self.workdir.resolve() / 'report.html'))

  def test_output_is_where_one_says(self):
    paths, _ = self.seeds(1)
    other = self.workdir / 'deep/other'
    report.write(paths, output=other)
    self.assertEqual(sorted(own.name for own in other.iterdir()),
                     ['report.csv', 'report.html', 'report_steps.csv'])
    self.assertNotIn('report.html', [p.name for p in paths[0].iterdir()])

  def test_terminal_and_page_show_the_same_numbers(self):
    paths, _ = self.seeds(2)
    other, _ = self.write('other', 1, correction=CORRECTIONS['y'])
    paths.append(other)
    text = report.table(paths)
    self.assertIn('A  correction=total, 2 runs\n', text)
    self.assertIn('B  correction=pcgrad, 1 run\n', text)
    lines = [line.split() for line in text.splitlines()
             if line[:2] in ('a ', 'b ', 'c ')]
    page = Page(report.write(paths).read_text())
    cells = [' '.join(row).split() for row in page.tables[1][1:]]
    self.assertLen(cells, 6)
    self.assertEqual(lines, cells)


if __name__ == '__main__':
  absltest.main()
