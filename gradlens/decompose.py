"""Decomposition: one gradient per task, by `vmap` over the task axis."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def task_value_and_grad(
    loss_fn: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    in_axes: int | None | Sequence[Any] = 0,
    batch_size: int | None = None,
    spmd_axis_name: str | None = None,
) -> Callable[..., Any]:
  """`jax.value_and_grad` of every task's loss at the same parameters.

  The task axis may as well hold rows, (task, split) pairs, R = K * S of them.
  For gradients that are contributions, `loss_fn` returns a task's part of the
  batch loss, such as its summed loss over the token count of the whole batch.

  Args:
    loss_fn: `loss_fn(params, *batch) -> loss` of one task, a scalar; with
      `has_aux`, `(loss, aux)`.
    argnums: the argument(s) to differentiate, shared by all tasks.
    has_aux: as in `jax.value_and_grad`.
    in_axes: where the other arguments have their task axis, as in `jax.vmap`:
      an int, None for an argument that all tasks share, or a sequence of those
      or of matching pytrees, one for each argument not in `argnums`.
    batch_size: how many tasks run at a time, as in `jax.lax.map`; None runs all
      at once.
    spmd_axis_name: the mesh axis of the task axis, as in `jax.vmap`.

  Returns:
    A function of `loss_fn`'s arguments that returns `(losses_K, grads_KxP)`, or
    `((losses_K, aux_K), grads_KxP)`: every leaf with a leading task axis.

  Raises:
    ValueError: with both `batch_size` and `spmd_axis_name`; when called, if
      task axes differ in length, or no argument has one.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> def loss_fn(w, x):
  ...   return jnp.sum(w * x)
  >>> f = gl.task_value_and_grad(loss_fn)
  >>> x_KxN = jnp.array([[1., 0.], [3., 4.]])
  >>> losses_K, grads_KxP = f(jnp.array([1., 2.]), x_KxN)
  >>> print(losses_K)
  [ 1. 11.]
  >>> print(grads_KxP)
  [[1. 0.]
   [3. 4.]]
  """
  if batch_size is not None and spmd_axis_name is not None:
    raise ValueError(
        f'batch_size={batch_size} runs tasks one group after the other, '
        f'spmd_axis_name={spmd_axis_name!r} lays them across devices: use one'
    )
  value_and_grad = jax.value_and_grad(loss_fn, argnums, has_aux)

  def value_and_grad_fn(*args):
    axes = _leaf_axes(args, argnums, in_axes)
    _check_task_axes(args, axes)
    leaves, treedef = jax.tree.flatten(args)
    # None is no leaf to vmap and lax.map: those are read from the closure.
    mapped = [
        None if axis is None else jnp.moveaxis(leaf, axis, 0)
        for leaf, axis in zip(leaves, axes, strict=True)
    ]

    def one_task(mapped):
      own = [
          leaf if of_task is None else of_task
          for leaf, of_task in zip(leaves, mapped, strict=True)
      ]
      return value_and_grad(*treedef.unflatten(own))

    if batch_size is None:
      return jax.vmap(one_task, spmd_axis_name=spmd_axis_name)(mapped)
    return jax.lax.map(one_task, mapped, batch_size=batch_size)

  return value_and_grad_fn


def _leaf_axes(
    args: tuple, argnums: int | Sequence[int], in_axes: Any
) -> list[int | None]:
  """The task axis of every leaf of `args`, in tree order; None if shared."""
  argnums = (argnums,) if isinstance(argnums, int) else argnums
  shared = {argnum % len(args) for argnum in argnums}
  others = [i for i in range(len(args)) if i not in shared]
  if in_axes is None or isinstance(in_axes, int):
    in_axes = [in_axes] * len(others)
  if len(in_axes) != len(others):
    raise ValueError(
        f'in_axes has {len(in_axes)} entries for the {len(others)} arguments '
        'that are not in argnums'
    )
  axes = dict.fromkeys(range(len(args)))
  axes.update(zip(others, in_axes, strict=True))

  def spread(axis, subtree):
    return [axis] * len(jax.tree.leaves(subtree))

  def is_none(node):
    return node is None

  spreads = [
      jax.tree.map(spread, axes[i], arg, is_leaf=is_none)
      for i, arg in enumerate(args)
  ]
  return jax.tree.leaves(spreads, is_leaf=is_none)


def _check_task_axes(args: tuple, axes: list[int | None]) -> None:
  """All task axes have one length; the error names the leaf that has not."""
  first = None
  leaves = jax.tree_util.tree_leaves_with_path(args)
  for (path, leaf), axis in zip(leaves, axes, strict=True):
    if axis is None:
      continue
    shape = jnp.shape(leaf)
    name = f'args{jax.tree_util.keystr(path)}'
    if not -len(shape) <= axis < len(shape):
      raise ValueError(f'{name} of shape {shape} has no task axis {axis}')
    first = first or (name, shape[axis])
    if shape[axis] != first[1]:
      raise ValueError(
          f'{name} of shape {shape} has {shape[axis]} tasks on axis {axis}, '
          f'but {first[0]} has {first[1]}'
      )
  if first is None:
    raise ValueError('no argument has a task axis: give one outside argnums')
