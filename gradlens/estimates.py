"""Estimates: what a Gram matrix of noisy rows says about the true gradients."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gradlens.gram import task_gram


def floor_gram(gram_KxK: jax.Array, floor: float = 0.0) -> jax.Array:
  r"""The nearest Gram matrix whose eigenvalues are at least a floor.

  A debiased Gram matrix may be indefinite; that of actual gradients is not.
  With :math:`\tfrac{1}{2}(G + G^\top) = V \operatorname{diag}(\lambda) V^\top`:

  .. math::
    V \operatorname{diag}\big(\max(\lambda,\ \text{floor} \cdot
    \max(\operatorname{tr} G, 0) / K)\big) V^\top

  Computed in units of the largest entry, for gradients of any scale between
  1e-10 and 1e10. Eigenvalues are known up to K times the rounding of float32,
  relative to that entry; closer to the floor than this they stay as they are,
  so that a Gram matrix of actual gradients is returned unchanged, small rows
  beside large ones too.

  Args:
    gram_KxK: `[..., K, K]`.
    floor: the least eigenvalue, in units of the mean eigenvalue.

  Returns:
    `[..., K, K]`, float32, symmetric; positive semidefinite up to rounding,
    with no entry below 0 on the diagonal. Not finite where `gram_KxK` is not.

  Raises:
    ValueError: if the floor is not between 0 and 1.

  References:
    Higham, Computing a nearest symmetric positive semidefinite matrix, 1988

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[1., 3.], [3., 1.]])    # eigenvalues 4 and -2
  >>> print(gl.floor_gram(gram_KxK).round(4))
  [[2. 2.]
   [2. 2.]]
  """
  if not 0 <= floor <= 1:
    raise ValueError(f'floor={floor} must lie between 0 and 1')
  gram_KxK = jnp.asarray(gram_KxK, jnp.float32)
  gram_KxK = (gram_KxK + jnp.swapaxes(gram_KxK, -2, -1)) / 2
  num_tasks = gram_KxK.shape[-1]
  largest = jnp.max(jnp.abs(gram_KxK), axis=(-2, -1), keepdims=True)
  unit = jnp.where(largest > 0, largest, 1.0)
  values_K, vectors_KxK = jnp.linalg.eigh(gram_KxK / unit)
  mean = jnp.mean(values_K, axis=-1, keepdims=True)
  missing_K = floor * jnp.maximum(mean, 0.0) - values_K
  rounding = num_tasks * jnp.finfo(jnp.float32).eps
  added_K = jnp.where(missing_K > rounding, missing_K, 0.0)
  added_KxK = jnp.einsum(
      '...ik,...k,...jk->...ij', vectors_KxK, added_K, vectors_KxK,
      precision=jax.lax.Precision.HIGHEST,
  )
  # Added to the matrix as it came: in units of the largest entry, products of
  # the smallest rows would underflow.
  raised_KxK = gram_KxK + unit * (
      added_KxK + jnp.swapaxes(added_KxK, -2, -1)
  ) / 2
  # Beside a large row, the sign of a small one is below rounding.
  own_KxK = jnp.broadcast_to(jnp.eye(num_tasks, dtype=bool), gram_KxK.shape)
  return jnp.where(own_KxK & (raised_KxK < 0), 0.0, raised_KxK)


def squared_norms(
    gram_RxR: jax.Array, num_splits: int, kind: str = 'unbiased'
) -> jax.Array:
  r"""The squared norm of every task's gradient.

  The diagonal of `task_gram`. In expectation, for independent splits and with
  :math:`\Sigma_k` the covariance of the task's gradient estimate:

  .. math::
    \mathbb{E}\,\text{naive}_k = \|g_k\|^2 + \operatorname{tr} \Sigma_k, \qquad
    \mathbb{E}\,\text{unbiased}_k = \|g_k\|^2

  A single unbiased value may be negative. Its variance falls with the number of
  splits to a limit, at most to half; for normal noise

  .. math::
    \operatorname{Var} \text{unbiased}_k = 4\, g_k^\top \Sigma_k\, g_k
    + \frac{2 S}{S - 1} \operatorname{tr} \Sigma_k^2

  Args:
    gram_RxR: `[..., R, R]`, task-major rows.
    num_splits: S.
    kind: as in `task_gram`.

  Returns:
    `[..., K]`, the dtype of `gram_RxR`.

  Raises:
    ValueError: as `task_gram`; the unbiased one needs two splits.

  References:
    Hoeffding, A Class of Statistics with Asymptotically Normal Distribution,
    1948

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.array([[5., 1.], [1., 5.]])    # one task, two noisy halves
  >>> print(gl.squared_norms(gram_RxR, 2))
  [4.]
  >>> print(gl.squared_norms(gram_RxR, 2, 'naive'))
  [12.]
  """
  gram_KxK = task_gram(gram_RxR, num_splits, kind)
  return jnp.diagonal(gram_KxK, axis1=-2, axis2=-1)


def noise_trace(gram_RxR: jax.Array, num_splits: int) -> jax.Array:
  r"""The trace of the covariance of every task's gradient estimate.

  What the noise adds to the naive squared norm, from the spread of a task's
  rows :math:`g_{ks}` around their mean; unbiased for independent splits:

  .. math::
    \widehat{\operatorname{tr} \Sigma_k}
    = \text{naive}_k - \text{unbiased}_k
    = \frac{S}{S-1} \sum_s \|g_{ks} - \tfrac{1}{S} g_k\|^2

  Args:
    gram_RxR: `[..., R, R]`, task-major rows.
    num_splits: S, two or more.

  Returns:
    `[..., K]`, not below 0, in units of a squared norm. It is known up to
    rounding of the naive squared norm, 1e-7 of it in float32.

  Raises:
    ValueError: as `task_gram`.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.array([[5., 1.], [1., 5.]])    # one task, two noisy halves
  >>> print(gl.noise_trace(gram_RxR, 2))
  [8.]
  """
  naive_K = squared_norms(gram_RxR, num_splits, 'naive')
  return jnp.maximum(naive_K - squared_norms(gram_RxR, num_splits), 0.0)


def snr(gram_RxR: jax.Array, num_splits: int) -> jax.Array:
  r"""The signal-to-noise ratio of every task's gradient estimate, in power.

  .. math:: \text{snr}_k = \text{unbiased}_k / \widehat{\operatorname{tr}
    \Sigma_k}

  At 1 half of the naive squared norm is noise. Of a single step it is a noisy
  ratio: give the mean of Gram matrices over steps.

  Args:
    gram_RxR: `[..., R, R]`, task-major rows.
    num_splits: S, two or more.

  Returns:
    `[..., K]`. Negative where the unbiased squared norm is; NaN where the noise
    trace is not above 0.

  Raises:
    ValueError: as `task_gram`.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.array([[5., 1.], [1., 5.]])
  >>> print(gl.snr(gram_RxR, 2))
  [0.5]
  """
  return quotient(
      squared_norms(gram_RxR, num_splits), noise_trace(gram_RxR, num_splits)
  )


def critical_batch_size(
    gram_RxR: jax.Array, num_splits: int, num_prompts: int | Sequence[int]
) -> jax.Array:
  r"""Every task's critical batch size, in prompts: the simple noise scale.

  .. math::
    B_k = \frac{\operatorname{tr} \Sigma_k^{(1)}}{\|g_k\|^2}
    = \text{num\_prompts}_k \cdot \frac{\widehat{\operatorname{tr} \Sigma_k}}
      {\text{unbiased}_k}

  with :math:`\Sigma_k^{(1)}` the covariance of the gradient of one prompt, its
  completions averaged. Well below it, twice the prompts are worth twice the
  steps; well above, they are worth little. It does not change with the scale of
  the loss, nor with the task's share of it.

  .. warning:: The simple noise scale takes the Hessian for a multiple of the
     identity. It belongs to plain gradient descent, at these parameters, and to
     the gradient of one task alone. Prompts of which all completions have one
     reward count as prompts, with a gradient of zero.

  Args:
    gram_RxR: `[..., R, R]`, task-major rows, of one step or (better) a mean.
    num_splits: S, two or more.
    num_prompts: the prompts of a task in the batch; K of them if they differ.

  Returns:
    `[..., K]`; NaN where the unbiased squared norm is not above 0: then the
    signal was not found, and a larger batch is needed to say how large.

  Raises:
    ValueError: as `task_gram`; and where the splits cannot hold equally many
      prompts, since S does not divide `num_prompts`.

  References:
    McCandlish et al., An Empirical Model of Large-Batch Training, 2018,
    arXiv:1812.06162

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.array([[5., 1.], [1., 5.]])    # norm^2 4, noise trace 8
  >>> print(gl.critical_batch_size(gram_RxR, 2, num_prompts=16))
  [32.]
  """
  noise_K = noise_trace(gram_RxR, num_splits)
  prompts_K = np.asarray(num_prompts)
  if prompts_K.shape not in ((), noise_K.shape[-1:]):
    raise ValueError(
        f'num_prompts has shape {prompts_K.shape} for {noise_K.shape[-1]} tasks'
    )
  if (prompts_K < 1).any() or (prompts_K % num_splits).any():
    raise ValueError(
        f'num_prompts={num_prompts} must be a positive multiple of num_splits='
        f'{num_splits}: splits of unequal size are not one estimate each'
    )
  prompts_K = jnp.broadcast_to(
      jnp.asarray(prompts_K, noise_K.dtype), noise_K.shape
  )
  scale_K = quotient(noise_K, squared_norms(gram_RxR, num_splits))
  return prompts_K * scale_K


def quotient(value: jax.Array, by: jax.Array) -> jax.Array:
  """`value / by`; NaN where `by` is not above 0."""
  return jnp.where(by > 0, value / jnp.where(by > 0, by, 1.0), jnp.nan)
