"""State of a correction: what it saw and did in the last step."""

from typing import NamedTuple

import jax

from gradlens.types import PyTree


class CorrectState(NamedTuple):
  """State of `correct`, with one structure from `init` on.

  With `blocks`, the first four hold a dict by block; in a stacked block every
  array has a leading axis of layers.

  Attributes:
    gram_RxR: the last step's Gram matrix of rows, float32; the rows and columns
      of a skipped task are zero.
    gram_KxK: that of tasks, which the weighting saw, float32.
    weights_K: the weights that were applied, float32; ones before any step.
      With `apply='lagged'`, those that the next step will apply.
    weighting_state: the weighting's own state.
    skipped_K: in how many steps a task was skipped in some block, int32.
  """

  gram_RxR: PyTree
  gram_KxK: PyTree
  weights_K: PyTree
  weighting_state: PyTree
  skipped_K: jax.Array


def task_weights(state: PyTree) -> PyTree:
  """The weights that `correct` last applied, from any optax state around it.

  Args:
    state: the state of a transformation with one or more `correct` in it.

  Returns:
    The `weights_K` of the one `CorrectState`, a dict by block if it has blocks;
    of several, `{path in the state: weights}`.

  Raises:
    ValueError: if there is none.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> import gradlens as gl
  >>> tx = optax.chain(gl.correct(gl.mean(), num_tasks=2), optax.adam(1e-3))
  >>> print(gl.task_weights(tx.init(jnp.zeros(3))))    # before any step
  [1. 1.]
  """
  found = {
      path: node.weights_K for path, node in correct_states(state).items()
  }
  return found if len(found) > 1 else next(iter(found.values()))


def correct_states(state: PyTree) -> dict[str, CorrectState]:
  """Every `CorrectState` in an optax state, by its path; at least one."""
  found = {
      jax.tree_util.keystr(path): node
      for path, node in jax.tree_util.tree_leaves_with_path(
          state, is_leaf=is_correction
      )
      if is_correction(node)
  }
  if not found:
    raise ValueError('this is the state of a transformation without gl.correct')
  return found


def is_correction(node: PyTree) -> bool:
  """Whether a node of an optax state is that of `correct`."""
  return isinstance(node, CorrectState)
