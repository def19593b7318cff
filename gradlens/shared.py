"""Shared: a leaf of one tap that others read, and the way back to its owner."""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from gradlens.shards import Dims
from gradlens.types import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shared:
  """A leaf that a block owns, and that other blocks read.

  Attributes:
    leaf: the parameter, for the other blocks.
    handle_RxP: zeros that nothing reads; the way back of the rows' gradients.
    dims: along which its leaves are split over devices (see `Shards`).
  """

  leaf: PyTree
  handle_RxP: PyTree
  dims: Dims = dataclasses.field(default=(), metadata=dict(static=True))


def share_leaf(
    owns: Callable[[PyTree], PyTree], params: PyTree, num_rows: int | None,
    dims: Dims,
) -> Shared:
  """What a block hands to others; with a handle, if rows are asked for."""
  leaf, handle_RxP = owns(params), None
  if num_rows is not None:
    handle_RxP = jax.tree.map(
        lambda a: jnp.zeros((num_rows, *a.shape), a.dtype), leaf
    )
  treedef = jax.tree.structure(params)
  if dims:
    picked = owns(treedef.unflatten(range(treedef.num_leaves)))
    dims = tuple(dims[i] for i in jax.tree.leaves(picked))
  return Shared(leaf, handle_RxP, dims)
