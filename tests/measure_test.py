"""Measuring: the estimates are numpy's, and the gradient is the batch's."""

import json

from absl.testing import absltest, parameterized
import compiles
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import tiny_config

from gradlens import measure, measurement, models
from gradlens.mixture import Mixture
from gradlens.setup import build, sampling


class EstimateTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    # Three tasks, five splits: a common direction under noise.
    signal_KxP = np.array([[8.0], [4.0], [2.0]]) * np.ones(400) / 20
    self.rows_KxSxP = signal_KxP[:, None] / 5 + rng.normal(
        0, 0.01, (3, 5, 400)
    )
    flat = self.rows_KxSxP.reshape(15, 400)
    self.blocks = {
        'a': flat[:, :100] @ flat[:, :100].T,
        'b': flat[:, 100:] @ flat[:, 100:].T,
    }
    self.rewards_SxK = rng.uniform(0, 1, (5, 3))

  def estimate(self, shares=(0.5, 0.25, 0.25)):
    return measurement.estimate(measurement.Grams(
        ['x', 'y', 'z'], self.blocks, np.array(shares), self.rewards_SxK
    ))

  def test_unbiased_is_the_mean_over_pairs_of_different_splits(self):
    pairs_K = np.zeros(3)
    for s in range(5):
      for t in range(5):
        if s != t:
          pairs_K += np.sum(self.rows_KxSxP[:, s] * self.rows_KxSxP[:, t], -1)
    measured = self.estimate()
    # A task is the sum of 5 rows: 25 products, of which 20 are of pairs.
    np.testing.assert_allclose(measured.norm_sq_K.value, pairs_K * 25 / 20)
    naive_K = np.sum(self.rows_KxSxP.sum(1) ** 2, -1)
    np.testing.assert_allclose(measured.naive_K, naive_K, rtol=1e-5)
    # Noise adds its variance, 5 splits x 400 entries x 1e-4.
    np.testing.assert_allclose(
        naive_K - measured.norm_sq_K.value, 0.2, rtol=0.3
    )

  def test_a_task_without_gradient_has_no_shares(self):
    for gram in self.blocks.values():
      gram[10:] = gram[:, 10:] = 0
    shares = self.estimate().layer_shares
    np.testing.assert_allclose(sum(shares.values()), [1, 1, np.nan])
    self.assertBetween(shares['a'][0], 0.2, 0.3)

  def test_intervals_hold_the_truth(self):
    measured = self.estimate()
    for k, truth in enumerate((64.0, 16.0, 4.0)):
      self.assertBetween(
          truth, measured.norm_sq_K.low[k], measured.norm_sq_K.high[k]
      )
      self.assertBetween(
          truth / 4, measured.ratio_K.low[k], measured.ratio_K.high[k]
      )
    # z is the quietest; it is told apart from the others.
    self.assertEqual(measured.ratio_K.value[2], 1)
    self.assertGreater(measured.ratio_K.low[1], 1)

  def test_ratios_hold_for_all_pairs_at_once(self):
    measured = self.estimate()
    gram = sum(self.blocks.values()).reshape(3, 5, 3, 5)

    def log_ratio(kept):
      norms = [
          sum(gram[k, s, k, t] for s in kept for t in kept if s != t)
          / (len(kept) * (len(kept) - 1)) for k in (0, 2)
      ]
      return np.log(norms[0] / norms[1])

    without = np.array([
        log_ratio([s for s in range(5) if s != left]) for left in range(5)
    ])
    error = np.sqrt(4 / 5 * np.sum((without - without.mean()) ** 2))
    margin = scipy.stats.t.ppf(1 - 0.05 / 3 / 2, 4) * error
    np.testing.assert_allclose(
        np.log([measured.ratio_K.low[0], measured.ratio_K.high[0]]),
        log_ratio(range(5)) + np.array([-margin, margin]), rtol=1e-5,
    )

  def test_intrinsic_norms_undo_the_shares(self):
    measured = self.estimate()
    np.testing.assert_allclose(
        measured.intrinsic_K.value,
        measured.norm_sq_K.value * np.array([4, 16, 16]),
    )

  def test_blocks_share_the_squared_norm(self):
    shares = self.estimate().layer_shares
    np.testing.assert_allclose(shares['a'] + shares['b'], 1)
    # 100 of 400 entries of a constant direction.
    np.testing.assert_allclose(shares['a'], 0.25, atol=0.05)

  def test_a_norm_that_may_be_zero_has_no_ratio(self):
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1, (15, 400))
    self.blocks = {'a': rows @ rows.T}
    measured = self.estimate()
    self.assertLess(measured.norm_sq_K.low.min(), 0)
    self.assertFalse(np.isfinite(measured.ratio_K.low[:2]).all())

  def test_table_names_every_task_and_block(self):
    text = measure.table(self.estimate())
    first = [line.split()[0] for line in text.splitlines() if line]
    self.assertEqual(['task', 'x', 'y', 'z'], first[:4])
    self.assertEqual(['a', 'b'], first[-2:])
    self.assertRegex(text, r'\na +2\d%')


  def test_json_has_every_number_by_task(self):
    self.blocks['a'][10:] = self.blocks['a'][:, 10:] = 0
    self.blocks['b'][10:] = self.blocks['b'][:, 10:] = 0
    measured = self.estimate()
    text = json.dumps(measure.as_json(measured), allow_nan=False)
    found = json.loads(text)
    self.assertEqual(
        list(found), ['rewards', 'norm_sq', 'intrinsic', 'naive', 'ratio',
                      'layer_shares'],
    )
    np.testing.assert_array_equal(
        found['norm_sq']['y'], [bound[1] for bound in measured.norm_sq_K]
    )
    self.assertEqual(found['naive']['x'], measured.naive_K[0])
    self.assertEqual(
        found['layer_shares']['b']['x'], measured.layer_shares['b'][0]
    )
    # Without any gradient.
    self.assertIsNone(found['layer_shares']['a']['z'])


class MeasureTest(parameterized.TestCase):

  def test_gradient_is_that_of_one_large_batch(self):
    config = tiny_config.get_config('seed=3')  # both tasks earn something
    measured = measurement.measure(config, num_prompts=24, num_splits=3)
    run = build.setup(config)
    sample = sampling.sampler(config, run)
    with sampling.verifier(config, run) as verifier:
      collect = sampling.collector(config, run, sample, verifier)
      mixture = Mixture(run.tasks, config.prompts_per_task, config.seed)
      state = mixture.init()
      key = jax.random.fold_in(jax.random.key(config.seed), 3)
      batches = []
      for i in range(3):
        step_key = jax.random.fold_in(key, i)
        draw, state = mixture.draw(state)
        batches.append(collect(run.params, draw.records, step_key).batch)

    def loss(params, k):
      """Of task k in the batch of all: written out, sequence by sequence."""
      total = 0.0
      for batch in batches:
        b, g, _ = batch.tokens_KxBxGxC.shape[1:]
        rewards = np.asarray(batch.rewards_KxBxG[k], np.float64)
        for i in range(b):
          deviation = rewards[i].std()
          if deviation == 0:
            continue
          for j in range(g):
            n = int(np.sum(batch.mask_KxBxGxC[k, i, j]))
            tokens = jnp.concatenate([
                batch.prompts_KxBxT[k, i], batch.tokens_KxBxGxC[k, i, j, :n]
            ])
            mask = jnp.concatenate([
                batch.prompt_mask_KxBxT[k, i], jnp.ones(n, bool)
            ])
            logits = models.logits(run.model, params, tokens[None], mask[None])
            logprobs = models.policy_logprobs(logits[0], 1.0)
            at = jnp.arange(-n - 1, -1)
            chosen = logprobs[at, tokens[at + 1]]
            advantage = (rewards[i, j] - rewards[i].mean()) / deviation
            total -= advantage * chosen.mean()
      return total / (2 * 24 * 4)  # tasks, prompts, completions

    for k in range(2):
      grads = jax.grad(loss)(run.params, k)
      norm_sq = sum(
          np.sum(np.asarray(g, np.float64) ** 2) for g in jax.tree.leaves(grads)
      )
      np.testing.assert_allclose(measured.naive_K[k], norm_sq, rtol=1e-4)
    rewards_K = np.mean([b.rewards_KxBxG for b in batches], axis=(0, 2, 3))
    np.testing.assert_allclose(measured.rewards_K.value, rewards_K, rtol=1e-6)

  def test_on_a_mesh(self):
    found = []
    for sizes in (dict(), dict(task=4, fsdp=2)):
      config = tiny_config.get_config('seed=3')
      config.mesh.update(sizes)
      with compiles.counted() as names:
        found.append(measurement.measure(config, num_prompts=24, num_splits=3))
      self.assertEqual(names['jit(add)'], 1)
    alone, spread = found
    self.assertGreater(alone.naive_K.min(), 0)
    np.testing.assert_allclose(spread.naive_K, alone.naive_K, rtol=1e-4)
    np.testing.assert_allclose(
        spread.norm_sq_K, alone.norm_sq_K, rtol=1e-3,
        atol=1e-4 * alone.naive_K.max(),
    )

  @parameterized.parameters(
      (20, 4, 'must be a multiple'), (16, 2, '3 splits or more'),
      (4000, 5, "exceeds the 768 training prompts of task 'long'"),
  )
  def test_refuses(self, num_prompts, num_splits, message):
    with self.assertRaisesRegex(ValueError, message):
      measurement.measure(
          tiny_config.get_config(), num_prompts=num_prompts,
          num_splits=num_splits,
      )


if __name__ == '__main__':
  absltest.main()
