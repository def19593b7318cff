"""Placement: where state and rows lie on a mesh, and who computes what.

Rows lie over 'task', and their prompts over 'fsdp'.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from gradlens import models

# (params, frozen, row_R, *rest) -> (values, grads, grams)
Local = Callable[..., tuple]


def row_specs(row: Any, num_micro_batches: int | None) -> Any:
  """Of a `Row`, `[R, ...]`, or `[M, R, ...]` of micro-batches."""
  lead = [None] if num_micro_batches else []

  def spec(leaf):
    return PartitionSpec(*lead, *models.DATA[: leaf.ndim - len(lead)])

  return jax.tree.map(spec, row)


def on_mesh(
    mesh: Mesh | None, local: Local, num_micro_batches: int | None
) -> Local:
  """What one device computes of its rows and shards, on all of a mesh."""
  if mesh is None:
    return local

  def run(params, frozen, row, *rest):
    own = models.specs(params, tensor=False)
    return jax.shard_map(
        local, mesh=mesh,
        in_specs=(
            own, models.specs(frozen, tensor=False),
            row_specs(row, num_micro_batches),
            *[PartitionSpec()] * len(rest),
        ),
        out_specs=(PartitionSpec(), own, PartitionSpec()),
        axis_names={*models.DATA}, check_vma=False,
    )(params, frozen, row, *rest)

  return run


def of_rows(
    mesh: Mesh | None, local: Callable[[Any, Any], jax.Array]
) -> Callable[[Any, Any], jax.Array]:
  """`local(params, parts)`, an array `[M, R, B, ...]`, on all of a mesh."""
  if mesh is None:
    return local

  def run(params, parts_MxR):
    return jax.shard_map(
        local, mesh=mesh,
        in_specs=(
            models.specs(params, tensor=False), row_specs(parts_MxR, 1)
        ),
        out_specs=PartitionSpec(None, *models.DATA),
        axis_names={*models.DATA}, check_vma=False,
    )(params, parts_MxR)

  return run


def stacked_specs(params: Any, num_axes: int = 1) -> Any:
  """Of rows' gradients, which lead with axes of rows: as their parameters."""
  return jax.tree.map(
      lambda spec: PartitionSpec(*[None] * num_axes, *spec),
      models.specs(params),
  )


def stacked(mesh: Mesh | None, grads_RxP: Any, params: Any) -> Any:
  """Rows' gradients of a compiled step, to where their parameters are.

  First among the devices of a row, which exchange shards then; otherwise the
  compiler gathers all gradients whole.
  """
  of_rows = jax.tree.map(
      lambda spec: PartitionSpec(
          'task', *('fsdp' if axes == models.DATA else axes for axes in spec)
      ),
      models.specs(params),
  )
  grads_RxP = constrain(grads_RxP, mesh, of_rows)
  return constrain(grads_RxP, mesh, stacked_specs(params))


def state_specs(state: Any) -> Any:
  """Of a `TrainState`: moments where their parameters are."""
  params = models.specs(state.params)
  return state._replace(
      params=params,
      opt_state=models.specs_like(state.opt_state, state.params, params),
      key=PartitionSpec(), frozen=models.specs(state.frozen),
      reference=models.specs(state.reference),
  )


def constrain(tree: Any, mesh: Mesh | None, specs: Any) -> Any:
  """Keeps arrays of a compiled step where they belong."""
  if mesh is None:
    return tree
  return jax.lax.with_sharding_constraint(tree, models.shardings(mesh, specs))
