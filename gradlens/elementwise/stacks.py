"""Stacked gradients in, updates out: what the elementwise corrections share."""

import jax
import jax.numpy as jnp

from gradlens.types import PyTree


def weigh(rows: jax.Array, weights_K: jax.Array) -> jax.Array:
  """One leaf's weighted sum."""
  rows = rows.astype(jnp.float32)
  return jnp.tensordot(weights_K, rows, 1, precision=jax.lax.Precision.HIGHEST)


def stacked_zeros(params: PyTree, num_tasks: int) -> PyTree:
  """K times the shape of the parameters."""
  return jax.tree.map(
      lambda param: jnp.zeros((num_tasks, *jnp.shape(param))), params
  )


def like(updates: PyTree, params: PyTree) -> PyTree:
  """In the dtype of the parameters."""
  return jax.tree.map(
      lambda update, param: update.astype(jnp.result_type(param)),
      updates, params,
  )


def check_rows(
    updates: PyTree, params: PyTree, num_tasks: int, name: str
) -> None:
  """Refuses gradients without a task axis.

  Raises:
    ValueError: naming the leaf; or without `params`.
  """
  if params is None:
    raise ValueError(
        f'{name}() needs the parameters: tx.update(grads, state, params)'
    )

  def check(path, rows, param):
    want = (num_tasks, *jnp.shape(param))
    if jnp.shape(rows) != want:
      raise ValueError(
          f'{name}(): gradient leaf {jax.tree_util.keystr(path)} has shape '
          f'{jnp.shape(rows)}, expected {want}: num_tasks={num_tasks} rows '
          'before the shape of the parameter, as gl.task_value_and_grad gives'
      )

  jax.tree_util.tree_map_with_path(check, updates, params)
