"""Proxies: which block of the parameters stands for the whole gradient."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def rank_correlation(x: jax.Array, y: jax.Array) -> jax.Array:
  r"""Spearman's rank correlation over the last axis; equal values share ranks.

  Args:
    x: `[..., N]`.
    y: `[..., N]`.

  Returns:
    `[...]`, between -1 and 1; NaN where one of them is constant.

  References:
    Spearman, The Proof and Measurement of Association between Two Things, 1904

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.rank_correlation(
  ...     jnp.array([1., 2., 3.]), jnp.array([10., 30., 20.])).round(4))
  0.5
  """

  def centered_ranks(values):
    below = values[..., None, :] < values[..., :, None]
    equal = values[..., None, :] == values[..., :, None]
    ranks = below.sum(axis=-1) + (equal.sum(axis=-1) - 1) / 2
    return ranks - ranks.mean(axis=-1, keepdims=True)

  x, y = centered_ranks(x), centered_ranks(y)
  products = jnp.sum(x * y, axis=-1)
  lengths = jnp.sqrt(jnp.sum(x**2, axis=-1) * jnp.sum(y**2, axis=-1))
  defined = lengths > 0
  return jnp.where(defined, products / jnp.where(defined, lengths, 1), jnp.nan)


def block_proxies(
    norms_sq: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """How faithfully each block ranks the tasks' squared norms, over steps.

  Which block could stand for the whole gradient? The rank correlation, task by
  task over the steps, of a block's squared norms with the sum over all blocks.

  Args:
    norms_sq: by block, `[T, K]` of T steps, unbiased where there are splits.

  Returns:
    By block, `[K]`.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> norms_sq = {'a': jnp.array([[1.], [2.], [9.]]),
  ...             'b': jnp.array([[1.], [3.], [2.]])}
  >>> proxies = gl.block_proxies(norms_sq)
  >>> print(proxies['a'].round(2), proxies['b'].round(2))
  [1.] [0.5]
  """
  whole_TxK = sum(norms_sq.values())
  return {
      name: rank_correlation(own_TxK.T, whole_TxK.T)
      for name, own_TxK in norms_sq.items()
  }
