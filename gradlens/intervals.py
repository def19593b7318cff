"""Intervals: how well a number is known, from independent observations."""

from collections.abc import Callable
import math

import jax
import numpy as np


def jackknife(
    statistic: Callable[..., jax.Array],
    *arrays: jax.Array,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  r"""A statistic with an interval, from independent blocks of observations.

  The delete-one jackknife, with Student's t quantile at n - 1 degrees of
  freedom:

  .. math:: \hat\theta \pm t_{n-1} \sqrt{\frac{n-1}{n}
    \sum_i (\hat\theta_{(i)} - \hat\theta_{(\cdot)})^2}

  For smooth statistics, and best for those with a symmetric distribution: take
  the logarithm of a ratio, and exponentiate the interval.

  Args:
    statistic: `statistic(*arrays)`, a number or an array of them, whatever the
      number of blocks.
    *arrays: each with the n blocks on its leading axis.
    level: the probability that the interval holds the true value.

  Returns:
    `(estimate, low, high)`: the statistic of all blocks, and its interval.

  Raises:
    ValueError: with fewer than two blocks, or arrays of unequal numbers.

  References:
    Efron and Stein, The Jackknife Estimate of Variance, 1981

  >>> import numpy as np
  >>> import gradlens as gl
  >>> estimate, low, high = gl.jackknife(np.mean, np.array([1., 2., 3.]))
  >>> print(f'{estimate:.3f} [{low:.3f}, {high:.3f}]')
  2.000 [-0.484, 4.484]
  """
  arrays = [np.asarray(array) for array in arrays]
  counts = {len(array) for array in arrays}
  if len(counts) != 1 or min(counts) < 2:
    raise ValueError(
        'jackknife needs the same two or more blocks in every array, got '
        f'{[len(array) for array in arrays]}'
    )
  (n,) = counts
  estimate = np.asarray(statistic(*arrays), np.float64)
  without = np.stack([
      np.asarray(statistic(*(np.delete(array, i, 0) for array in arrays)))
      for i in range(n)
  ]).astype(np.float64)
  spread = np.sqrt((n - 1) * np.var(without, axis=0))
  margin = _student_t(level, n - 1) * spread
  return estimate, estimate - margin, estimate + margin


def _student_t(level: float, degrees: int) -> float:
  """The t that |T| stays below with probability `level`."""
  # With t = sqrt(degrees) * tan(angle) the density is a power of a cosine.
  angles = np.linspace(0, np.pi / 2, 100_001)
  density = np.cos(angles) ** (degrees - 1)
  below = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
  angle = np.interp(level, below / below[-1], angles)
  return math.sqrt(degrees) * math.tan(angle)
