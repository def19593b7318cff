"""Averages: exponential ones, with a bias correction for every entry."""

from typing import Any

import numpy as np

from gradlens.mixture.seen import numbers, plain

Average = dict[str, Any]  # plain JSON


def empty(shape: tuple[int, ...]) -> Average:
  """Of nothing yet."""
  return dict(total=plain(np.zeros(shape)), weight=plain(np.zeros(shape)))


def add(average: Average, values: np.ndarray, smoothing: float) -> Average:
  """With one more observation; entries that are not finite stay as they are.

  Args:
    average: from `empty` or `add`.
    values: of its shape.
    smoothing: from 0 (the last observation) to below 1.
  """
  known = np.isfinite(values)
  total, weight = numbers(average['total']), numbers(average['weight'])
  new = smoothing * total + (1 - smoothing) * np.where(known, values, 0.0)
  return dict(
      total=plain(np.where(known, new, total)),
      weight=plain(
          np.where(known, smoothing * weight + 1 - smoothing, weight)
      ),
  )


def mean(average: Average) -> np.ndarray:
  """NaN where nothing was observed."""
  total, weight = numbers(average['total']), numbers(average['weight'])
  return np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)


def check_smoothing(smoothing: float) -> None:
  """Refuses what is no smoothing.

  Raises:
    ValueError: it is not between 0 and 1.
  """
  if not 0 <= smoothing < 1:
    raise ValueError(f'smoothing={smoothing} must be from 0 to below 1')
