"""Thinned series keep what the eye goes by, and only points that exist."""

from absl.testing import absltest, parameterized
import numpy as np

from gradlens.report import thin


def triangle(a, b, c):
  """Twice the area, by the shoelace formula."""
  return abs(a[0] * (b[1] - c[1]) + b[0] * (c[1] - a[1])
             + c[0] * (a[1] - b[1]))


class LargestTrianglesTest(parameterized.TestCase):

  @parameterized.parameters(3, 17, 160)
  def test_every_point_makes_the_largest_triangle_of_its_bucket(self, size):
    rng = np.random.default_rng(0)
    x_T = np.cumsum(rng.integers(1, 4, 1000)).astype(float)
    y_T = rng.normal(size=1000)
    kept = thin.largest_triangles(x_T, y_T, size)
    points = list(zip(x_T, y_T, strict=True))
    edges = [1 + (998 * i) // (size - 2) for i in range(size - 1)]
    edges[-1] = 999
    want = [0]
    for i in range(size - 2):
      # The last bucket's next is the last point alone.
      after = points[edges[i + 1]:edges[i + 2] if i + 2 < size - 1 else 1000]
      mean = [sum(c) / len(after) for c in zip(*after, strict=True)]
      want.append(max(range(edges[i], edges[i + 1]), key=lambda t: triangle(
          points[want[-1]], points[t], mean)))
    self.assertEqual(kept.tolist(), [*want, 999])
    self.assertLen(kept, size)

  def test_a_single_peak_is_kept(self):
    y_T = np.zeros(1000)
    y_T[437] = 1
    kept = thin.largest_triangles(np.arange(1000.0), y_T, 20)
    self.assertIn(437, kept)
    # Every so-many-th would have lost it.
    self.assertNotIn(437, np.arange(0, 1000, 50))

  @parameterized.parameters(0, 1, 2, 20)
  def test_short_series_stay_whole(self, length):
    x_T = np.arange(float(length))
    for pick in (thin.largest_triangles, thin.extremes):
      self.assertEqual(pick(x_T, x_T, 20).tolist(), list(range(length)))


class ExtremesTest(absltest.TestCase):

  def test_every_bucket_keeps_its_lowest_and_its_highest(self):
    y_T = np.random.default_rng(1).normal(size=1000)
    kept = thin.extremes(np.arange(1000), y_T, 40)
    self.assertLessEqual(len(kept), 40)
    self.assertEqual(kept.tolist(), sorted(set(kept.tolist())))
    for start in range(0, 1000, 50):
      inside = y_T[[t for t in kept if start <= t < start + 50]]
      bucket = y_T[start:start + 50]
      self.assertEqual((inside.min(), inside.max()),
                       (bucket.min(), bucket.max()))


if __name__ == '__main__':
  absltest.main()
