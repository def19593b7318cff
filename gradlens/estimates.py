"""Estimates: signal and noise of task gradients, from splits of their prompts.

Functions take the Gram matrix of rows of one step, or a mean of them over
steps: products are unbiased, their ratios are not. Average first.
"""

import jax
import jax.numpy as jnp

from gradlens.gram import task_gram


def floor_gram(gram_KxK: jax.Array, floor: float = 0.0) -> jax.Array:
  r"""Raises the eigenvalues of a Gram matrix to a floor.

  A debiased Gram matrix may be indefinite, which no gradients have. The result
  is the nearest matrix (in Frobenius norm) whose eigenvalues are all at least

  .. math:: \text{floor} \cdot \frac{\max(\operatorname{tr} G, 0)}{K}

  Args:
    gram_KxK: `[..., K, K]`, of any scale between 1e-20 and 1e20.
    floor: in units of the mean eigenvalue; 0 makes it positive semidefinite.

  Returns:
    `[..., K, K]`, symmetric, float32.

  Raises:
    ValueError: if `floor` is negative.

  References:
    Higham, Computing a Nearest Symmetric Positive Semidefinite Matrix, 1988

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.floor_gram(jnp.array([[3., 0.], [0., -1.]]), floor=0.5).round(4))
  [[3.  0. ]
   [0.  0.5]]
  """
  if floor < 0:
    raise ValueError(f'floor={floor} must not be negative')
  gram_KxK = jnp.asarray(gram_KxK, jnp.float32)
  # By its largest entry, or squares of 1e20 would overflow.
  largest = jnp.max(jnp.abs(gram_KxK), axis=(-2, -1), keepdims=True)
  scale = jnp.where(largest > 0, largest, 1.0)
  scaled_KxK = gram_KxK / scale
  scaled_KxK = (scaled_KxK + jnp.swapaxes(scaled_KxK, -1, -2)) / 2
  values_K, vectors_KxK = jnp.linalg.eigh(scaled_KxK)
  mean = jnp.mean(values_K, axis=-1, keepdims=True)
  raised_K = jnp.maximum(values_K, floor * jnp.maximum(mean, 0.0))
  product_KxK = jnp.einsum(
      '...ik,...k,...jk->...ij', vectors_KxK, raised_K, vectors_KxK,
      precision=jax.lax.Precision.HIGHEST,
  )
  return product_KxK * scale


def noise_trace(gram_RxR: jax.Array, num_splits: int) -> jax.Array:
  r"""The variance of every task's gradient: the trace of its covariance.

  What the naive squared norm has too much, estimated without bias:

  .. math:: \operatorname{tr} \Sigma_k =
    \text{naive}_{kk} - \text{unbiased}_{kk}

  Args:
    gram_RxR: `[..., R, R]`.
    num_splits: S, 2 or more.

  Returns:
    `[..., K]`; a single value may be negative.

  Raises:
    ValueError: as `task_gram` for the unbiased kind.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.array([[5., 1.], [1., 5.]])    # one task, two noisy halves
  >>> print(gl.noise_trace(gram_RxR, 2))
  [8.]
  """
  return _norms_sq(gram_RxR, num_splits, 'naive') - _norms_sq(
      gram_RxR, num_splits, 'unbiased'
  )


def signal_to_noise(gram_RxR: jax.Array, num_splits: int) -> jax.Array:
  r"""The squared norm of every task's gradient over the variance of it.

  .. math:: \text{SNR}_k =
    \frac{\text{unbiased}_{kk}}{\operatorname{tr} \Sigma_k}

  Below 1, most of a gradient's squared length is noise.

  Args:
    gram_RxR: `[..., R, R]`, best a mean over steps.
    num_splits: S, 2 or more.

  Returns:
    `[..., K]`; NaN where the noise is not above 0.

  Raises:
    ValueError: as `task_gram` for the unbiased kind.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.signal_to_noise(jnp.array([[5., 1.], [1., 5.]]), 2))
  [0.5]
  """
  return _ratio(
      _norms_sq(gram_RxR, num_splits, 'unbiased'),
      noise_trace(gram_RxR, num_splits),
  )


def critical_batch_size(
    gram_RxR: jax.Array, num_splits: int, prompts_per_task: int
) -> jax.Array:
  r"""How many prompts of a task make signal and noise equal.

  The simple noise scale, the variance of one prompt's gradient over the squared
  norm of the mean. With B prompts in the estimate it is

  .. math:: B_k^* = B \cdot
    \frac{\operatorname{tr} \Sigma_k}{\text{unbiased}_{kk}}

  Batches much smaller are mostly noise, and learn in proportion to their size;
  much larger ones gain little.

  Args:
    gram_RxR: `[..., R, R]`, best a mean over steps.
    num_splits: S, 2 or more.
    prompts_per_task: B, of all splits together.

  Returns:
    `[..., K]`, in prompts; NaN where the squared norm is not above 0.

  Raises:
    ValueError: as `task_gram` for the unbiased kind.

  References:
    McCandlish et al., An Empirical Model of Large-Batch Training, 2018,
    arXiv:1812.06162

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.array([[5., 1.], [1., 5.]])
  >>> print(gl.critical_batch_size(gram_RxR, 2, prompts_per_task=16))
  [32.]
  """
  noise_K = noise_trace(gram_RxR, num_splits)
  return prompts_per_task * _ratio(
      noise_K, _norms_sq(gram_RxR, num_splits, 'unbiased')
  )


def prompt_norms(
    gram_RxR: jax.Array, num_prompts: int, quantiles: tuple[float, ...]
) -> tuple[jax.Array, jax.Array]:
  """How a task's squared norms are spread over its prompts, one a split.

  Args:
    gram_RxR: `[K * B, K * B]`, with a row for every prompt.
    num_prompts: B.
    quantiles: between 0 and 1.

  Returns:
    The quantiles of the prompts' own squared norms, `[K, len(quantiles)]`; and
    the share that the largest 1% of the prompts have in their sum, `[K]`. Fewer
    than 100 prompts have no 1%: it is then the share of the largest one.

  Raises:
    ValueError: if `num_prompts` does not divide the rows.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.diag(jnp.array([1., 1., 2., 4.]))
  >>> quantiles_KxQ, top_K = gl.prompt_norms(gram_RxR, 4, (0., 0.5))
  >>> print(quantiles_KxQ, top_K)
  [[1.  1.5]] [0.5]
  """
  num_rows = gram_RxR.shape[-1]
  if num_prompts < 1 or num_rows % num_prompts:
    raise ValueError(
        f'gram_RxR has {num_rows} rows, which num_prompts={num_prompts} does '
        'not divide'
    )
  norms_sq_KxB = jnp.diag(gram_RxR).reshape(-1, num_prompts)
  top = max(1, num_prompts // 100)
  largest_K = jnp.sort(norms_sq_KxB, axis=1)[:, -top:].sum(axis=1)
  return (
      jnp.quantile(norms_sq_KxB, jnp.array(quantiles), axis=1).T,
      _ratio(largest_K, norms_sq_KxB.sum(axis=1)),
  )


def _norms_sq(gram_RxR: jax.Array, num_splits: int, kind: str) -> jax.Array:
  gram_KxK = task_gram(gram_RxR, num_splits, kind)
  return jnp.diagonal(gram_KxK, axis1=-2, axis2=-1)


def _ratio(value: jax.Array, by: jax.Array) -> jax.Array:
  """`value / by`; NaN where `by` is not above 0."""
  return jnp.where(by > 0, value / jnp.where(by > 0, by, 1.0), jnp.nan)
