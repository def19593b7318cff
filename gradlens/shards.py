"""Shards: rows and parameters of a tap, spread over the devices of a mesh."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from gradlens.types import PyTree

# A leaf's dimension that is split, or None; of a pytree's leaves in order.
Dims = tuple[int | None, ...]


def _nowhere(path: tuple, leaf: jax.Array) -> None:
  """Every device has all of every leaf."""
  del path, leaf


@dataclasses.dataclass(frozen=True)
class Shards:
  """How the rows and the parameters of a tap lie on the axes of a `shard_map`.

  Rows are spread over one axis, and each row's examples over others; over all
  of these together a parameter is split along one of its dimensions. On the way
  back a row's gradient is summed within its devices, each of which keeps a
  part; then devices exchange these parts, so that each has all rows' gradients
  of its own shard of the parameters. This is as much traffic as the plain
  gradient takes, if each group of devices has one row.

  To be used within `jax.shard_map(..., check_vma=False)` over these axes, with
  gradients taken inside of it. Mesh axes that are not named may be automatic.

  Attributes:
    rows: the axis of rows; None if every device has a part of every row.
    examples: the axes of a row's examples.
    dim: `(path, leaf) -> int | None`, the dimension along which a leaf of the
      block's parameters is split, counted from 0; None where every device has
      all of it.
    dtype: of parameters while they are whole; None is their own.
  """

  rows: str | None = None
  examples: tuple[str, ...] = ()
  dim: Callable[[tuple, jax.Array], int | None] = _nowhere
  dtype: Any = None

  @property
  def axes(self) -> tuple[str, ...]:
    """All axes, in the order in which parameters are split."""
    return (*([] if self.rows is None else [self.rows]), *self.examples)

  @property
  def num_groups(self) -> int:
    """How many groups of devices have rows of their own."""
    return 1 if self.rows is None else jax.lax.axis_size(self.rows)

  def dims(self, params: PyTree) -> Dims:
    """Of all leaves.

    Raises:
      ValueError: a leaf has no such dimension.
    """
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      found.append(self.dim(path, leaf))
      if found[-1] is not None and not 0 <= found[-1] < leaf.ndim:
        raise ValueError(
            f'leaf {jax.tree_util.keystr(path)} of shape {leaf.shape} cannot be'
            f' split along dimension {found[-1]}'
        )
    return tuple(found)

  def gather(self, params: PyTree, dims: Dims) -> PyTree:
    """Whole parameters out of shards.

    Differentiated, the gradient of a shard is summed over all devices, in the
    shard's own dtype.
    """
    axes = _several(self.axes)

    def whole(leaf, dim):
      dtype = leaf.dtype if self.dtype is None else jnp.dtype(self.dtype)
      return _gather(leaf, axes, dim, dtype)

    return _map(whole, dims, params)

  def exchange(self, grads_RxP: PyTree, params: PyTree, dims: Dims) -> PyTree:
    """This device's rows of whole gradients to all rows of its own shard.

    Args:
      grads_RxP: of this device's rows, from its examples.
      params: the shards.
      dims: of these.

    Returns:
      All rows, summed over examples, in the dtype of the shards.
    """

    examples = _several(self.examples)

    def one(grads, param, dim):
      grads = grads.astype(param.dtype)
      if dim is None:
        return self.all_rows(jax.lax.psum(grads, examples))
      # [r, ..., groups, devices of a group, own, ...]
      size = grads.shape[dim + 1] // param.shape[dim] // self.num_groups
      grads = grads.reshape(
          *grads.shape[: dim + 1], self.num_groups, size, -1,
          *grads.shape[dim + 2 :],
      )
      grads = (
          jax.lax.psum_scatter(grads, examples, scatter_dimension=dim + 2)
          if examples else grads.squeeze(dim + 2)
      )
      if self.num_groups > 1:
        grads = jax.lax.all_to_all(
            grads, self.rows, split_axis=dim + 1, concat_axis=0, tiled=True
        )
      return grads.squeeze(dim + 1)

    return _map(one, dims, grads_RxP, params)

  def once(self, grads_RxP: PyTree, dims: Dims) -> PyTree:
    """Zeros instead of what another device has as well."""
    first = self.part == 0
    return _map(
        lambda grads, dim: jnp.where(first, grads, 0) if dim is None else grads,
        dims, grads_RxP,
    )

  @property
  def part(self) -> jax.Array:
    """Which shard of the parameters this device has."""
    axes = _several(self.axes)
    return jax.lax.axis_index(axes) if axes else jnp.int32(0)

  def total(self, tree: PyTree) -> PyTree:
    """Sums over all devices."""
    return jax.lax.psum(tree, _several(self.axes))

  def collect(self, values_R: PyTree) -> PyTree:
    """What each device has of its rows, as all rows of all devices.

    Differentiated, a row's cotangent goes to the devices that have the row, as
    it is: what they add up to is the row's.
    """
    return jax.tree.map(lambda leaf: _collect(leaf, self), values_R)

  def all_rows(self, values_R: jax.Array) -> jax.Array:
    """This device's rows beside those of the others."""
    if self.num_groups == 1:
      return values_R
    return jax.lax.all_gather(values_R, self.rows, axis=0, tiled=True)


def _several(axes: tuple[str, ...]) -> tuple[str, ...]:
  """Axes of more than one device; XLA refuses collectives over one alone."""
  return tuple(axis for axis in axes if jax.lax.axis_size(axis) > 1)


def _map(fn: Callable[..., Any], dims: Dims, *trees: PyTree) -> PyTree:
  """Over leaves, with their dimensions last."""
  treedef = jax.tree.structure(trees[0])
  leaves = zip(*map(jax.tree.leaves, trees), dims, strict=True)
  return treedef.unflatten([fn(*own) for own in leaves])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(
    leaf: jax.Array, axes: tuple[str, ...], dim: int | None, dtype: Any
) -> jax.Array:
  leaf = leaf.astype(dtype)
  if dim is None or not axes:
    return leaf
  return jax.lax.all_gather(leaf, axes, axis=dim, tiled=True)


def _gather_backward(axes, dim, dtype, like, cotangent):
  del dtype
  cotangent = cotangent.astype(like.dtype)
  if not axes:
    return (cotangent,)
  if dim is None:
    return (jax.lax.psum(cotangent, axes),)
  return (jax.lax.psum_scatter(
      cotangent, axes, scatter_dimension=dim, tiled=True
  ),)


_gather.defvjp(
    lambda leaf, axes, dim, dtype: (
        _gather(leaf, axes, dim, dtype), jnp.zeros((), leaf.dtype)
    ),
    _gather_backward,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _collect(leaf: jax.Array, shards: Shards) -> jax.Array:
  return shards.all_rows(jax.lax.psum(leaf, _several(shards.examples)))


def _own_rows(shards: Shards, num_rows: int, cotangent_R: jax.Array) -> tuple:
  if shards.num_groups == 1:
    return (cotangent_R,)
  first = jax.lax.axis_index(shards.rows) * num_rows
  return (jax.lax.dynamic_slice_in_dim(cotangent_R, first, num_rows),)


_collect.defvjp(
    lambda leaf, shards: (_collect(leaf, shards), leaf.shape[0]),
    _own_rows,
)
