"""Thin: few points that show what many do.

Dims here: T points of a series, N that are kept.
"""

import numpy as np


def largest_triangles(
    x_T: np.ndarray, y_T: np.ndarray, size: int,
) -> np.ndarray:
  """Places of `size` points that keep the look of a line.

  Largest triangle three buckets: of every bucket the point that makes the
  largest triangle with the one kept before it and the next bucket's mean
  (Steinarsson, Downsampling Time Series for Visual Representation, 2013). Kept
  points are left as they are, so an interval at one is that of its step.

  Args:
    x_T: ascending, finite.
    y_T: finite.
    size: at least 3; series that are no longer are kept whole.
  """
  if len(x_T) <= size:
    return np.arange(len(x_T))
  edges = np.linspace(1, len(x_T) - 1, size - 1).astype(int)
  kept = [0]
  for low, high, after in zip(
      edges[:-1], edges[1:], [*edges[2:], len(x_T)], strict=True):
    x_next, y_next = x_T[high:after].mean(), y_T[high:after].mean()
    x, y = x_T[kept[-1]], y_T[kept[-1]]
    areas = np.abs((x - x_next) * (y_T[low:high] - y)
                   - (x - x_T[low:high]) * (y_next - y))
    kept.append(low + int(areas.argmax()))
  return np.array([*kept, len(x_T) - 1])


def extremes(x_T: np.ndarray, y_T: np.ndarray, size: int) -> np.ndarray:
  """Places of the lowest and the highest of each of `size` / 2 buckets.

  No peak is lost; in order, and whole if the series is no longer than that.
  """
  if len(x_T) <= size:
    return np.arange(len(x_T))
  kept = set()
  for part in np.array_split(np.arange(len(x_T)), size // 2):
    kept |= {int(part[y_T[part].argmin()]), int(part[y_T[part].argmax()])}
  return np.array(sorted(kept))
