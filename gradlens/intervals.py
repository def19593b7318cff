"""Intervals: how well a number is known, from independent observations."""

from collections.abc import Callable
import math

import jax
import numpy as np

_MAX_LOG = 700.0  # exp of more overflows


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


def over_steps(
    statistic: Callable[..., jax.Array],
    *series: jax.Array,
    num_blocks: int = 10,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A statistic of averages over the steps of a run, with an interval.

  The jackknife over blocks of consecutive steps, since neighbors are alike: an
  interval from single steps would be too narrow. Parameters move meanwhile, so
  the statistic is that of the run's averages, not of any one step.

  A value that is not finite was not measured, and is left out of its average.

  Args:
    statistic: `statistic(*means)`, of the average of each series.
    *series: `[T, ...]`, one entry for each step.
    num_blocks: blocks of steps; as many as measured steps if these are fewer.
    level: the probability that the interval holds the true value.

  Returns:
    `(estimate, low, high)`; NaN without a measured step, and an interval of NaN
    with only one.

  Raises:
    ValueError: for series of different lengths, or fewer than two blocks.

  References:
    Kuensch, The Jackknife and the Bootstrap for General Stationary
    Observations, 1989

  >>> import numpy as np
  >>> import gradlens as gl
  >>> noise_T = np.array([6., 8., 7., 7.])
  >>> norm_sq_T = np.array([1., 2., 2., 1.])
  >>> log_scale, low, high = gl.over_steps(
  ...     lambda noise, norm_sq: np.log(noise / norm_sq), noise_T, norm_sq_T)
  >>> print('{:.2f} [{:.2f}, {:.2f}]'.format(*np.exp([log_scale, low, high])))
  4.67 [2.83, 7.70]
  """
  series = [np.asarray(values, np.float64) for values in series]
  lengths = [len(values) for values in series]
  if len(set(lengths)) != 1 or num_blocks < 2:
    raise ValueError(
        'over_steps needs series of one length and two or more blocks, got '
        f'lengths {lengths} and num_blocks={num_blocks}'
    )
  finite = [np.isfinite(values) for values in series]
  kept_T = np.stack(
      [known.any(axis=tuple(range(1, known.ndim))) for known in finite]
  ).any(axis=0)
  size = min(num_blocks, int(kept_T.sum()))
  parts = [
      part[kept_T]
      for values, known in zip(series, finite, strict=True)
      for part in (np.where(known, values, 0.0), known.astype(np.float64))
  ]

  def of_blocks(*blocks):
    sums_and_counts = [block.sum(axis=0) for block in blocks]
    means = map(_mean, sums_and_counts[::2], sums_and_counts[1::2])
    return statistic(*means)

  if size < 2:
    estimate = np.asarray(of_blocks(*parts), np.float64)
    return estimate, np.full_like(estimate, np.nan), np.full_like(
        estimate, np.nan
    )
  blocks = [
      np.stack([b.sum(axis=0) for b in np.array_split(part, size)])
      for part in parts
  ]
  return jackknife(of_blocks, *blocks, level=level)


def norm_ratios(
    norms_sq_TxK: jax.Array, *, num_blocks: int = 10, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  r"""How much louder every task is than the quietest, with intervals.

  .. math:: \frac{\sum_t \text{norm\_sq}_{tk}}{\sum_t \text{norm\_sq}_{tq}}

  A ratio of averages over steps, never an average of ratios. Intervals are
  `over_steps` of its logarithm; they hold for all pairs of tasks at once (by
  Bonferroni's inequality), since the quietest task q is chosen by looking.

  Args:
    norms_sq_TxK: `squared_norms` of every step, unbiased: of naive ones the
      noise would be part of the ratio.
    num_blocks: as for `over_steps`.
    level: as for `over_steps`, of all pairs together.

  Returns:
    `(ratio_K, low_K, high_K)`; 1, without a width, for the quietest. NaN where
    a norm cannot be told from 0: there is no ratio to nothing.

  Raises:
    ValueError: as `over_steps`.

  >>> import numpy as np
  >>> import gradlens as gl
  >>> norms_sq_TxK = np.array([[8., 1.], [9., 2.], [8., 2.], [7., 1.]])
  >>> ratio_K, low_K, high_K = gl.norm_ratios(norms_sq_TxK)
  >>> print('{:.1f} [{:.1f}, {:.1f}]'.format(ratio_K[0], low_K[0], high_K[0]))
  5.3 [3.2, 8.9]
  """
  norms_sq_TxK = np.asarray(norms_sq_TxK, np.float64)
  num_tasks = norms_sq_TxK.shape[1]
  pairs = max(1, math.comb(num_tasks, 2))
  means_K = _mean(
      np.where(np.isfinite(norms_sq_TxK), norms_sq_TxK, 0.0).sum(axis=0),
      np.isfinite(norms_sq_TxK).sum(axis=0),
  )
  quietest = int(np.argmin(np.where(np.isnan(means_K), np.inf, means_K)))

  def log_ratio(means_K):
    logs_K = np.log(np.where(means_K > 0, means_K, np.nan))
    return logs_K - logs_K[quietest]

  bounds = over_steps(
      log_ratio, norms_sq_TxK, num_blocks=num_blocks,
      level=1 - (1 - level) / pairs,
  )
  known_K = np.isfinite(bounds).all(axis=0)
  ratios = [
      np.where(known_K, np.exp(np.minimum(bound_K, _MAX_LOG)), np.nan)
      for bound_K in bounds
  ]
  return ratios[0], ratios[1], ratios[2]


def _mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """`sums / counts`; NaN where nothing was counted."""
  return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _student_t(level: float, degrees: int) -> float:
  """The t that |T| stays below with probability `level`."""
  # With t = sqrt(degrees) * tan(angle) the density is a power of a cosine.
  angles = np.linspace(0, np.pi / 2, 100_001)
  density = np.cos(angles) ** (degrees - 1)
  below = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
  angle = np.interp(level, below / below[-1], angles)
  return math.sqrt(degrees) * math.tan(angle)
