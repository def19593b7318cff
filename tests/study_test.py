"""Studies: arms run once each, on a core each, and go on where they were."""

import importlib
import json
import pathlib
from unittest import mock

from absl.testing import absltest, flagsaver, parameterized
import numpy as np
import pandas as pd
import scipy.stats

from experiments import kept, study, tables
from experiments.imbalance import analysis, rule_outs
from gradlens.report import history


class RunTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.calls = self.folder / 'calls'

  def arm(self, name, *flags):
    return study.Arm(
        dict(kind=name, seed=0), 'tests.fake_arm', name,
        (f'--log={self.calls}', *flags),
    )

  def run_arms(self, *arms, jobs=1):
    return study.run(arms, self.folder / 'study', jobs, say=lambda line: None)

  def called(self):
    return self.calls.read_text().split()

  def test_every_arm_has_a_core(self):
    outcomes = self.run_arms(self.arm('a'), self.arm('b'), jobs=2)
    self.assertEqual(list(outcomes), ['a-0', 'b-0'])
    for name in 'ab':
      config, *cores = outcomes[f'{name}-0'].printed.split()
      self.assertEqual(config, name)
      self.assertLen(cores, 1)
    self.assertNotEqual(
        outcomes['a-0'].config_hash, outcomes['b-0'].config_hash
    )

  def test_what_is_done_is_not_done_again(self):
    first = self.run_arms(self.arm('a'))
    again = self.run_arms(self.arm('a'), self.arm('b'))
    self.assertEqual(self.called(), ['a', 'b'])
    self.assertEqual(again['a-0'], first['a-0'])

  def test_goes_on_after_a_failure(self):
    fails = pathlib.Path(f'{self.calls}.b.fails')
    fails.touch()
    arms = self.arm('a'), self.arm('b'), self.arm('c')
    with self.assertRaisesRegex(RuntimeError, r'b-0 ended with code 1; .*log'):
      self.run_arms(*arms)
    log = self.folder / 'study' / 'b-0.log'
    self.assertIn('as it was asked to', log.read_text())
    fails.unlink()
    self.run_arms(*arms)
    self.assertEqual(self.called().count('a'), 1)
    self.assertEqual(self.called().count('b'), 2)

  def test_another_command_is_not_taken_for_it(self):
    self.run_arms(self.arm('a'))
    with self.assertRaisesRegex(ValueError, 'a-0.json is of another command'):
      self.run_arms(self.arm('a', '--other=1'))

  def test_a_folder_may_be_moved(self):
    arm = study.Arm(dict(kind='m'), 'gradlens.main', 'config.py', ())
    folder = self.folder / 'elsewhere'
    folder.mkdir()
    outcome = study.Outcome('0123', 'abc', 1.0, 'said')
    (folder / 'm.json').write_text(json.dumps(
        dict(command=arm.command(), **outcome._asdict())
    ))
    self.assertIn(f'--workdir={folder / "m"}', arm.command(folder))
    found = study.run([arm], folder, 1, say=lambda line: None)
    self.assertEqual(found, {'m': outcome})

  def test_names_differ(self):
    with self.assertRaisesRegex(ValueError, 'share a name'):
      self.run_arms(self.arm('a'), self.arm('a'))


class TablesTest(absltest.TestCase):

  def test_shares_of_one_step_are_known_together(self):
    tags = tables.METRICS.values()
    scalars = {f'{tag}/t': {1: 0.0, 2: 2.0, 3: 4.0, 4: 6.0} for tag in tags}
    # A learning rate of 0: the update has no shares.
    scalars['share/optimizer/t'] = {2: 1.0, 3: 2.0, 4: 3.0}
    arm = study.Arm(dict(kind='k'), 'gradlens.main', 'config.py')
    run = history.Run(
        None, dict(tasks=dict(t={})), {}, scalars, {}, {}, np.arange(1, 5)
    )
    table = tables.steps([arm], {arm.name: run}, block=2)
    np.testing.assert_array_equal(table.step, [2, 4])
    np.testing.assert_array_equal(table.share, [2, 5])
    np.testing.assert_array_equal(table.share_optimizer, [1, 2.5])
    np.testing.assert_array_equal(table.reward, [1, 5])
    # Where no update's shares are known, the others are as they are.
    del scalars['share/optimizer/t']
    table = tables.steps([arm], {arm.name: run}, block=2)
    np.testing.assert_array_equal(table.share, [1, 5])


class KeepTest(absltest.TestCase):
  """Arms of which tables were written before."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.ran = []
    self.enter_context(mock.patch.object(study, 'run', self.fake_run))
    self.enter_context(mock.patch.object(tables, 'load', self.fake_load))
    self.enter_context(flagsaver.flagsaver(jobs=1))

  def fake_run(self, arms, folder, jobs):
    self.ran += [arm.name for arm in arms]
    return {arm.name: study.Outcome('h', 'c', 1.0, '') for arm in arms}

  def fake_load(self, arms, folder):
    tags = tables.METRICS.values()
    scalars = {
        f'{tag}/{task}': {1: 1.0 / 3, 2: 2.0} for tag in tags for task in 'tu'
    } | {f'heldout/{task}': {2: 0.5} for task in 'tu'}
    run = history.Run(
        None, dict(tasks=dict(t={}, u={})), {}, scalars, {}, {},
        np.arange(1, 3),
    )
    return {arm.name: run for arm in arms}

  def arm(self, seed, rate=3e-5, config='config.py'):
    return study.Arm(
        dict(part='p', rate=rate, seed=seed), 'gradlens.main', config
    )

  def run_arms(self, *arms, before, **more):
    return kept.run(arms, self.folder, 2, before, **more)

  def written(self, found):
    tables.write(found, self.folder)
    return tables.read(self.folder)

  def test_seeds_are_added(self):
    first = self.written(self.run_arms(self.arm(2), self.arm(0), before={}))
    all_of = [self.arm(seed) for seed in range(3)]
    found = self.written(self.run_arms(*all_of, before=first))
    self.assertEqual(self.ran, ['p-3e-05-2', 'p-3e-05-0', 'p-3e-05-1'])
    for table, rows in ('steps', 2), ('heldout', 2), ('runs', 1):
      np.testing.assert_array_equal(
          found[table].seed, np.repeat([0, 1, 2], rows), table
      )
    # The same to the digit as what is not kept.
    again = self.written(self.run_arms(*all_of, before={}))
    for name, table in again.items():
      pd.testing.assert_frame_equal(table, found[name])

  def test_nothing_is_run_twice(self):
    arms = self.arm(0), self.arm(0, rate=1e-3)
    first = self.written(self.run_arms(*arms, before={}))
    self.ran.clear()
    again = self.run_arms(*arms, before=first)
    self.assertEmpty(self.ran)
    for name, table in first.items():
      pd.testing.assert_frame_equal(table, again[name])

  def test_tables_of_a_studys_own_are_kept(self):
    def more(arms, outcomes):
      return dict(odd=pd.DataFrame([
          arm.labels | dict(commit=outcomes[arm.name].commit) for arm in arms
          if arm.labels['seed'] % 2
      ]))

    first = self.written(
        self.run_arms(self.arm(3), self.arm(1), before={}, more=more)
    )
    self.assertLen(first['odd'], 2)
    # Seed 2, which alone is run, has no row of it.
    found = self.written(self.run_arms(
        self.arm(1), self.arm(2), self.arm(3), before=first, more=more
    ))
    self.assertEqual(self.ran, ['p-3e-05-3', 'p-3e-05-1', 'p-3e-05-2'])
    self.assertEqual(found['odd'].seed.tolist(), [1, 3])
    self.assertEqual(found['runs'].seed.tolist(), [1, 2, 3])

  def test_another_command_is_not_kept(self):
    first = self.written(
        self.run_arms(self.arm(0), self.arm(1), self.arm(2), before={})
    )
    self.ran.clear()
    found = self.run_arms(
        self.arm(0), self.arm(1, config='other.py'), before=first
    )
    self.assertEqual(self.ran, ['p-3e-05-1'])
    self.assertLen(found['runs'], 2)
    self.assertIn('other.py', found['runs'].command[1])
    self.assertLen(found['steps'], 4)


class AnalysisTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    draw = np.random.default_rng(0)
    self.steps = pd.DataFrame([
        dict(seed=seed, task=task, step=step,
             norm_sq=scale * draw.uniform(0.9, 1.1), reward=step / 100)
        for seed in range(3) for step in range(6, 61, 6)
        for task, scale in (('loud', 8.0), ('quiet', 2.0))
    ])

  def test_averages_are_of_all_seeds(self):
    own = self.steps[self.steps.task == 'loud'].norm_sq.to_numpy()
    found = analysis.averages(self.steps, 'norm_sq')['loud']
    # The jackknife of a mean over 30 blocks is Student's interval.
    margin = scipy.stats.t.ppf(0.975, 29) * own.std(ddof=1) / np.sqrt(30)
    np.testing.assert_allclose(
        found, [own.mean(), own.mean() - margin, own.mean() + margin],
        rtol=1e-6,
    )

  def test_what_the_optimizer_leaves(self):
    steps = self.steps.assign(share=0.5, share_optimizer=0.4)
    steps.loc[steps.step > 30, ['share', 'share_optimizer']] = 0.1
    np.testing.assert_allclose(
        analysis.kept(steps, 'loud').value, (0.4 + 0.1) / (0.5 + 0.1)
    )

  def test_spread(self):
    loudest, ratio = analysis.spread(self.steps)
    self.assertEqual(loudest, 'loud')
    self.assertBetween(4.0, ratio.low, ratio.high)
    self.assertLess(ratio.high - ratio.low, 0.8)

  def test_no_ratio_to_what_may_be_nothing(self):
    self.steps.loc[self.steps.task == 'quiet', 'norm_sq'] -= 2
    loudest, ratio = analysis.spread(self.steps)
    self.assertEqual(loudest, 'loud')
    self.assertTrue(np.isnan(ratio.low))
    norms = self.steps.groupby('task').norm_sq.mean()
    norms['quiet'] = -1.0
    self.assertTrue(np.isnan(analysis.largest_ratio(norms)))
    norms['quiet'] = 2.0
    self.assertEqual(analysis.largest_ratio(norms), norms['loud'] / 2)

  def test_gains_over_seeds(self):
    last = np.array([0.5, 0.7, 0.9])
    heldout = pd.DataFrame([
        dict(seed=seed, task='t', step=step, reward=reward)
        for seed in range(3)
        for step, reward in ((0, 0.2), (30, 0.9), (60, last[seed]))
    ])
    gains = last - 0.2
    margin = scipy.stats.t.ppf(0.975, 2) * gains.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(
        analysis.gains(heldout)['t'], [0.5, 0.5 - margin, 0.5 + margin],
        rtol=1e-6,
    )
    # Of 0.8 that there was to gain.
    np.testing.assert_allclose(
        analysis.headroom_gains(heldout)['t'][0], 0.5 / 0.8
    )

  def test_gains_of_the_paper(self):
    found = analysis.paper_gains(self.steps, window=2)
    # Rewards rise by 0.06 a block: the mean of two blocks after one is 3 blocks
    # above that of two before it. Ends have no such blocks.
    np.testing.assert_allclose(found.gain, 0.18)
    self.assertEqual(sorted(set(found.step)), [18, 24, 30, 36, 42, 48])


  def test_correlations_end_at_1(self):
    self.assertEqual(tables.correlation((0.9, 0.5, 1.3)), (0.9, 0.5, 1.0))
    self.assertEqual(tables.correlation((-0.8, -1.2, 0.1)), (-0.8, -1.0, 0.1))

  def test_followers(self):
    draw = np.random.default_rng(2)
    blocks = pd.DataFrame([
        dict(part='figure', setting=setting, kind='sequence', seed=seed,
             task=task, step=step, leads=norm, follows=norm**3 / 100,
             noise=0.01 * draw.uniform())
        for setting in 'ab' for seed in range(2) for task in 'uvw'
        for step, norm in enumerate(draw.uniform(1, 9, 20))
    ])
    names, inside, across = analysis.followers(blocks)
    self.assertEqual(names, ['leads', 'follows', 'noise'])
    for name in ('leads', 'follows'):
      self.assertGreater(inside[name].low, 0.99)
      self.assertGreater(across[name].value, 0.5)
    whole = blocks.leads + blocks.follows + blocks.noise
    expected = [
        scipy.stats.spearmanr(own.noise, whole[own.index]).statistic
        for _, own in blocks.groupby(['setting', 'task', 'seed'])
    ]
    np.testing.assert_allclose(
        inside['noise'].value, np.mean(expected), rtol=1e-5
    )


class RuleOutsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    draw = np.random.default_rng(0)
    rows = []
    for k in range(20):
      of_task = draw.normal()
      for _ in range(60):
        advantage, reward = draw.uniform(0.5, 1), draw.uniform()
        rows.append(dict(
            task=str(k), reward=reward, abs_advantage=advantage - k / 10,
            prompt_length=draw.normal(), length=draw.normal(),
            surprise=draw.normal(), tokens=draw.normal(),
            # Rises with the advantage within a task, falls across tasks.
            norm_sq=np.exp(
                4 * advantage + k / 10 + of_task + 0.1 * draw.normal()
            ),
        ))
    self.prompts = pd.DataFrame(rows)

  def test_within_and_across(self):
    inside = rule_outs.within(self.prompts, 'abs_advantage')
    self.assertGreater(inside.low, 0.95)
    self.assertLess(rule_outs.across(self.prompts, 'abs_advantage').value, 0)
    self.assertBetween(
        0, *rule_outs.within(self.prompts, 'length')[1:]
    )

  def test_what_does_not_vary_is_left_out(self):
    self.prompts['length'] = 3.0
    self.assertTrue(np.isnan(rule_outs.within(self.prompts, 'length').value))
    self.assertGreater(rule_outs.explained(self.prompts)['factors'], 0)

  def test_prompts_without_a_gradient_have_no_logarithm(self):
    none = self.prompts.assign(norm_sq=0.0)
    both = pd.concat([self.prompts, none])
    self.assertEqual(
        rule_outs.within(both, 'reward'), rule_outs.within(self.prompts,
                                                           'reward')
    )

  def test_matched(self):
    self.prompts.loc[self.prompts.task == '3', 'reward'] = 0.9
    found = rule_outs.matched(self.prompts)
    self.assertBetween(found.reward.min(), 0.25, 0.3)
    self.assertBetween(found.reward.max(), 0.7, 0.75)
    self.assertEqual(set(found.task), set(self.prompts.task) - {'3'})

  def test_explained(self):
    found = rule_outs.explained(self.prompts)
    # Within a task: 4 x a uniform of width 0.5, and noise of 0.1.
    np.testing.assert_allclose(found['within'], 4**2 / 48 + 0.01, rtol=0.1)
    np.testing.assert_allclose(found['within_left'], 0.01, rtol=0.1)
    # Between tasks the advantage is k / 10 lower: the fit undoes this, too.
    logs = np.log(self.prompts.norm_sq).groupby(self.prompts.task).mean()
    np.testing.assert_allclose(found['between'], logs.var(), rtol=0.1)
    self.assertGreater(found['between_left'], found['between'])
    self.assertGreater(found['whole'], 0.99)

  def test_of_tasks(self):
    means = self.prompts.groupby('task').reward.mean()
    found = rule_outs.of_tasks(means**3, self.prompts, 'reward')
    np.testing.assert_allclose(found, [1, 1, 1])
    self.assertEqual(
        rule_outs.of_tasks(-means[::-1], self.prompts, 'reward').value, -1
    )

  def test_agreement(self):
    stages = pd.DataFrame([
        dict(seed=seed, task=str(k), mean=float(value))
        for seed, values in ((1, [3, 1, 2, 0]), (2, [30, 10, 0, 20]))
        for k, value in enumerate(values)
    ])
    expected = scipy.stats.spearmanr([3, 1, 2, 0], [30, 10, 0, 20]).statistic
    self.assertAlmostEqual(rule_outs.agreement(stages, 'mean'), expected)

  def test_stage_shares(self):
    draw = np.random.default_rng(1)
    logs = draw.normal(size=(18, 4)) * np.array([2.0, 1.0, 0.1, 0.1])
    stages = pd.DataFrame(np.exp(logs), columns=rule_outs.STAGES)
    stages['norm_sq'] = stages.prod(axis=1)
    found = rule_outs.stage_shares(stages)
    whole = logs.sum(1)
    for i, name in enumerate(rule_outs.STAGES):
      np.testing.assert_allclose(
          found[name].value,
          np.cov(logs[:, i], whole, ddof=0)[0, 1] / whole.var(),
      )
    np.testing.assert_allclose(sum(e.value for e in found.values()), 1)
    self.assertBetween(0.8, found['token'].low, found['token'].high)


class ReadmeTest(parameterized.TestCase):

  @parameterized.parameters(
      ('causes',), ('corrections',), ('estimators',), ('imbalance',)
  )
  def test_tables_are_those_of_the_results(self, name):
    here = pathlib.Path(study.__file__).parent / name
    findings = importlib.import_module(f'experiments.{name}.findings')
    readme = (here / 'README.md').read_text('utf-8')
    found = list(findings.all_tables(tables.read(here / 'results')))
    self.assertNotEmpty(found)
    self.assertEmpty(
        [table.partition('\n')[0] for table in found if table not in readme]
    )


if __name__ == '__main__':
  absltest.main()
