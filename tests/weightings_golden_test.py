"""The golden table: every weighting against values that others computed.

`torchjd_values.json` holds TorchJD 0.18.0's answers in float64 (torch 2.13.0)
for five matrices: weights, weights of the regularized programs, and updates.
UPGrad, DualProj and MGDA under "weights" are exact, by NNLS and SLSQP.
"""

import json
import pathlib

from absl.testing import absltest, parameterized
import numpy as np
from weighting_cases import direction_error, weights_of

import gradlens as gl

CASES = json.loads(
    (pathlib.Path(__file__).parent / 'torchjd_values.json').read_text()
)
# A name in the file, the weighting, and the tolerance of the update: 1e-6 where
# a formula gives it, times the float32 of a Gram matrix; 1e-4 where it is
# solved for.
GOLDEN = (
    ('IMTLG', gl.imtl_g, 1e-6),
    ('AlignedMTL', gl.aligned_mtl, 1e-6),
    ('ConFIG', gl.conflict_free, 1e-6),
    ('UPGrad', gl.upgrad, 1e-6),
    ('DualProj', gl.dual_proj, 1e-6),
    ('CAGrad0.5', gl.cagrad, 1e-4),
    ('NashMTL', gl.nash_mtl, 1e-4),
    ('FairGrad1', gl.fairgrad, 1e-4),
)


def golden():
  for name, make, tolerance in GOLDEN:
    for case, values in CASES.items():
      for kind in ('weights', 'updates'):
        if name in values[kind]:
          yield f'{name}_{case}', make, case, kind, name, tolerance


class GoldenTest(parameterized.TestCase):

  def assert_update(self, weighting, case, want, tolerance):
    rows = np.array(CASES[case]['rows'])
    got = weights_of(weighting, rows)
    self.assertLess(direction_error(got, rows, want), tolerance)

  @parameterized.named_parameters(*golden())
  def test_is_torchjds_update(self, make, case, kind, name, tolerance):
    if (name, case) == ('NashMTL', 'scaled_4x10'):
      self.skipTest('TorchJD stops far from the solution: see the next test')
    want = np.array(CASES[case][kind][name])
    if kind == 'weights':
      want = want @ np.array(CASES[case]['rows'])
    self.assert_update(make(), case, want, tolerance)

  def test_where_torchjds_bargain_is_none(self):
    # G a = c / a for some c: every task has one gain <g_i, d> a_i.
    rows = np.array(CASES['scaled_4x10']['rows'])
    update = np.array(CASES['scaled_4x10']['updates']['NashMTL'])
    weights = np.linalg.lstsq(rows.T, update, rcond=None)[0]
    own = weights_of(gl.nash_mtl(), rows).astype(np.float64)
    gains = [(rows @ (w @ rows)) * w for w in (weights, own)]
    self.assertGreater(np.ptp(gains[0]) / gains[0].mean(), 0.5)
    self.assertLess(np.ptp(gains[1]) / gains[1].mean(), 1e-4)

  @parameterized.product(
      method=(('UPGrad', gl.upgrad), ('DualProj', gl.dual_proj)),
      case=tuple(CASES),
  )
  def test_regularized_as_torchjd_does(self, method, case):
    name, make = method
    rows = np.array(CASES[case]['rows'])
    want = np.array(CASES[case]['regularized'][name]) @ rows
    self.assert_update(make(reg_eps=1e-4), case, want, 1e-6)

  @parameterized.parameters(*CASES)
  def test_mgda_by_objective(self, case):
    rows = np.array(CASES[case]['rows'])
    want = np.array(CASES[case]['weights']['MGDA']) @ rows
    weights = weights_of(gl.mgda(), rows).astype(np.float64)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    got = np.linalg.norm(weights @ rows)
    np.testing.assert_allclose(got, np.linalg.norm(want), rtol=1e-5)

  @parameterized.parameters('normal_4x10', 'scaled_4x10')
  def test_krum_up_to_the_tie_of_two_neighbors(self, case):
    # With 1 of 4 byzantine a score is the distance to one neighbor, and the two
    # that are nearest to each other have the same.
    rows = np.array(CASES[case]['rows'])
    apart = np.sum((rows[:, None] - rows[None]) ** 2, axis=-1)
    scores = np.sort(apart, axis=1)[:, 1]
    (tied,) = np.nonzero(scores < scores.min() * (1 + 1e-9))
    self.assertLen(tied, 2)
    for weights in (
        CASES[case]['weights']['Krum'], weights_of(gl.krum(1), rows)
    ):
      self.assertIn(np.argmax(weights), tied)
      self.assertEqual(np.sort(weights).tolist(), [0, 0, 0, 1])

  @parameterized.parameters(('PCGrad', gl.pcgrad), ('GradVac0.5', gl.gradvac))
  def test_of_two_tasks_whose_order_is_no_choice(self, name, make):
    rows = np.array(CASES['base_2x3']['rows'])
    want = np.array(CASES['base_2x3']['weights'][name]) @ rows
    self.assert_update(make(), 'base_2x3', want, 1e-6)


if __name__ == '__main__':
  absltest.main()
