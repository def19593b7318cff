"""Quotas: they sum to the batch, and lie as near to the shares as can be."""

import fractions
import math

from absl.testing import absltest, parameterized
import numpy as np

from gradlens.mixture import exact_quotas


def by_fractions(shares, total):
  """Largest remainders in exact arithmetic; without bounds, in units of 1."""
  whole = sum(map(fractions.Fraction, shares))
  ideal = [fractions.Fraction(share) * total / whole for share in shares]
  quotas = [math.floor(x) for x in ideal]
  order = sorted(range(len(ideal)), key=lambda k: quotas[k] - ideal[k])
  for k in order[: total - sum(quotas)]:
    quotas[k] += 1
  return quotas


def random_cases(count):
  rng = np.random.default_rng(0)
  for _ in range(count):
    k, unit, cap = (int(n) for n in rng.integers((1, 1, 1), (9, 5, 9)))
    # Over many orders of magnitude, and some tasks that are not there.
    shares = rng.exponential(size=k) ** rng.integers(1, 30)
    shares = np.maximum(shares, 1e-12 * shares.max())
    shares[1:] *= rng.random(k - 1) < 0.8
    there = np.count_nonzero(shares)
    units = int(rng.integers(there, there * cap + 1))
    yield shares, units, unit, cap


class QuotasTest(parameterized.TestCase):

  def test_within_bounds_and_in_proportion_between_them(self):
    between = 0
    for case in random_cases(2000):
      shares, units, unit, cap = case
      quotas = exact_quotas(
          shares, total=units * unit, unit=unit, most=cap * unit
      )
      self.assertEqual(quotas.sum(), units * unit)
      self.assertFalse((quotas % unit).any())
      self.assertLessEqual(quotas.max(), cap * unit)
      np.testing.assert_array_equal(quotas > 0, shares > 0)
      # |units - c p| < 1 for one c between the bounds; below it at the upper
      # bound, above it at the lower.
      counts, there = quotas // unit, shares > 0
      at_least = (counts - 1)[there & (counts > 1)] / shares[
          there & (counts > 1)]
      at_most = (counts + 1)[there & (counts < cap)] / shares[
          there & (counts < cap)]
      if at_least.size and at_most.size:
        self.assertLessEqual(at_least.max(), at_most.min() * (1 + 1e-9), case)
        between += 1
    self.assertGreater(between, 500)

  @parameterized.parameters(
      ([1, 1, 1], 12), ([1, 1, 1], 13), ([1, 1, 1, 1, 1, 1, 1], 9),
      ([3, 2, 1], 100), ([0.7, 0.2, 0.1], 10), ([5, 3, 3, 1], 101),
      ([1 / 3, 1 / 3, 1 / 3], 300),
  )
  def test_far_from_bounds_they_are_largest_remainders(self, shares, total):
    quotas = exact_quotas(np.array(shares), total=total, unit=1, most=total)
    self.assertEqual(quotas.tolist(), by_fractions(shares, total))
    # Whatever the unit, and the scale of the shares.
    again = exact_quotas(
        1e-5 * np.array(shares), total=3 * total, unit=3, most=3 * total
    )
    np.testing.assert_array_equal(again, 3 * quotas)

  def test_by_hand(self):
    # 10 units; 98% is bounded by 7, and the others have the 3 that are left.
    self.assertEqual(exact_quotas(
        np.array([98.0, 1.0, 1.0]), total=20, unit=2, most=14
    ).tolist(), [14, 4, 2])
    # A share of almost nothing is seen all the same; none is not.
    self.assertEqual(exact_quotas(
        np.array([1.0, 1e-300, 0.0]), total=8, unit=2, most=8
    ).tolist(), [6, 2, 0])

  @parameterized.parameters(
      ([1.0, 1.0], 4, 1, 1, 'cannot be divided among 2 tasks'),
      ([1.0, 1.0, 1.0], 2, 1, 2, 'among 3 tasks with at least 1'),
      ([0.0, 0.0], 2, 1, 2, 'among 0 tasks'),
      ([1.0, -1.0], 2, 1, 2, r'shares \[1.0, -1.0\]'),
      ([1.0, np.nan], 2, 1, 2, 'shares'),
      ([1.0, 1.0], 3, 2, 2, 'total=3 .* unit=2'),
  )
  def test_refuses(self, shares, total, unit, most, message):
    with self.assertRaisesRegex(ValueError, message):
      exact_quotas(np.array(shares), total=total, unit=unit, most=most)


if __name__ == '__main__':
  absltest.main()
