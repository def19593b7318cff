"""Scores of methods: by hand, and what a bootstrap must do."""

from absl.testing import absltest, parameterized
import numpy as np
import pandas as pd
import scipy.stats

from experiments import scores
from experiments.corrections import arms, config, findings


class ScoresTest(absltest.TestCase):

  def test_interquartile_mean(self):
    # Of eight scores the lowest two and the highest two are left out.
    values = np.array([[9.0, 1.0], [4.0, 3.0], [0.0, 2.0], [5.0, 100.0]])
    self.assertAlmostEqual(scores.iqm(values), (2 + 3 + 4 + 5) / 4)

  def test_worst_is_of_the_mean(self):
    # Each task has a seed of 0; the second earns least on average.
    self.assertEqual(scores.worst(np.array([[0.0, 0.4], [1.0, 0.0]])), 0.2)

  def test_improvement(self):
    ours, theirs = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array(
        [[2.0, 0.0], [0.0, 0.0]]
    )
    # The first task wins 3 pairs of 4, the second ties all.
    self.assertAlmostEqual(scores.improvement(ours, theirs), (0.75 + 0.5) / 2)
    self.assertAlmostEqual(scores.improvement(theirs, ours), (0.25 + 0.5) / 2)

  def test_profile(self):
    found = scores.profile(np.array([[0.1, 0.2], [0.3, 0.4]]), np.array(
        [0.0, 0.2, 0.5]
    ))
    np.testing.assert_allclose(found, [1, 0.5, 0])

  def test_a_seed_is_drawn_with_all_its_tasks(self):
    # Tasks differ, seeds do not: drawing seeds changes nothing.
    values = np.tile(np.array([0.1, 0.9]), (5, 1))
    np.testing.assert_allclose(scores.estimate(np.mean, values), [0.5] * 3)
    # In every run one task gains what the other loses.
    apart = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    opposed = np.stack([apart, 1 - apart], axis=1)
    np.testing.assert_allclose(scores.estimate(np.mean, opposed), [0.5] * 3)
    # And of two methods the same seeds are drawn.
    found = scores.estimate(lambda a, b: (a - b).mean(), values, values)
    np.testing.assert_allclose(found, [0.0] * 3)
    shifted = scores.estimate(
        lambda a, b: (a - b).mean(), apart[:, None] + 0.1, apart[:, None]
    )
    np.testing.assert_allclose(shifted, [0.1] * 3)

  def test_mean_over_seeds(self):
    draw = np.random.default_rng(4)
    values = draw.normal(size=(5, 3)) + draw.normal(size=(5, 1))
    of_seeds = values.mean(1)
    margin = scipy.stats.t.ppf(0.975, 4) * of_seeds.std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(
        scores.mean(values),
        [of_seeds.mean(), of_seeds.mean() - margin, of_seeds.mean() + margin],
        rtol=1e-6,
    )

  def test_bootstrap_of_a_mean(self):
    draw = np.random.default_rng(0)
    values = draw.normal(size=(400, 2))
    value, low, high = scores.estimate(np.mean, values)
    self.assertAlmostEqual(value, values.mean())
    # Two tasks of 400: the standard error is 1 / sqrt(800), give or take.
    np.testing.assert_allclose(
        [low - value, high - value],
        scipy.stats.norm.ppf([0.025, 0.975]) / np.sqrt(800), rtol=0.15,
    )

  def test_paired_takes_out_what_seeds_share(self):
    draw = np.random.default_rng(0)
    shared = draw.normal(size=20)
    found = scores.paired(shared + 0.1, shared)
    np.testing.assert_allclose(found, [0.1] * 3, atol=1e-9)


def heldout(part, method, rate, rewards_NxK):
  """First 0, halfway a half, at the end the rewards that are given."""
  return [
      dict(part=part, method=method, rate=rate, seed=seed, task=str(k),
           step=step, reward=reward * step / 60)
      for seed, rewards_K in enumerate(rewards_NxK)
      for k, reward in enumerate(rewards_K) for step in (0, 30, 60)
  ]


class FindingsTest(absltest.TestCase):

  def test_best_rates(self):
    table = pd.DataFrame(
        heldout('tuning', 'a', 1e-4, [[0.2, 0.2], [0.3, 0.3]])
        + heldout('tuning', 'a', 2e-4, [[0.6, 0.0], [0.3, 0.3]])
        + heldout('tuning', 'b', 1e-4, [[0.9, 0.9], [0.0, 0.0]])
        + heldout('tuning', 'b', 2e-4, [[0.4, 0.4], [0.4, 0.4]])
    )
    self.assertEqual(findings.best_rates(table), dict(a=2e-4, b=1e-4))

  def test_of_a_method(self):
    rewards = np.array([[0.2, 0.8], [0.4, 0.6]])
    found = dict(heldout=pd.DataFrame(
        heldout('core', 'total', 1e-4, rewards)
        + heldout('core', 'b', 1e-4, rewards + np.array([[0.1], [0.3]]))
        + heldout('core', 'c', 1e-4, rewards[:, ::-1] + [[0.1], [0.3]])
    ))
    np.testing.assert_allclose(findings.last(found, 'core', 'total'), rewards)
    np.testing.assert_allclose(findings.gains(found, 'core', 'total'), rewards)
    # Straight lines from 0: their mean is a half of their end.
    np.testing.assert_allclose(
        findings.areas(found, 'core', 'total'), rewards / 2
    )
    self.assertAlmostEqual(findings.differences(found, 'b').value, 0.2)
    # Worst tasks, which are not the same one: 0.5 of c and 0.3; of one seed,
    # 0.3 and 0.2, or 0.7 and 0.4. A task less itself would be -0.2.
    worst = findings.worst_differences(found, 'c')
    margin = scipy.stats.t.ppf(0.975, 1) * 0.1
    np.testing.assert_allclose(worst, [0.2, 0.2 - margin, 0.2 + margin])
    self.assertEqual(findings.compared(found), ['b', 'c'])
    self.assertEqual(findings.seeds(found), 2)

  def test_others_are_beside_the_sum_of_their_seed(self):
    table = pd.DataFrame(
        heldout('core', 'total', 1e-4, [[0.2, 0.8], [0.4, 0.8]])
        + heldout('others', 'b', 1e-4, [[9.0, 9.0], [0.7, 0.3]])
    )
    other = table[~((table.part == 'others') & (table.seed == 0))]
    _, _, *rows = findings.others_table(dict(heldout=other)).splitlines()
    self.assertEqual(rows, [
        '| total | 0.600 |  | 0.400 | +0.600 |',
        '| b | 0.500 | -0.100 | 0.300 | +0.500 |',
    ])


class ArmsTest(parameterized.TestCase):

  @parameterized.parameters(*config.METHODS)
  def test_every_method_is_a_config(self, method):
    c = config.get_config(f'{method},seed=3,optimizer.learning_rate=0.5')
    self.assertEqual((c.seed, c.optimizer.learning_rate), (3, 0.5))
    self.assertEqual(list(c.tasks), list(config.TASKS))
    for key, value in config.METHODS[method].items():
      for name, want in value.items():
        got = c[key][name]
        self.assertEqual(
            got.to_dict() if hasattr(got, 'to_dict') else got, want
        )

  def test_unknown_method(self):
    with self.assertRaisesRegex(ValueError, "no method 'pcgrads'; .* pcgrad"):
      config.get_config('pcgrads')

  def test_seeds_are_shared_and_not_those_of_tuning(self):
    rates = dict.fromkeys(config.CORE, 1e-4)
    core = arms.core(rates, 5)
    self.assertLen(core, 5 * 12)
    self.assertLen({arm.name for arm in core}, 60)
    seeds = {arm.labels['seed'] for arm in core}
    self.assertEqual(seeds, {1, 2, 3, 4, 5})  # 0 has prompts that are known
    tuned = {arm.labels['seed'] for arm in arms.tuning()}
    self.assertEmpty(seeds & tuned)
    # More seeds leave those there are as they are.
    self.assertEqual(arms.core(rates, 6)[:60], core)


if __name__ == '__main__':
  absltest.main()
