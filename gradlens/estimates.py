"""Estimates: what a Gram matrix of noisy rows says about the true gradients."""

import jax
import jax.numpy as jnp


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
