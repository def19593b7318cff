"""Shares that stay: equal, given, or by the size of the data."""

from collections.abc import Mapping, Sequence

import numpy as np

from gradlens.mixture.kind import Kind, above_zero


def _constant(shares_K: np.ndarray) -> Kind:
  return Kind(
      dict, lambda state, seen: state, lambda state: shares_K, 'nothing'
  )


def uniform(names: Sequence[str], sizes_K: Sequence[int]) -> Kind:
  """All tasks alike."""
  del sizes_K
  return _constant(np.ones(len(names)))


def fixed(
    names: Sequence[str], sizes_K: Sequence[int], *,
    shares: Mapping[str, float],
) -> Kind:
  """As given.

  Args:
    names: of the tasks.
    sizes_K: unused.
    shares: of every task, 0 or more, of any sum above 0. A task of share 0 is
      never drawn.

  Raises:
    ValueError: shares of other tasks, or that are no shares.
  """
  del sizes_K
  if set(shares) != set(names):
    raise ValueError(
        f'shares are given of {", ".join(sorted(shares)) or "none"}, and the'
        f' tasks are {", ".join(sorted(names))}'
    )
  shares_K = np.array([float(shares[name]) for name in names])
  if not (np.isfinite(shares_K).all() and min(shares_K) >= 0 < sum(shares_K)):
    raise ValueError('shares must be 0 or more, and one of them above 0')
  return _constant(shares_K)


def tempered(
    names: Sequence[str], sizes_K: Sequence[int], *, temperature: float
) -> Kind:
  r"""Larger data sets more, :math:`p_k \propto n_k^{1/T}`.

  Args:
    names: unused.
    sizes_K: numbers of training records, :math:`n_k`.
    temperature: T; at 1 in proportion to the size, far above 1 uniform.

  Raises:
    ValueError: a temperature that is not above 0.

  References:
    Arivazhagan et al., Massively Multilingual Neural Machine Translation in the
    Wild, 2019, arXiv 1907.05019; Raffel et al., T5, 2019, arXiv 1910.10683
  """
  del names
  above_zero('temperature', temperature)
  sizes_K = np.array(sizes_K, np.float64)
  return _constant((sizes_K / sizes_K.max()) ** (1 / temperature))


def proportional(names: Sequence[str], sizes_K: Sequence[int]) -> Kind:
  """In proportion to the number of training records."""
  return tempered(names, sizes_K, temperature=1.0)
