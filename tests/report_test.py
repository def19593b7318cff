"""The report's numbers are numpy's, one and the same in all three forms, and
its page is safe and whole: in a browser, no error and no request."""

import base64
import csv
import html.parser
import io
import json
import math
import os
import pathlib
import re
import select
import shutil
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized
import numpy as np
import pytest
import scipy.stats

from gradlens import report
from gradlens.report import (
    curves,
    history,
    maps,
    sentence,
    summary,
    tables,
)

HOSTILE = ('</script><img src=x onerror=alert(1)>\u2028<!--<script>'
           '&lt;\u202e\x00\ud800')
CONFIG = {
    'seed': 7, 'num_steps': 40, 'num_splits': 2, 'prompts_per_task': 8,
    'num_completions': 4, 'rollout': {'temperature': 1.0},
    'loss': {'aggregate': 'sequence_mean', 'normalize': 'batch'},
    'correction': {'name': 'equalize_norms'}}


def write_run(workdir, names=('a', 'b', 'c'), num_steps=40, every=1,
              evals=(0, 40), text='olleh', **config):
  """Writes a run of known numbers; returns them as {prefix: [T, K]}."""
  rng = np.random.default_rng(0)
  shape = num_steps, len(names)
  unbiased = (1 + 4 * np.arange(len(names))) * rng.normal(1, 0.2, shape)
  numbers = {
      'norm_sq/unbiased': unbiased, 'norm_sq/naive': unbiased + 30,
      'intrinsic_norm_sq/unbiased': 9 * unbiased,
      'intrinsic_norm_sq/naive': 9 * unbiased + 270,
      'share/before': rng.dirichlet(np.ones(len(names)), num_steps),
      'share/after': rng.dirichlet(np.ones(len(names)), num_steps),
      'weight': rng.uniform(0.5, 2, shape), 'reward': rng.uniform(0, 1, shape),
      'layer_norm_sq/layers.00': 0.25 * unbiased,
      'layer_norm_sq/embed': 0.75 * unbiased,
      'length': rng.uniform(3, 9, shape), 'skipped': np.zeros(shape)}
  lines = []
  for t in range(0, num_steps, every):
    scalars = {f'{prefix}/{name}': values[t, k]
               for prefix, values in numbers.items()
               for k, name in enumerate(names)}
    # inner products of cosine 1/2
    scalars |= {f'inner/{names[i]}/{names[j]}':
                math.sqrt((1 + 4 * i) * (1 + 4 * j)) / 2
                for j in range(len(names)) for i in range(j)}
    lines.append({'step': t + 1, 'scalars': scalars})
  (workdir / 'evals').mkdir(parents=True)
  numbers['evals'] = []
  level = rng.uniform(size=(200, len(names)))
  for step in evals:
    rewards = level + rng.normal(0.002 * step, 0.1, level.shape)
    numbers['evals'].append(rewards.astype(np.float32))
    np.savez(workdir / f'evals/{step:08d}.npz', **dict(zip(
        names, numbers['evals'][-1].T, strict=True)))
    sample = {'prompt': 'hello', 'completion': text, 'answer': text,
              'reward': 1.0}
    lines.append({'step': step, 'texts': {
        f'samples/{name}': json.dumps([sample]) for name in names}})
  (workdir / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines))
  (workdir / 'config.json').write_text(json.dumps(
      CONFIG | config | {'tasks': {name: {'source': text} for name in names}}))
  (workdir / 'versions.json').write_text(json.dumps({'jax': text}))
  return numbers


class ReportCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    directory = tempfile.TemporaryDirectory()
    self.addCleanup(directory.cleanup)
    self.workdir = pathlib.Path(directory.name) / 'run'

  def rows(self, **kwargs):
    numbers = write_run(self.workdir, **kwargs)
    return summary.summarize(history.load(self.workdir)), numbers


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
    write_run(self.workdir, loss={'aggregate': 'sequence_mean'})
    with self.assertRaisesRegex(ValueError, "no key 'loss.normalize'"):
      report.write(self.workdir)
    file = self.workdir / 'evals/00000040.npz'
    np.savez(file, a=np.zeros(3))
    with self.assertRaisesRegex(ValueError, 'a has 200 prompts at step 0 and 3'):
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
      ('sequence_mean', 2, 'unbiased'), ('fixed_length', 4, 'unbiased'),
      ('token_mean', 2, 'cross-split'), ('sequence_mean', 1, 'cross-split'))
  def test_label_of_the_estimator(self, aggregate, num_splits, label):
    rows, _ = self.rows(loss={'aggregate': aggregate, 'normalize': 'task'},
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
    read = csv.DictReader(io.StringIO((self.workdir / 'report.csv').read_text()))
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


class FiguresTest(ReportCase):

  def test_learning_gain(self):
    rewards_T = np.array([0.0, 1, 2, 4, 8, 16])
    # At the third: (4 + 8) / 2 - (0 + 1) / 2; at the fourth: 12 - 1.5.
    np.testing.assert_array_equal(
        curves.learning_gain(rewards_T, 2),
        [math.nan, math.nan, 5.5, 10.5, math.nan, math.nan])

  def test_cosines_and_blocks(self):
    write_run(self.workdir)
    run = history.load(self.workdir)
    # The norms average 1, 5 and 9 to within noise of 0.2 / sqrt(40).
    np.testing.assert_allclose(
        maps.cosine_matrix(run), 0.5 * np.eye(3) + 0.5, rtol=0.1)
    heat = maps.layers(run, 'unbiased').figures[''].data[0]
    self.assertEqual(heat.x, ('embed', 'layers.00'))
    np.testing.assert_allclose(heat.z, [[0.75, 0.25]] * 3)

  def test_log_axis_leaves_gaps_and_says_so(self):
    write_run(self.workdir)
    run = history.load(self.workdir)
    self.assertNotIn('gaps', curves.norms(run, 'unbiased').caption)
    series = run.scalars['norm_sq/unbiased/a']
    series |= {step: -1.0 for step in range(1, 20)}
    panel = curves.norms(run, 'unbiased')
    self.assertIn('gaps', panel.caption)
    drawn = np.array(panel.figures['contribution'].data[0].y)
    self.assertTrue(np.isnan(drawn[:10]).all())
    self.assertTrue((drawn[-10:] > 0).all())

  @parameterized.parameters(
      {'num_steps': 0, 'evals': ()}, {'num_steps': 1, 'evals': (0,)},
      {'num_steps': 3, 'evals': ()}, {'every': 7}, {'names': ('alone',)},
      {'names': [f'task_{k}' for k in range(16)]})
  def test_writes_a_run_of_any_size(self, **kwargs):
    write_run(self.workdir, **kwargs)
    page = Page(report.write(self.workdir).read_text())
    self.assertLen(page.summary, 2 + len(kwargs.get('names', 'abc')))
    for figure in page.figures:
      self.assertNotEmpty(figure['data'])

  def test_writes_a_run_that_measured_nothing(self):
    write_run(self.workdir)
    (self.workdir / 'metrics.jsonl').write_text(
        '{"step": 1, "scalars": {"grad_norm": NaN, "reward/a": NaN}}\n')
    page = report.write(self.workdir).read_text()
    self.assertIn('Not measured in this run.', page)


class Page(html.parser.HTMLParser):
  """What a browser makes of a page: elements, their texts, figures."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts, self.summary, self._scripts = [], [], [], []
    self.feed(text)
    self.figures = json.loads(self._scripts[0])

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag == 'script':
      self._scripts.append('')
    elif tag == 'tr' and 'h1' in self.tags and 'section' not in self.tags:
      self.summary.append([])

  def handle_data(self, data):
    if self.tags[-1] == 'script':
      self._scripts[-1] += data
    elif self.summary and 'section' not in self.tags and data.strip():
      self.summary[-1].append(data)
    else:
      self.texts.append(data)


class HostileTextTest(ReportCase):

  def test_stays_text(self):
    names = ('a</script><img src=x>', 'b\u2028')
    write_run(self.workdir, names=names, text=HOSTILE)
    text = report.write(self.workdir).read_text()
    page = Page(text)
    self.assertNotIn('img', page.tags)
    self.assertEqual(page.tags.count('script'), 3)
    # What has no visible form is shown by a picture of it, or a question mark.
    shown = HOSTILE.replace('\x00', '\u2400').replace('\ud800', '?')
    self.assertGreaterEqual(page.texts.count(shown), 2 * 3)
    figures = text.partition('id="figures">')[2].partition('</script>')[0]
    self.assertNoCommonElements(figures, '<>\u2028')
    named = {trace.get('name') for f in page.figures for trace in f['data']}
    self.assertContainsSubset({html.escape(name) for name in names}, named)


class Browser:
  """Headless Chromium with one page open, driven through two pipes."""

  def __init__(self, program, directory):
    theirs, self._write = os.pipe()
    self._read, theirs_too = os.pipe()
    flags = ['--headless=new', '--no-sandbox', '--disable-gpu',
             '--disable-quic', '--no-first-run', '--disable-component-update',
             '--disable-background-networking', '--disable-sync',
             '--remote-debugging-pipe', f'--user-data-dir={directory}']
    self._process = subprocess.Popen(
        ['/bin/sh', '-c', f'exec "$@" 3<&{theirs} 4>&{theirs_too}', 'sh',
         program, *flags], pass_fds=(theirs, theirs_too),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(theirs)
    os.close(theirs_too)
    self._bytes, self._calls, self._session = b'', 0, {}
    self.events = []
    target = self.call('Target.createTarget', url='about:blank')
    session = self.call('Target.attachToTarget', flatten=True, **target)
    self._session = session
    for domain in ('Page', 'Runtime', 'Network', 'Log'):
      self.call(f'{domain}.enable')

  def call(self, method, **params):
    self._calls += 1
    message = {'id': self._calls, 'method': method, 'params': params}
    os.write(self._write, json.dumps(message | self._session).encode() + b'\0')
    while (answer := self._receive()).get('id') != self._calls:
      self.events.append(answer)
    if 'error' in answer:
      raise RuntimeError(f'{method}: {answer["error"]}')
    return answer['result']

  def _receive(self):
    while b'\0' not in self._bytes:
      if not select.select([self._read], [], [], 60)[0]:
        raise TimeoutError('Chromium has not answered for 60 s')
      self._bytes += os.read(self._read, 1 << 20)
    message, _, self._bytes = self._bytes.partition(b'\0')
    return json.loads(message)

  def evaluate(self, expression):
    result = self.call('Runtime.evaluate', expression=expression,
                       awaitPromise=True, returnByValue=True)
    return result['result'].get('value')

  def problems(self, url):
    """Opens a page; errors, dialogs and requests that it made."""
    del self.events[:]
    self.call('Page.navigate', url=url)
    self.evaluate('new Promise(done => { const wait = () => '
                  'document.readyState === "complete" && location.href !== '
                  '"about:blank" ? setTimeout(done, 500) : '
                  'setTimeout(wait, 50); wait(); })')
    found = []
    for event in self.events:
      params = event.get('params', {})
      match event.get('method'):
        case 'Network.requestWillBeSent':
          address = params['request']['url']
          if address != url and not address.startswith(('data:', 'blob:')):
            found.append(f'request: {address}')
        case 'Runtime.exceptionThrown' | 'Page.javascriptDialogOpening':
          found.append(f'error: {params}')
        case 'Runtime.consoleAPICalled' if params['type'] != 'log':
          found.append(f'console: {params}')
        case 'Log.entryAdded':
          found.append(f'console: {params["entry"]}')
    return found

  def close(self):
    self._session = {}
    self.call('Browser.close')
    self._process.wait(20)
    os.close(self._write)
    os.close(self._read)


@pytest.mark.slow
class BrowserTest(ReportCase):

  def setUp(self):
    super().setUp()
    program = shutil.which('chromium') or shutil.which('google-chrome')
    if program is None:
      missing = 'needs chromium or google-chrome on the path'
      if os.environ.get('CI') == 'true':
        self.fail(missing)
      self.skipTest(missing)
    self.browser = Browser(program, self.workdir.parent / 'profile')
    self.addCleanup(self.browser.close)

  def test_finds_what_is_wrong_with_a_page(self):
    path = self.workdir.parent / 'bad.html'
    path.write_text(
        '<img src="http://127.0.0.1:9/external.png"><script>'
        'console.error("complaint"); throw new Error("thrown")</script>')
    found = '\n'.join(self.browser.problems(path.as_uri()))
    for problem in ('request: http://127.0.0.1:9/external.png', 'complaint',
                    'thrown'):
      self.assertIn(problem, found)

  @parameterized.parameters('light', 'dark')
  def test_page_draws_everything_and_asks_for_nothing(self, scheme):
    write_run(self.workdir, text=HOSTILE)
    path = pathlib.Path(report.write(self.workdir))
    self.browser.call('Emulation.setEmulatedMedia', features=[
        {'name': 'prefers-color-scheme', 'value': scheme}])
    self.browser.call('Emulation.setDeviceMetricsOverride', width=1280,
                      height=900, deviceScaleFactor=1, mobile=False)
    self.assertEqual(self.browser.problems(path.as_uri()), [])
    drawn = self.browser.evaluate(
        '[...document.querySelectorAll(".plot:not([hidden])")]'
        '.map(div => div.querySelectorAll(".js-line, .hm, .points").length)')
    self.assertLen(drawn, 9)
    self.assertNotIn(0, drawn)
    # The whole page fits the window's width.
    self.assertLessEqual(
        self.browser.evaluate('document.documentElement.scrollWidth'), 1280)
    self.browser.evaluate('document.querySelectorAll(".tabs button")[1].click()')
    self.browser.evaluate('document.querySelector(".chip").click()')
    png = base64.b64decode(self.browser.call(
        'Page.captureScreenshot', captureBeyondViewport=True)['data'])
    # Kept where one wants to look at it; a blank page has less than 20 kB.
    folder = os.environ.get('SCREENSHOTS', self.workdir)
    (pathlib.Path(folder) / f'report_{scheme}.png').write_bytes(png)
    self.assertGreater(len(png), 100_000)


@pytest.mark.slow
class CommandTest(ReportCase):

  def command(self):
    return subprocess.run(
        [sys.executable, '-m', 'gradlens.report', f'--workdir={self.workdir}'],
        capture_output=True, text=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'})

  def test_prints_the_table_and_the_path(self):
    failed = self.command()
    self.assertEqual(failed.returncode, 1)
    self.assertRegex(failed.stderr, re.compile(r'^error: .* holds no run', re.M))
    self.assertNotIn('Traceback', failed.stderr)
    write_run(self.workdir)
    done = self.command()
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertTrue(done.stdout.startswith(report.table(self.workdir)))
    self.assertIn(str(self.workdir / 'report.html'), done.stdout)


if __name__ == '__main__':
  absltest.main()
