"""The report's numbers are numpy's, one and the same in all three forms."""

import csv
import io
import json
import math

from absl.testing import absltest, parameterized
from known_run import Page, ReportCase, write_run
import numpy as np
import scipy.stats

from gradlens import report
from gradlens.report import (
    curves,
    figures,
    history,
    sentence,
    summary,
    tables,
)


class HistoryTest(ReportCase):

  def test_only_a_last_line_may_be_cut_short(self):
    write_run(self.workdir)
    path = self.workdir / 'metrics.jsonl'
    whole = path.read_text()
    expected = report.table(self.workdir)
    path.write_text(whole + '{"step": 41, "scalars": {"reward/a": 0.')
    self.assertEqual(report.table(self.workdir), expected)
    for broken in ('{"step": 41, "sca\n', '[1, 2]\n', '{"scalars": {}}\n',
                   '{"step": 41}\n', '{"step": 1, "scalars": {"a": "x"}}\n'):
      path.write_text(whole + broken + whole)
      line = whole.count('\n') + 1
      with self.assertRaisesRegex(ValueError, f'metrics.jsonl, line {line}'):
        history.load(self.workdir)

  def test_last_value_of_a_step_wins(self):
    write_run(self.workdir)
    with (self.workdir / 'metrics.jsonl').open('a') as file:
      file.write('{"step": 3, "scalars": {"reward/b": -5}}\n')
      file.write('{"step": 4, "scalars": {"reward/b": NaN}}')
    rewards_T = history.load(self.workdir).values('reward/b')
    self.assertEqual(rewards_T[2], -5)
    self.assertTrue(np.isnan(rewards_T[3]))

  def test_names_what_is_missing_or_broken(self):
    with self.assertRaisesRegex(ValueError, 'holds no run'):
      report.table(self.workdir)
    write_run(self.workdir, loss={
        'aggregate': 'sequence_mean', 'mask_truncated': False,
    })
    with self.assertRaisesRegex(ValueError, "no key 'loss.normalize'"):
      report.write(self.workdir)
    file = self.workdir / 'evals/00000040.npz'
    np.savez(file, a=np.zeros((3, 1)))
    with self.assertRaisesRegex(
        ValueError, 'a has 200 prompts at step 0 and 3'):
      report.table(self.workdir)
    file.write_bytes(file.read_bytes()[:50])
    with self.assertRaisesRegex(ValueError, '00000040.npz'):
      report.table(self.workdir)


class SummaryTest(ReportCase):

  @parameterized.parameters(1, 4)
  def test_means_equal_numpy(self, every):
    rows, numbers = self.rows(every=every)
    for k, row in enumerate(rows):
      for value, prefix in (
          (row.contribution.value, 'norm_sq/unbiased'),
          (row.naive, 'norm_sq/naive'),
          (row.intrinsic, 'intrinsic_norm_sq/unbiased'),
          (row.share_before, 'share/before'), (row.share_after, 'share/after')):
        self.assertAlmostEqual(value, numbers[prefix][::every, k].mean())
      self.assertEqual(row.steps, 40 // every)
      before_N, after_N = (rewards[:, k] for rewards in numbers['evals'])
      self.assertAlmostEqual(row.reward_before, before_N.mean(), places=6)
      self.assertAlmostEqual(row.reward_after, after_N.mean(), places=6)
      self.assertAlmostEqual(row.gain.value, (after_N - before_N).mean(),
                             places=6)

  def test_interval_is_that_of_ten_block_means(self):
    rows, numbers = self.rows()
    blocks_10 = numbers['norm_sq/unbiased'][:, 1].reshape(10, 4).mean(1)
    # Ten observations: Student's t of 9 degrees of freedom is 2.262.
    half = 2.262157 * blocks_10.std(ddof=1) / math.sqrt(10)
    estimate = rows[1].contribution
    self.assertAlmostEqual(estimate.high - estimate.value, half, places=5)
    self.assertAlmostEqual(estimate.value - estimate.low, half, places=5)

  def test_ratio_is_of_means_with_an_interval_for_all_pairs(self):
    rows, numbers = self.rows()
    blocks_10xK = numbers['norm_sq/unbiased'].reshape(10, 4, 3).mean(1)
    logs = []
    for i in range(10):
      means_K = np.delete(blocks_10xK, i, 0).mean(0)
      logs.append(math.log(means_K[2] / means_K[0]))
    error = math.sqrt(9 * np.var(logs))
    # Three tasks make three pairs, so each is held to 5% / 3, two-sided.
    half = scipy.stats.t.ppf(1 - 0.05 / 6, 9) * error
    ratio = blocks_10xK[:, 2].mean() / blocks_10xK[:, 0].mean()
    of_ratios = (numbers['norm_sq/unbiased'][:, 2]
                 / numbers['norm_sq/unbiased'][:, 0]).mean()
    self.assertGreater(abs(of_ratios - ratio), 0.1)
    np.testing.assert_allclose(
        rows[2].ratio,
        [ratio, ratio * math.exp(-half), ratio * math.exp(half)], rtol=1e-5)
    self.assertEqual(rows[0].ratio, (1, 1, 1))

  def test_noise_is_of_means(self):
    rows, numbers = self.rows()
    # The naive norms are 30 more; batches hold 8 prompts of each task.
    mean = numbers['norm_sq/unbiased'][:, 1].mean()
    np.testing.assert_allclose(rows[1].snr, mean / 30, rtol=1e-6)
    means_9 = [
        np.delete(numbers['norm_sq/unbiased'][:, 1], slice(4 * i, 4 * i + 4))
        .mean() for i in range(10)]
    half = 2.262157 * math.sqrt(9 * np.var(np.log(means_9)))
    critical = 8 * 30 / mean
    np.testing.assert_allclose(
        rows[1].critical_batch,
        [critical, critical * math.exp(-half), critical * math.exp(half)],
        rtol=1e-5)
    self.assertGreater(half, 0.01)
    page = report.write(self.workdir).read_text()
    shown = tables.bracket(tables.number, *rows[1].critical_batch)
    self.assertIn(f'<td>{mean / 30:.3f}</td><td>{shown}</td>', page)

  def test_critical_batch_size_is_of_the_first_mini_batch(self):
    whole = self.rows()[0][1].critical_batch
    self.workdir = self.workdir / 'parts'
    part = self.rows(num_mini_batches=4)[0][1].critical_batch
    np.testing.assert_allclose(part, np.array(whole) / 4, rtol=1e-12)

  def test_without_signal_there_is_no_critical_batch_size(self):
    numbers = write_run(self.workdir)
    unbiased_T = numbers['norm_sq/unbiased'][:, 0]
    lines = []
    for line, value in zip(
        (self.workdir / 'metrics.jsonl').read_text().splitlines(),
        [*(unbiased_T - unbiased_T.mean() + 1e-3), 0.0, 0.0], strict=True):
      record = json.loads(line)
      if 'scalars' in record:
        record['scalars']['norm_sq/unbiased/a'] = value
      lines.append(json.dumps(record))
    (self.workdir / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
    rows = summary.summarize(history.load(self.workdir))
    self.assertTrue(math.isnan(rows[0].critical_batch.value))
    self.assertAlmostEqual(rows[0].snr, 1e-3 / (
        30 + unbiased_T.mean() - 1e-3), places=6)
    self.assertTrue(rows[1].critical_batch.bounded)

  def test_gain_is_paired_by_prompt(self):
    rows, numbers = self.rows()
    before_N, after_N = (rewards[:, 0] for rewards in numbers['evals'])
    error = (after_N - before_N).std(ddof=1) / math.sqrt(200)
    unpaired = math.sqrt((before_N.var() + after_N.var()) / 200)
    self.assertGreater(unpaired, 2 * error)
    half = scipy.stats.t.ppf(0.975, 199) * error
    self.assertAlmostEqual(rows[0].gain.high - rows[0].gain.value, half,
                           places=5)

  @parameterized.parameters(
      ('sequence_mean', 2, False, 'unbiased'),
      ('fixed_length', 4, False, 'unbiased'),
      ('token_mean', 2, False, 'cross-split'),
      ('fixed_length', 2, True, 'cross-split'),
      ('sequence_mean', 1, False, 'cross-split'))
  def test_label_of_the_estimator(self, aggregate, num_splits, masks, label):
    rows, _ = self.rows(loss={'aggregate': aggregate, 'normalize': 'task',
                              'mask_truncated': masks},
                        num_splits=num_splits)
    self.assertEqual(rows[0].estimator, label)
    self.assertIn(f'{label} [95%]', tables.to_text(rows))

  def test_a_divisor_that_may_be_zero_gives_no_ratio(self):
    write_run(self.workdir)
    with (self.workdir / 'metrics.jsonl').open('a') as file:
      for step in range(1, 41):
        value = 100.0 if step == 1 else -1.0  # mean 1.5, all of it in step 1
        file.write(json.dumps({'step': step, 'scalars': {
            'norm_sq/unbiased/a': value}}) + '\n')
    rows = summary.summarize(history.load(self.workdir))
    self.assertTrue(math.isnan(rows[2].ratio.value))
    self.assertIn('too uncertain for a ratio', sentence.closing_sentence(rows))

  def test_terminal_csv_and_page_show_the_same_numbers(self):
    rows, _ = self.rows()
    _, cells = tables.to_cells(rows)
    page = Page(report.write(self.workdir).read_text())
    self.assertEqual(page.summary[-3:], cells)
    lines = report.table(self.workdir).splitlines()
    for line, row in zip(lines[3:6], cells, strict=True):
      self.assertEqual(line.split(), ' '.join(row).split())
    self.assertLessEqual(max(map(len, lines)), 120)
    text = (self.workdir / 'report.csv').read_text()
    read = csv.DictReader(io.StringIO(text))
    for record, row in zip(read, rows, strict=True):
      values = {name: value for name, value in record.items() if value}
      self.assertEqual(float(values['naive']), row.naive)
      for name in ('contribution', 'gain', 'ratio'):
        self.assertEqual(getattr(row, name), tuple(
            float(values[name + end]) for end in ('', '_low', '_high')))

  @parameterized.named_parameters(
      ('clear', (9, 8, 10), (0.1, 0.08, 0.12), (3, 2, 4),
       ('loud is loudest: its', '3.00 times that of quiet',
        '(95% interval 2.00 to 4.00)', 'less than the other task\'s +0.300')),
      ('not_clear', (9, 8, 10), (0.3, 0.2, 0.4), (1.3, 0.8, 2.1),
       ('not clearly loudest', 'includes 1', 'not clearly different')),
      ('no_change', (9, 8, 10), (0.01, -0.02, 0.04), (3, 2, 4),
       ('+0.010 (95% interval -0.020 to +0.040), which includes no change',)),
      ('not_evaluated', (9, 8, 10), (math.nan,) * 3, (3, 2, 4),
       ('What it gained is not known',)),
      ('nothing', (math.nan,) * 3, (0.1, 0.0, 0.2), (math.nan,) * 3,
       ('No unbiased gradient norm has been measured',)))
  def test_closing_sentence(self, norm, gain, ratio, phrases):
    rows, _ = self.rows(names=('quiet', 'loud'))
    loud = rows[1]._replace(contribution=summary.Estimate(*norm),
                            gain=summary.Estimate(*gain),
                            ratio=summary.Estimate(*ratio))
    quiet = rows[0]._replace(
        contribution=summary.Estimate(norm[0] / 9, 0.9, 1.1),
        gain=summary.Estimate(0.3, 0.25, 0.35))
    text = sentence.closing_sentence([quiet, loud])
    for phrase in phrases:
      self.assertIn(phrase, text)
    short = sentence.closing_sentence(
        [row._replace(steps=3) for row in (quiet, loud)])
    self.assertEqual('too few to rank' in short, not math.isnan(norm[0]))


class NumberTest(parameterized.TestCase):

  @parameterized.parameters(
      (0.0, '0.00'), (0.5, '0.500'), (-12.345, '-12.3'), (123.4, '123'),
      (1234.5, '1234'), (0.99949, '0.999'), (0.99951, '1.00'), (99.96, '100'),
      (9999.6, '1.00e4'), (0.00123, '0.00123'), (9.999e-4, '0.00100'),
      (9.99e-4, '9.99e-4'), (math.nan, '--'),
  )
  def test_has_three_digits(self, value, expected):
    self.assertEqual(tables.number(value), expected)


class FiguresTest(ReportCase):

  def test_learning_gain(self):
    rewards_T = np.array([0.0, 1, 2, 4, 8, 16])
    # At the third: (4 + 8) / 2 - (0 + 1) / 2; at the fourth: 12 - 1.5.
    np.testing.assert_array_equal(
        curves.learning_gain(rewards_T, 2),
        [math.nan, math.nan, 5.5, 10.5, math.nan, math.nan])

  @parameterized.parameters(
      {'num_steps': 0, 'evals': ()}, {'num_steps': 1, 'evals': (0,)},
      {'num_steps': 3, 'evals': ()}, {'every': 7}, {'names': ('alone',)},
      {'names': [f'task_{k}' for k in range(16)]})
  def test_writes_a_run_of_any_size(self, **kwargs):
    write_run(self.workdir, **kwargs)
    page = Page(report.write(self.workdir).read_text())
    self.assertLen(page.summary, 2 + len(kwargs.get('names', 'abc')))
    measured = kwargs.get('num_steps', 40) > 0
    for key in ('norms', 'reward', 'shares', 'weights'):
      for tab in page.data['curves'][key]:
        self.assertEqual(len(tab['lines']), measured * (
            len(page.summary) - 2), key)
    self.assertLen(page.data['curves'], sum(
        figure.kind == 'lines' for figure in figures.FIGURES))

  def test_writes_a_run_that_measured_nothing(self):
    write_run(self.workdir)
    (self.workdir / 'metrics.jsonl').write_text(
        '{"step": 1, "scalars": {"grad_norm": NaN, "reward/a": NaN}}\n')
    data = Page(report.write(self.workdir).read_text()).data
    self.assertEmpty(data['curves']['norms'][0]['lines'])
    self.assertEmpty(data['runs'][0]['frames'])
    self.assertEmpty(data['runs'][0]['layers'])


if __name__ == '__main__':
  absltest.main()
