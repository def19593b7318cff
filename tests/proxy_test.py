"""Proxies: ranks against scipy, blocks against vectors."""

import itertools

from absl.testing import absltest, parameterized
import numpy as np
import scipy.stats

import gradlens as gl


class RankCorrelationTest(parameterized.TestCase):

  def test_equals_that_of_scipy(self):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(30, 2, 3))
    two = one + rng.normal(size=one.shape)
    two[:, 1] = np.round(two[:, 1])  # Ties.
    got = gl.rank_correlation(one, two)
    for i in np.ndindex(2, 3):
      expected = scipy.stats.spearmanr(one[:, *i], two[:, *i]).statistic
      np.testing.assert_allclose(got[i], expected, rtol=1e-6)

  def test_only_the_order_counts(self):
    one = np.array([1.0, 5.0, 2.0, 3.0])
    self.assertAlmostEqual(gl.rank_correlation(one, np.exp(one)), 1)
    self.assertAlmostEqual(gl.rank_correlation(one, 1 / one), -1)

  def test_steps_without_a_value_are_left_out(self):
    one = np.array([1.0, 2.0, np.nan, 3.0, 9.0, 0.0])
    two = np.array([1.0, 4.0, 0.0, 2.0, 8.0, np.inf])
    # Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * 2 / (4 * 15).
    self.assertAlmostEqual(gl.rank_correlation(one, two), 0.8)

  @parameterized.parameters(
      ([1.0, 2.0], [3.0, 3.0]), ([1.0], [1.0]), ([], []),
      ([np.nan, 1.0], [1.0, 2.0]),
  )
  def test_without_an_order_there_is_none(self, one, two):
    got = gl.rank_correlation(np.array(one), np.array(two))
    self.assertTrue(np.isnan(got))

  def test_misuse(self):
    with self.assertRaisesRegex(ValueError, 'differ'):
      gl.rank_correlation(np.ones(3), np.ones(4))


class BlockProxiesTest(parameterized.TestCase):

  def rows(self, num_splits, steps=12, num_tasks=4):
    """Rows `[T, R, layers, N]` of two blocks, the norm falling at random."""
    rng = np.random.default_rng(0)
    scale = rng.lognormal(size=(steps, num_tasks, 1, 1))
    scale = np.repeat(scale, num_splits, axis=1)
    num_rows = num_tasks * num_splits
    return {
        'head': rng.normal(size=(steps, num_rows, 1, 5)),
        'layers': scale * (1 + rng.normal(size=(steps, num_rows, 2, 7))),
    }

  def products(self, rows_TxRxN, num_splits):
    """Products of tasks `[T, K, K]`, row by row, equal splits left out."""
    steps, num_rows, _ = rows_TxRxN.shape
    num_tasks = num_rows // num_splits
    found = np.zeros((steps, num_tasks, num_tasks))
    for r, q in itertools.product(range(num_rows), repeat=2):
      if num_splits == 1 or r % num_splits != q % num_splits:
        product = np.sum(rows_TxRxN[:, r] * rows_TxRxN[:, q], axis=-1)
        found[:, r // num_splits, q // num_splits] += product
    return found

  @parameterized.parameters(1, 3)
  def test_equals_vectors_and_scipy(self, num_splits):
    rows = self.rows(num_splits)
    grams = {
        name: np.einsum('trln,tsln->tlrs', block, block)
        for name, block in rows.items()
    }
    grams['head'] = grams['head'][:, 0]
    proxies = gl.block_proxies(grams, num_splits)
    blocks = {
        ('head', ()): rows['head'][:, :, 0],
        ('layers', (0,)): rows['layers'][:, :, 0],
        ('layers', (1,)): rows['layers'][:, :, 1],
    }
    whole = self.products(np.concatenate(list(blocks.values()), 2), num_splits)
    pairs = list(itertools.combinations(range(4), 2))
    for (name, layer), block in blocks.items():
      own = self.products(block, num_splits)
      norms_K, cosines_P = (field[layer] for field in proxies[name])
      for k in range(4):
        np.testing.assert_allclose(
            norms_K[k],
            scipy.stats.spearmanr(own[:, k, k], whole[:, k, k]).statistic,
            rtol=1e-6,
        )
      for p, (k, m) in enumerate(pairs):
        cosines = []
        for gram in (own, whole):
          norms_sq = np.stack([gram[:, k, k], gram[:, m, m]])
          lengths = np.sqrt(np.where(norms_sq > 0, norms_sq, np.nan))
          cosines.append(gram[:, k, m] / lengths.prod(axis=0))
        expected = scipy.stats.spearmanr(*cosines, nan_policy='omit').statistic
        np.testing.assert_allclose(cosines_P[p], expected, rtol=1e-6)

  def test_tells_the_block_that_follows_the_whole(self):
    proxies = gl.block_proxies({
        name: np.einsum('trln,tsln->tlrs', block, block)
        for name, block in self.rows(num_splits=1, steps=40).items()
    })
    self.assertEqual(proxies['layers'].norms_K.shape, (2, 4))
    self.assertGreater(proxies['layers'].norms_K.min(), 0.9)
    self.assertLess(proxies['head'].norms_K.max(), 0.5)

  @parameterized.parameters(
      (dict(a=np.ones((3, 2, 2)), b=np.ones((4, 2, 2))),),
      (dict(a=np.ones((3, 2, 2)), b=np.ones((3, 5, 4, 4))),),
      ({},),
  )
  def test_misuse(self, grams):
    with self.assertRaisesRegex(ValueError, 'same steps and rows'):
      gl.block_proxies(grams)


if __name__ == '__main__':
  absltest.main()
