"""Residuals: what a block keeps of its forward pass, row by row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
import jax.numpy as jnp

from gradlens.types import PyTree


class _How(NamedTuple):
  """What is not an array of `Kept`; hashable.

  Attributes:
    pull: structure of one row's pullback.
    axes: of its leaves, 0 for rows and None for what they share.
    y: structure and leaves' shapes of one row's result.
  """

  pull: Any
  axes: tuple[int | None, ...]
  y: tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]


@jax.tree_util.register_pytree_node_class
class Kept:
  """The pullbacks of all rows."""

  def __init__(self, leaves: list[jax.Array], how: _How):
    self._leaves, self._how = leaves, how

  def tree_flatten(self) -> tuple[tuple, _How]:
    """For JAX."""
    return (self._leaves,), self._how

  @classmethod
  def tree_unflatten(cls, how: _How, children: tuple) -> 'Kept':
    """For JAX."""
    return cls(*children, how)

  def pull(
      self, dy_R: PyTree, cotangent: Callable[[PyTree, PyTree], PyTree]
  ) -> tuple[PyTree, ...]:
    """Cotangents of the block's arguments, `[R, ...]`.

    Args:
      dy_R: of the block's result.
      cotangent: makes one row's cotangent of `(y, dy)`.
    """
    treedef, shapes = self._how.y
    y = treedef.unflatten(shapes)

    def one_row(leaves, dy):
      pull = self._how.pull.unflatten(leaves)
      return pull(cotangent(y, dy))

    return jax.vmap(one_row, (list(self._how.axes), 0))(self._leaves, dy_R)


def _depends(jaxpr: ClosedJaxpr, on: list[bool]) -> list[bool]:
  """Which results depend on the arguments marked in `on`."""
  marked = {
      var for var, own in zip(jaxpr.jaxpr.invars, on, strict=True) if own
  }

  def depends(atom):
    return not isinstance(atom, Literal) and atom in marked

  for equation in jaxpr.jaxpr.eqns:
    if any(map(depends, equation.invars)):
      marked.update(equation.outvars)
  return [depends(atom) for atom in jaxpr.jaxpr.outvars]


def keep(
    fn: Callable[..., PyTree], axes: tuple, *args: PyTree
) -> tuple[PyTree, Kept]:
  """Runs a block on all rows, and keeps their pullbacks.

  What does not depend on the row, as parameters do not, is kept once.

  Args:
    fn: `fn(*args) -> (y, pull)` of one row, as `jax.vjp`.
    axes: the row axis of each argument, 0 or None.
    *args: of all rows.

  Returns:
    `y_R` and `Kept`.
  """
  flat, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, args))
  flat_axes = [
      axis for axis, arg in zip(axes, args, strict=True)
      for _ in jax.tree.leaves(arg)
  ]
  one_row = treedef.unflatten([
      jax.ShapeDtypeStruct(
          leaf.shape[0 if axis is None else 1 :], leaf.dtype,
          weak_type=leaf.weak_type,
      )
      for leaf, axis in zip(flat, flat_axes, strict=True)
  ])
  jaxpr, (y, pull) = jax.make_jaxpr(fn, return_shape=True)(*one_row)
  shapes, y_treedef = jax.tree.flatten(y)
  rows = _depends(jaxpr, [axis == 0 for axis in flat_axes])
  own_axes = tuple(0 if row else None for row in rows[len(shapes) :])
  out = jax.vmap(
      jaxpr_as_fun(jaxpr), flat_axes, [0] * len(shapes) + list(own_axes)
  )(*flat)
  return y_treedef.unflatten(out[: len(shapes)]), Kept(
      out[len(shapes) :],
      _How(jax.tree.structure(pull), own_axes, (y_treedef, tuple(shapes))),
  )
