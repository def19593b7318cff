"""Partition: a flat batch with task ids becomes a task-major batch."""

import jax
import jax.numpy as jnp
import numpy as np

from gradlens.types import PyTree


def partition(
    batch_N: PyTree, task_N: jax.Array, *, num_tasks: int, size: int
) -> tuple[PyTree, jax.Array]:
  """Sorts a flat batch into one row of `size` slots per task.

  The order within a task is that of the batch. Slots that no example fills hold
  zeros and are False in the mask. Jittable: under `jax.jit` an example beyond a
  task's `size`, or with an id outside [0, num_tasks), is dropped, and
  `N - mask_KxB.sum()` counts those.

  Args:
    batch_N: a pytree of arrays with N examples on the leading axis.
    task_N: integers, the task of each example.
    num_tasks: K.
    size: B, the slots of each task.

  Returns:
    `batch_KxB`, leaves `[K, B, ...]` of unchanged dtype, and `mask_KxB`, bool.

  Raises:
    ValueError: outside jit, if a task has more than `size` examples or an id is
      out of range; always, if a leaf's leading axis is not N.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> batch_KxB, mask_KxB = gl.partition(
  ...     jnp.array([10, 11, 12]), jnp.array([1, 0, 1]), num_tasks=2, size=2)
  >>> print(batch_KxB)
  [[11  0]
   [10 12]]
  >>> print(mask_KxB)
  [[ True False]
   [ True  True]]
  """
  task_N = jnp.asarray(task_N)
  if not jnp.issubdtype(task_N.dtype, jnp.integer) or task_N.ndim != 1:
    raise ValueError(
        'task_N must be one integer per example, got '
        f'{task_N.dtype}{list(task_N.shape)}'
    )
  num_examples = task_N.size
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch_N):
    if jnp.shape(leaf)[:1] != (num_examples,):
      raise ValueError(
          f'batch_N{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, '
          f'but task_N names {num_examples} examples'
      )
  if not isinstance(task_N, jax.core.Tracer):
    _check_fits(np.asarray(task_N), num_tasks, size)

  # The slot of an example is the number of earlier ones of its task.
  member_NxK = task_N[:, None] == jnp.arange(num_tasks)[None, :]
  rank_N = jnp.sum(jnp.cumsum(member_NxK, axis=0) * member_NxK, axis=1) - 1
  kept_N = member_NxK.any(axis=1) & (rank_N < size)
  nowhere = num_tasks * size
  slot_N = jnp.where(kept_N, task_N * size + rank_N, nowhere)
  source = jnp.full(nowhere, num_examples, jnp.int32)
  source = source.at[slot_N].set(jnp.arange(num_examples), mode='drop')
  source_KxB = source.reshape(num_tasks, size)

  def take(leaf_N):
    return jnp.asarray(leaf_N).at[source_KxB].get(mode='fill', fill_value=0)

  return jax.tree.map(take, batch_N), source_KxB < num_examples


def _check_fits(task_N: np.ndarray, num_tasks: int, size: int) -> None:
  strangers = np.flatnonzero((task_N < 0) | (task_N >= num_tasks))
  if strangers.size:
    raise ValueError(
        f'task_N[{strangers[0]}] is {task_N[strangers[0]]}, outside '
        f'[0, num_tasks={num_tasks})'
    )
  counts_K = np.bincount(task_N, minlength=num_tasks)
  for task, count in enumerate(counts_K):
    if count > size:
      raise ValueError(
          f'task {task} has {count} examples and size={size} slots; examples '
          f'per task: {counts_K.tolist()}'
      )
