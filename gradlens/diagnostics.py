"""Diagnostics: what a Gram matrix says about the tasks, with its error."""

from collections.abc import Sequence
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens.estimates import quotient


def shares(gram_KxK: jax.Array, weights_K: jax.Array) -> jax.Array:
  r"""Every task's share of an update, along the update; they add up to 1.

  .. math:: \text{share}_k = \frac{w_k \langle g_k, d \rangle}{\|d\|^2},
    \qquad d = \sum_l w_l g_l

  A share below 0 is a task that the update moves against. With weights 1 these
  are the shares before correction.

  Args:
    gram_KxK: `[K, K]`.
    weights_K: `[K]`.

  Returns:
    `[K]`; zeros if the update is zero.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[3., 0.], [0., 1.]])
  >>> print(gl.shares(gram_KxK, jnp.ones(2)))
  [0.75 0.25]
  """
  products_KxK = weights_K[:, None] * gram_KxK * weights_K[None, :]
  length_sq = jnp.sum(products_KxK)
  moves = length_sq > 0
  along_K = products_KxK.sum(axis=1)
  return jnp.where(moves, along_K / jnp.where(moves, length_sq, 1.0), 0.0)


def cosines(gram_KxK: jax.Array) -> jax.Array:
  """The cosine of every pair of tasks; NaN where a squared norm is not above 0.

  Debiased cosines are those of `task_gram(gram_RxR, S, 'cross')`: noise of a
  split is multiplied by none of its own. Single values may lie outside [-1, 1].
  Cosines by block are `jax.tree.map(gl.cosines, grams)`.

  Args:
    gram_KxK: `[..., K, K]`.

  Returns:
    `[..., K, K]`.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.cosines(jnp.array([[4., -3.], [-3., 9.]])))
  [[ 1.  -0.5]
   [-0.5  1. ]]
  """
  norms_sq_K = jnp.diagonal(gram_KxK, axis1=-2, axis2=-1)
  present_K = norms_sq_K > 0
  norms_K = jnp.sqrt(jnp.where(present_K, norms_sq_K, 1.0))
  cosines_KxK = gram_KxK / norms_K[..., :, None] / norms_K[..., None, :]
  defined_KxK = present_K[..., :, None] & present_K[..., None, :]
  return jnp.where(defined_KxK, cosines_KxK, jnp.nan)


def conflict_rate(gram_KxK: jax.Array) -> jax.Array:
  r"""The share of pairs of tasks whose gradients have a negative product.

  .. math:: \frac{2}{K (K - 1)} \sum_{k < l} [G_{kl} < 0]

  By block it is `jax.tree.map(gl.conflict_rate, grams)`: tasks that are nearly
  orthogonal as a whole may conflict in single layers.

  .. warning:: Between orthogonal tasks noise alone gives 0.5, which debiasing
     does not remove: the sign of a product is no average. Take the Gram matrix
     as a mean over steps, `'cross'` where tasks share prompts.

  Args:
    gram_KxK: `[..., K, K]`.

  Returns:
    `[...]`, between 0 and 1. Pairs that are not finite are left out; NaN where
    no pair is left.

  References:
    Yu et al., Gradient Surgery for Multi-Task Learning, 2020, arXiv:2001.06782

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[4., -3., 1.], [-3., 9., 0.], [1., 0., 2.]])
  >>> print(gl.conflict_rate(gram_KxK).round(4))
  0.3333
  """
  num_tasks = gram_KxK.shape[-1]
  first, second = jnp.triu_indices(num_tasks, 1)
  pairs = gram_KxK[..., first, second]
  finite = jnp.isfinite(pairs)
  return quotient(jnp.sum(finite & (pairs < 0), axis=-1), finite.sum(axis=-1))


def imbalance(norms_sq_K: jax.Array) -> jax.Array:
  """The largest squared norm of a task over the smallest.

  .. warning:: Of noisy norms it is too large: over four equal tasks at 20%
     noise its median is 1.5. Take norms averaged over steps, or `norm_ratios`
     for an interval.

  Args:
    norms_sq_K: `[..., K]`, such as `squared_norms` of a mean Gram matrix.

  Returns:
    `[...]`; NaN where the smallest is not above 0.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.diag(jnp.array([8., 6., 2.]))
  >>> print(gl.imbalance(gl.squared_norms(gram_RxR, 1, 'naive')))
  4.0
  """
  norms_sq_K = jnp.asarray(norms_sq_K)
  return quotient(norms_sq_K.max(axis=-1), norms_sq_K.min(axis=-1))


def effective_rank(gram_KxK: jax.Array) -> jax.Array:
  r"""In how many directions the tasks pull: the effective rank of their Gram.

  With the eigenvalues :math:`\lambda` of G, those below 0 taken for 0:

  .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad
    p_i = \lambda_i / \textstyle\sum_j \lambda_j

  One loud task makes it 1. That of `cosines(gram_KxK)` counts directions
  whatever the norms. That of the matrix of gradients itself, whose singular
  values are the square roots of these, is larger.

  Args:
    gram_KxK: `[..., K, K]`.

  Returns:
    `[...]`, from 1 to K; NaN where no eigenvalue is above 0.

  References:
    Roy and Vetterli, The Effective Rank: A Measure of Effective Dimensionality,
    2007

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.effective_rank(jnp.diag(jnp.array([2., 2., 0.]))).round(4))
  2.0
  """
  # Solvers of some backends square the entries, which would overflow.
  largest = jnp.max(jnp.abs(gram_KxK), axis=(-2, -1), keepdims=True)
  unit_KxK = gram_KxK / jnp.where(largest > 0, largest, 1.0)
  values_K = jnp.maximum(jnp.linalg.eigvalsh(unit_KxK), 0.0)
  total = values_K.sum(axis=-1, keepdims=True)
  parts_K = quotient(values_K, total)
  return jnp.exp(jax.scipy.special.entr(parts_K).sum(axis=-1))


class PromptNorms(NamedTuple):
  """How the squared norms of a task's prompts are distributed.

  Attributes:
    quantiles_KxQ: `[..., K, Q]`, of the squared norms of single prompts.
    top_share_K: `[..., K]`, the share of the largest ones in their sum.
  """

  quantiles_KxQ: jax.Array
  top_share_K: jax.Array


def prompt_norms(
    gram_RxR: jax.Array,
    num_prompts: int,
    quantiles: Sequence[float] = (0.1, 0.5, 0.9, 0.99),
    top: float = 0.01,
) -> PromptNorms:
  r"""Whether a task's gradient is made by many prompts or by a few.

  For rows of one prompt each, `num_splits` being the prompts of a task. The
  squared norm of a row is that of one prompt's contribution, completions summed
  and sampling noise included.

  The share of the top 1% is that of the :math:`\lceil 0.01 B \rceil` largest
  squared norms in the sum over all B. With fewer than 100 prompts this is the
  one largest, to be compared to :math:`1 / B`, which it is for equal norms, and
  not to 1%.

  Args:
    gram_RxR: `[..., R, R]` with R = K * num_prompts. Over a run of steps, give
      the Gram matrix of each: the axes in front are not pooled.
    num_prompts: B, of every task.
    quantiles: between 0 and 1, linear between order statistics.
    top: the fraction of prompts that counts as the largest.

  Returns:
    `PromptNorms`; the share is NaN where all norms are zero.

  Raises:
    ValueError: if `num_prompts` does not divide R, or a fraction is not one.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.diag(jnp.array([1., 1., 1., 9.]))    # one task, 4 prompts
  >>> norms = gl.prompt_norms(gram_RxR, num_prompts=4, quantiles=(0., 0.5, 1.))
  >>> print(norms.quantiles_KxQ, norms.top_share_K)
  [[1. 1. 9.]] [0.75]
  """
  num_rows = gram_RxR.shape[-1]
  if num_prompts < 1 or num_rows % num_prompts:
    raise ValueError(
        f'gram_RxR has {num_rows} rows, which num_prompts={num_prompts} does '
        'not divide: one row for each prompt'
    )
  if not 0 < top <= 1 or not all(0 <= q <= 1 for q in quantiles):
    raise ValueError(
        f'top={top} and quantiles={tuple(quantiles)} are fractions'
    )
  norms_sq_R = jnp.diagonal(gram_RxR, axis1=-2, axis2=-1)
  norms_sq_KxB = norms_sq_R.reshape(*norms_sq_R.shape[:-1], -1, num_prompts)
  # Rounded first: 0.07 * 100 is a little more than 7.
  count = math.ceil(round(top * num_prompts, 6))
  largest_KxB = jnp.sort(norms_sq_KxB, axis=-1)[..., num_prompts - count :]
  quantiles_QxK = jnp.quantile(norms_sq_KxB, jnp.asarray(quantiles), axis=-1)
  return PromptNorms(
      jnp.moveaxis(quantiles_QxK, 0, -1),
      quotient(largest_KxB.sum(axis=-1), norms_sq_KxB.sum(axis=-1)),
  )
