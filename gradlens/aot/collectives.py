"""Collectives: what a chip sends to others."""

import math
from typing import Any

from gradlens.aot.hlo import Computation, array_bytes

# What a chip of a group of n sends, of the bytes that it puts in.
_SENT = {
    'all-gather': lambda n: n - 1,
    'all-reduce': lambda n: 2 * (n - 1) / n,
    'reduce-scatter': lambda n: (n - 1) / n,
    'all-to-all': lambda n: (n - 1) / n,
    'ragged-all-to-all': lambda n: (n - 1) / n,
    'collective-broadcast': lambda n: 1,
    'collective-permute': lambda n: 1,
}


def kind(opcode: str) -> str | None:
  """Which collective an opcode is, or begins."""
  name = opcode.removesuffix('-start')
  return name if name in _SENT else None


def starts(computation: Computation, own: Any) -> bool:
  """Whether a collective starts here.

  One that is fused into products that run beside it is in each of these too,
  and where it ends.
  """
  return b'async_collective_fusion_config' not in own.backend_config or any(
      each.custom_call_target == 'AsyncCollectiveStart'
      for each in computation.instructions.values()
  )


def group_size(own: Any, num_devices: int) -> int:
  """Devices that a collective is among."""
  if own.HasField('mesh_axes_replica_group_list'):
    groups = own.mesh_axes_replica_group_list
    return math.prod(
        axis.sub_axis_info.size if axis.HasField('sub_axis_info')
        else groups.mesh.axes[axis.mesh_axis_index].size
        for axis in groups.axes
    )
  if own.HasField('iota_collective_device_list'):
    return own.iota_collective_device_list.num_devices_per_group
  listed = own.collective_device_list
  if listed.HasField('iota_replica_group_list'):
    return listed.iota_replica_group_list.num_devices_per_group
  groups = listed.replica_groups or own.replica_groups
  return len(groups[0].replica_ids) if groups else num_devices


def sent(
    computation: Computation, own: Any, num_devices: int
) -> tuple[str, float]:
  """Kind of a collective, and the bytes that a chip sends."""
  name = kind(own.opcode)
  users = computation.users[own.id]
  if name == 'all-reduce' and computation.root.opcode == 'dynamic-slice' and (
      [user.id for user in users] == [computation.root.id]
  ):
    name = 'reduce-scatter'  # fused into one, where this is all there is
  size = sum(array_bytes(each.shape) for each in computation.operands(own))
  return name, _SENT[name](group_size(own, num_devices)) * size
