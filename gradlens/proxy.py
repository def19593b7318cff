"""Proxy: whether one block's Gram matrix stands for that of all parameters."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from gradlens.diagnostics import cosines
from gradlens.gram import task_gram


class BlockProxy(NamedTuple):
  """How a block's numbers rank the steps of a run, against the whole Gram's.

  Attributes:
    norms_K: rank correlation over steps of each task's squared norm in the
      block with that in the whole; `[layers, K]` for a stacked block.
    cosines_P: of the cosine of each pair of tasks, in the order of
      `itertools.combinations`; `[layers, K (K - 1) / 2]` for a stacked block.
  """

  norms_K: np.ndarray
  cosines_P: np.ndarray


def block_proxies(
    grams: Mapping[str, jax.Array], num_splits: int = 1
) -> dict[str, BlockProxy]:
  """Which block follows the whole gradient over a run, by rank correlation.

  A block whose norms and cosines rise and fall with the whole's can be measured
  in its place. 1 is a faithful proxy; 0, none.

  .. warning:: A block is a part of the whole, and shares the noise of its
     batches. A large block correlates for that alone: compare with blocks of
     its size.

  Args:
    grams: `{block: gram}` of every step: `[T, R, R]`, or `[T, layers, R, R]`
      for a stacked block. All blocks of the model: they sum to the whole.
    num_splits: S; from 2 on norms and cosines are debiased, by the `'cross'`
      Gram matrix.

  Returns:
    `{block: BlockProxy}`. A step in which a number is undefined is left out of
    its correlation; NaN where the correlation is undefined.

  Raises:
    ValueError: for blocks of different steps or rows.

  >>> import numpy as np
  >>> import gradlens as gl
  >>> rising, falling = np.arange(1., 6.), np.arange(6., 1., -1.)
  >>> proxies = gl.block_proxies({
  ...     'large': np.stack([rising, falling], 1)[..., None] * np.eye(2),
  ...     'small': 0.1 * np.stack([rising, rising], 1)[..., None] * np.eye(2)})
  >>> print(proxies['large'].norms_K, proxies['small'].norms_K)
  [1. 1.] [ 1. -1.]
  """
  sizes = {
      (np.shape(gram)[0], *np.shape(gram)[-2:]) for gram in grams.values()
  }
  if len(sizes) != 1:
    raise ValueError(
        'expected {block: [T, (layers,) R, R]} of the same steps and rows, got '
        f'{ {name: np.shape(gram) for name, gram in grams.items()} }'
    )
  by_block = {name: np.asarray(gram) for name, gram in grams.items()}
  whole_TxRxR = sum(
      gram if gram.ndim == 3 else gram.sum(axis=1) for gram in by_block.values()
  )
  norms_TxK, cosines_TxP = _numbers(whole_TxRxR, num_splits)

  def compare(gram_TxRxR):
    own_TxK, own_TxP = _numbers(gram_TxRxR, num_splits)
    return BlockProxy(
        rank_correlation(own_TxK, norms_TxK),
        rank_correlation(own_TxP, cosines_TxP),
    )

  proxies = {}
  for name, gram in by_block.items():
    if gram.ndim == 3:
      proxies[name] = compare(gram)
    else:
      layers = [compare(layer) for layer in np.moveaxis(gram, 1, 0)]
      proxies[name] = BlockProxy(*map(np.stack, zip(*layers, strict=True)))
  return proxies


def rank_correlation(one_T: np.ndarray, two_T: np.ndarray) -> np.ndarray:
  r"""Spearman's rank correlation over the leading axis.

  The correlation of ranks; equal values share the mean of their ranks.

  Args:
    one_T: `[T, ...]`.
    two_T: of the same shape.

  Returns:
    `[...]`, float64, between -1 and 1. Steps in which one of the two is not
    finite are left out; NaN where fewer than two differ in either.

  Raises:
    ValueError: if shapes differ.

  References:
    Spearman, The Proof and Measurement of Association between Two Things, 1904

  >>> import numpy as np
  >>> import gradlens as gl
  >>> one_T, two_T = np.array([1., 2., 3., 9.]), np.array([1., 4., 2., 8.])
  >>> print(gl.rank_correlation(one_T, two_T))
  0.8
  """
  one_T, two_T = np.asarray(one_T), np.asarray(two_T)
  if one_T.shape != two_T.shape:
    raise ValueError(f'shapes {one_T.shape} and {two_T.shape} differ')
  found = np.full(one_T.shape[1:], np.nan)
  for i in np.ndindex(found.shape):
    pair = np.stack([one_T[(slice(None), *i)], two_T[(slice(None), *i)]])
    pair = pair[:, np.isfinite(pair).all(axis=0)]
    ranks = np.stack([_ranks(values) for values in pair])
    ranks -= ranks.mean(axis=1, keepdims=True) if ranks.size else 0.0
    lengths_sq = np.sum(ranks**2, axis=1)
    if (lengths_sq > 0).all():
      found[i] = ranks[0] @ ranks[1] / np.sqrt(lengths_sq.prod())
  return found


def _ranks(values_T: np.ndarray) -> np.ndarray:
  _, place_T, counts = np.unique(
      values_T, return_inverse=True, return_counts=True
  )
  return (np.cumsum(counts) - (counts - 1) / 2)[place_T]


def _numbers(
    gram_TxRxR: np.ndarray, num_splits: int
) -> tuple[np.ndarray, np.ndarray]:
  """Squared norms `[T, K]` and cosines of pairs `[T, P]`."""
  kind = 'cross' if num_splits > 1 else 'naive'
  gram_TxKxK = np.asarray(task_gram(gram_TxRxR, num_splits, kind))
  first, second = np.triu_indices(gram_TxKxK.shape[-1], 1)
  return (
      np.diagonal(gram_TxKxK, axis1=1, axis2=2),
      np.asarray(cosines(gram_TxKxK))[:, first, second],
  )
