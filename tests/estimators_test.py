"""The study of estimators: each beside one from the rows themselves."""

import pathlib

from absl.testing import absltest
import numpy as np
import pandas as pd

from experiments.estimators import estimators, findings

K, T, S, P = 2, 6, 4, 40


class EstimatorsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    draw = np.random.default_rng(0)
    # Contributions to a step: the rows of a step add up to its gradient.
    signal = np.array([3.0, 1.0])[:, None, None, None] * np.ones(P)
    self.rows = (signal + draw.normal(0, 4, (K, T, S, P))) / S
    self.gram = np.einsum('ktsp,luvp->ktsluv', self.rows, self.rows)

  def test_truth(self):
    value_K, low_K, high_K = estimators.truth(self.gram)
    for k, want in enumerate((9.0 * P, 1.0 * P)):
      flat = self.rows[k].reshape(T * S, P)
      pairs = [flat[i] @ flat[j] for i in range(T * S) for j in range(T * S)
               if i != j]
      np.testing.assert_allclose(value_K[k], S**2 * np.mean(pairs))
      self.assertBetween(want, low_K[k], high_K[k])

  def test_of_steps(self):
    found = estimators.of_steps(self.gram)
    for k in range(K):
      for t in range(T):
        rows = self.rows[k, t]
        np.testing.assert_allclose(
            found['naive'][t, k], np.sum(rows.sum(0) ** 2)
        )
        halves = rows[:2].sum(0), rows[2:].sum(0)
        np.testing.assert_allclose(
            found['halves'][t, k], 4 * halves[0] @ halves[1]
        )
        pairs = [rows[i] @ rows[j] for i in range(S) for j in range(S)
                 if i != j]
        np.testing.assert_allclose(found['pairs'][t, k], S**2 * np.mean(pairs))
    first, second = found['pairs'][:2]
    np.testing.assert_allclose(found['ema'][0], first)
    np.testing.assert_allclose(
        found['ema'][1], (0.9 * 0.1 * first + 0.1 * second) / (1 - 0.81)
    )
    # Noise of variance 16 in 40 entries over 4 rows: 160 too much.
    self.assertGreater(found['naive'][:, 1].mean(), 150)
    self.assertLess(abs(found['pairs'][:, 1].mean() - 40), 60)

  def test_ratios(self):
    found = estimators.ratios(self.gram)
    true_K, _, _ = estimators.truth(self.gram)
    steps = estimators.of_steps(self.gram)
    self.assertAlmostEqual(found.truth, true_K[0] / true_K[1])
    self.assertAlmostEqual(
        found.of_steps,
        np.mean([n.max() / n.min() for n in steps['naive']]),
    )
    first, second = steps['pairs'][:3].mean(0), steps['pairs'][3:].mean(0)
    # The first task is the loudest in both halves.
    self.assertAlmostEqual(
        found.apart, (second[0] / second[1] + first[0] / first[1]) / 2
    )

  def test_what_is_loud_is_measured_where_it_was_not_chosen(self):
    # Without noise, estimates are (2 v)^2. Each half has another loudest task,
    # which is the quieter one in the other half: 4 / 36, then 4 / 16.
    rows = np.array([[2.0, 2, 1, 1], [1, 1, 3, 3]])
    rows = np.broadcast_to(rows[..., None, None], (2, 4, 2, 1))
    found = estimators.ratios(np.einsum('ktsp,luvp->ktsluv', rows, rows))
    self.assertAlmostEqual(found.apart, (1 / 9 + 1 / 4) / 2)

  def test_sketches(self):
    rows = estimators.Rows(
        ['a', 'b'], dict(one=0.25 * self.gram, two=0.75 * self.gram),
        {8: self.gram * np.array([1.1, 0.8])[:, None, None, None, None, None],
         16: self.gram},
    )
    errors = estimators.sketch_errors(rows)
    np.testing.assert_allclose(errors[8], [0.1, 0.2])
    np.testing.assert_allclose(errors[16], 0, atol=1e-9)

  def test_load(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'rows.npz'
    flat = self.rows.reshape(-1, P) / T  # contributions to all steps
    np.savez(
        path, names=np.array(['a', 'b']), steps=T, sketch_40=flat,
        block_x=flat[:, :30] @ flat[:, :30].T,
        block_y=flat[:, 30:] @ flat[:, 30:].T,
    )
    rows = estimators.load(path, S)
    self.assertEqual(rows.names, ['a', 'b'])
    np.testing.assert_allclose(rows.whole, self.gram)
    np.testing.assert_allclose(rows.sketches[40], self.gram)


class FindingsTest(absltest.TestCase):

  def test_bias_and_spread(self):
    values = [1.0, 3.0, -1.0, 5.0]
    found = dict(
        truth=pd.DataFrame([dict(task='a', norm_sq=2.0, low=1.5, high=2.5)]),
        steps=pd.DataFrame([
            dict(estimator=name, step=t, task='a', norm_sq=value)
            for name in ('pairs', 'ema') for t, value in enumerate(values)
        ]),
    )
    lines = findings.estimators_table(found).splitlines()
    self.assertIn('| a | 2000 [1500, 2500] | pairs | 1 |', lines[2])
    self.assertIn('| 25% |', lines[2])
    # The running mean's last value, of many runs of such steps.
    draws_TxN = np.random.default_rng(0).normal(size=(4, 200_000))
    spread = estimators.ema(draws_TxN, 0.9)[-1].std()
    _, _, _, name, mean, shown, below, _ = map(str.strip, lines[3].split('|'))
    self.assertEqual((name, mean, below), ('ema', '1', ''))
    np.testing.assert_allclose(
        float(shown), np.std(values, ddof=1) / 2 * spread, rtol=5e-3
    )

  def test_blocks(self):
    found = dict(blocks=pd.DataFrame([
        dict(block=block, task=str(k), norm_sq=part * (k + 1), whole=k + 1)
        for block, part in (('x', 0.3), ('y', 0.7)) for k in range(5)
    ]))
    lines = findings.blocks_table(found).splitlines()
    self.assertEqual(lines[2], '| x | 30% | 1.00 [1.00, 1.00] |')


if __name__ == '__main__':
  absltest.main()
