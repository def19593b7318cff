"""Quotas: shares of a batch as whole numbers of prompts, exactly."""

import numpy as np

_LEAST = 1e-12  # of the largest share; what is smaller is taken for this
_HALVINGS = 200  # more than float64 can tell apart


def exact_quotas(
    shares_K: np.ndarray, *, total: int, unit: int, most: int
) -> np.ndarray:
  r"""How many prompts each task has in a step.

  Whole multiples of `unit`, with :math:`u = \text{total} / \text{unit}` of them
  in all. Every task of a share above 0 has at least one unit, so that its
  gradient is still seen, and none has more than `most` prompts. Between these
  bounds quotas are in proportion to the shares, up to whole units:

  .. math::
    \text{units}_k \approx \operatorname{clip}(c\, p_k,\ 1,\
    \text{most} / \text{unit}), \qquad \sum_k \text{units}_k = u

  with c such that the sum is right, and the largest remainders rounded up.

  Args:
    shares_K: not negative, of any sum above 0. A task of share 0 has no
      prompts; other shares count as 1e-12 of the largest at least.
    total: prompts of a step, a multiple of `unit`.
    unit: splits of a task's prompts, which hold equally many.
    most: prompts that a task has at most, a multiple of `unit`.

  Returns:
    int `[K]`, multiples of `unit` that sum to `total`.

  Raises:
    ValueError: shares that are no shares, or a total that cannot be met.

  >>> import numpy as np
  >>> exact_quotas(np.array([6., 3., 1., 0.]), total=20, unit=2, most=16)
  array([12,  6,  2,  0])
  >>> exact_quotas(np.array([98., 1., 1.]), total=20, unit=2, most=14)
  array([14,  4,  2])
  """
  shares_K = np.asarray(shares_K, np.float64)
  if not np.isfinite(shares_K).all() or (shares_K < 0).any():
    raise ValueError(f'shares {shares_K.tolist()} must be 0 or more.')
  if total % unit or most % unit:
    raise ValueError(
        f'total={total} and most={most} must be multiples of unit={unit}.'
    )
  there_K = shares_K > 0
  units, cap, count = total // unit, most // unit, int(there_K.sum())
  if not count <= units <= count * cap:
    raise ValueError(
        f'{total} prompts cannot be divided among {count} tasks with at least'
        f' {unit} and at most {most} prompts each.'
    )
  ideal_K = np.zeros(len(shares_K))
  ideal_K[there_K] = _in_bounds(shares_K[there_K], units, cap)
  units_K = np.floor(ideal_K).astype(int)
  # Stable: of equal remainders the first task's is rounded up.
  order = np.argsort(units_K - ideal_K, kind='stable')
  units_K[order[: units - units_K.sum()]] += 1
  return units_K * unit


def _in_bounds(shares_K: np.ndarray, units: int, cap: int) -> np.ndarray:
  """In proportion to the shares, and between 1 and `cap`: they sum to units."""
  shares_K = np.maximum(shares_K / shares_K.max(), _LEAST)
  low, high = 0.0, cap / shares_K.min()
  for _ in range(_HALVINGS):
    middle = (low + high) / 2
    if np.clip(middle * shares_K, 1, cap).sum() < units:
      low = middle
    else:
      high = middle
  # Where this is a whole number but for rounding, it is that number.
  ideal_K = np.clip(high * shares_K, 1, cap)
  whole_K = np.round(ideal_K)
  return np.where(np.abs(ideal_K - whole_K) < 1e-9 * cap, whole_K, ideal_K)
