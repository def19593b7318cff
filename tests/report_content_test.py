"""What the page's script is given: numpy's numbers, thinned and escaped."""

import json
import math

from absl.testing import absltest, parameterized
from known_run import Page, ReportCase, write_run
import numpy as np

from gradlens import report
from gradlens.report import content, curves, groups, history, maps, markup


class ContentCase(ReportCase):

  def write(self, **kwargs):
    self.numbers = write_run(self.workdir, **kwargs)
    self.run_read = history.load(self.workdir)
    return self.run_read

  def data(self):
    runs = history.load_all([self.workdir])
    found = content.collect(runs, groups.grouped(runs), 4)
    return json.loads(markup.island(found))


class MapsTest(ContentCase):

  def test_cosines_of_the_whole_run_and_of_frames(self):
    run = self.write()
    # The norms average 1, 5 and 9 to within noise of 0.2 / sqrt(40).
    np.testing.assert_allclose(
        maps.cosine_matrix(run), 0.5 * np.eye(3) + 0.5, rtol=0.1)
    frames, matrices = maps.film(run)
    self.assertEqual(frames.spans, [(5 * i + 1, 5 * i + 5) for i in range(8)])
    for i, cosines_KxK in enumerate(matrices[:-1]):
      norms_K = self.numbers['norm_sq/unbiased'][5 * i:5 * i + 5].mean(0)
      want = math.sqrt(5) / 2 / math.sqrt(norms_K[0] * norms_K[1])
      self.assertAlmostEqual(cosines_KxK[1, 0], want)
      self.assertAlmostEqual(cosines_KxK[0, 1], want)
      np.testing.assert_allclose(np.diag(cosines_KxK), 1)

  def test_no_cosine_with_a_norm_that_is_not_positive(self):
    run = self.write()
    run.scalars['norm_sq/unbiased/b'] = dict.fromkeys(range(1, 41), -1.0)
    unknown = np.isnan(maps.cosine_matrix(run))
    self.assertTrue(unknown[1].all() and unknown[:, 1].all())
    self.assertEqual(unknown.sum(), 5)

  def test_blocks_over_time_are_shares_of_bucket_means(self):
    run = self.write()
    series = run.scalars['layer_norm_sq/embed/c']
    for step in range(1, 5):
      series[step] = 0.0
    for step in range(5, 9):
      run.scalars['layer_norm_sq/layers.00/c'][step] = -1e9
    within, names = maps.columns(run), maps.blocks(run)
    self.assertEqual(names, ['embed', 'layers.00'])
    self.assertEqual(within.spans[:2], [(1, 4), (5, 8)])
    shares = maps.layer_shares(run, within, names)
    self.assertEqual(shares.shape, (3, 2, 11))
    np.testing.assert_allclose(shares[0], [[0.75] * 11, [0.25] * 11])
    np.testing.assert_allclose(shares[2, :, 0], [0, 1])
    self.assertTrue(np.isnan(shares[2, :, 1]).all())

  def test_blocks_of_tasks_whose_names_have_slashes(self):
    run = self.write(names=('a', 'x/a'))
    self.assertEqual(maps.blocks(run), ['embed', 'layers.00'])

  def test_waterfall_is_of_run_averages(self):
    self.write()
    stages = self.data()['groups'][0]['waterfall'][1]
    for (value, low, high), prefix in zip(stages, maps.STAGES, strict=True):
      series_T = self.numbers[prefix][:, 1]
      blocks_10 = series_T.reshape(10, 4).mean(1)
      half = 2.262157 * blocks_10.std(ddof=1) / math.sqrt(10)
      np.testing.assert_allclose(value, series_T.mean(), rtol=1e-3)
      np.testing.assert_allclose(high - value, half, rtol=1e-2)
      np.testing.assert_allclose(value - low, half, rtol=1e-2)


class LinesTest(ContentCase):

  def test_long_runs_are_thinned_and_the_steps_that_stay_are_true(self):
    run = self.write(num_steps=1000)
    data = self.data()
    tab = data['curves']['reward'][0]
    self.assertLen(tab['lines'], 3)
    for line in tab['lines']:
      task = data['tasks'][line['k']]
      own = curves.metric([run], f'reward/{task}', curves.PART)
      values = dict(zip(own.steps.tolist(), own.values, strict=True))
      raw = dict(zip(own.raw_steps.tolist(), own.raw, strict=True))
      self.assertLen(line['x'], content.MAX_POINTS)
      self.assertLessEqual(len(line['rawX']), 2 * content.MAX_POINTS)
      for xs, ys, true in ((line['x'], line['y'], values),
                           (line['rawX'], line['rawY'], raw)):
        np.testing.assert_allclose(
            ys, [true[x] for x in xs], rtol=1e-3)
      self.assertEqual((line['x'][0], line['x'][-1]), (1, 1000))
      self.assertAlmostEqual(max(line['rawY']), own.raw.max(), places=3)

  def test_intervals_that_stay_are_those_of_their_steps(self):
    paths = [self.workdir / name for name in 'pq']
    for seed, path in enumerate(paths, start=1):
      write_run(path, num_steps=1000, seed=seed)
    runs = history.load_all(paths)
    found = content.collect(runs, groups.grouped(runs), 4)
    line = found['curves']['norms'][0]['lines'][2]
    own = curves.metric(runs, 'norm_sq/unbiased/c', curves.NORM_PART)
    places = np.searchsorted(own.steps, line['x'])
    self.assertLen(places, content.MAX_POINTS)
    np.testing.assert_array_equal(line['low'], own.low[places])
    np.testing.assert_array_equal(line['high'], own.high[places])

  def test_log_axes_are_cut_under_the_quietest(self):
    self.write()
    tab = self.data()['curves']['norms'][0]
    quietest = self.numbers['norm_sq/unbiased'].mean(0).min()
    self.assertTrue(tab['log'])
    np.testing.assert_allclose(tab['floor'], quietest / 2, rtol=1e-3)

  def test_learning_gain_is_not_smoothed(self):
    self.write()
    [line, *_] = self.data()['curves']['gain'][0]['lines']
    want = curves.learning_gain(self.numbers['reward'][:, 0], 4)
    np.testing.assert_allclose(line['y'], want[4:-4], rtol=1e-3)
    self.assertEqual(line['x'], list(range(5, 37)))


class SamplesTest(ContentCase):

  def test_first_middle_and_last_with_reasons(self):
    self.write(evals=(0, 10, 20, 30, 40), text='some text')
    samples = self.data()['samples']
    self.assertEqual(sorted({row[2] for row in samples['rows']}), [0, 20, 40])
    self.assertLen(samples['rows'], 9)
    run, task, step, *words, reward = samples['rows'][0]
    self.assertEqual((run, task, step, reward), (0, 0, 0, 1.0))
    self.assertEqual([samples['texts'][number] for number in words],
                     ['hello', 'some text', 'some text', 'some text'])
    # Each text is there once.
    self.assertEqual(samples['texts'], ['hello', 'some text'])

  def test_histories_without_reasons_can_be_read(self):
    self.write()
    path = self.workdir / 'metrics.jsonl'
    path.write_text(path.read_text().replace(
        r', \"reason\": \"olleh\"', ''))
    [row, *_] = self.data()['samples']['rows']
    self.assertEqual(self.data()['samples']['texts'][row[6]], '')

  def test_long_texts_are_cut_and_say_so(self):
    self.write(text='x' * 5000)
    self.assertIn('x' * 4000 + '… (1000 more characters)',
                  self.data()['samples']['texts'])

  @parameterized.parameters('7', '[{}]', '[7]', 'nonsense')
  def test_broken_samples_are_named(self, broken):
    self.write()
    with (self.workdir / 'metrics.jsonl').open('a') as file:
      file.write(json.dumps({'step': 40, 'texts': {'samples/b': broken}})
                 + '\n')
    with self.assertRaisesRegex(ValueError, 'samples/b of step 40'):
      report.write(self.workdir)


class IslandTest(parameterized.TestCase):

  @parameterized.parameters(
      '</script><script>', '<!--<script>', '&lt;', '\u2028\u2029', ']]>')
  def test_nothing_in_it_ends_the_element(self, text):
    island = markup.island({text: [text]})
    for character in '<>&\u2028\u2029':
      self.assertNotIn(character, island)
    self.assertEqual(json.loads(island), {text: [text]})

  def test_characters_without_a_form_get_one(self):
    self.assertEqual(json.loads(markup.island('a\x00\ud800\n')), 'a\u2400?\n')

  def test_numbers_are_short_and_finite(self):
    island = markup.island([1 / 3, math.nan, -math.inf, 12345.6, 1, True, None])
    self.assertEqual(island, '[0.3333,null,null,12350.0,1,true,null]')

  def test_page_of_hostile_names_has_no_other_element(self):
    with_script = Page(f'<script>{markup.island("</script><img>")}</script>')
    self.assertEqual(with_script.tags, ['script'])


if __name__ == '__main__':
  absltest.main()
