"""Sharding: which dimension of each parameter lies on which axis of a mesh.

Every matrix is split along the model's width over all data axes, 'task' and
'fsdp' together, and along heads, the feed-forward or the vocabulary over
'tensor'. Norms, the biases of outputs, and adapters are small: every device has
them whole.
"""

from collections.abc import Sequence
import functools
import math
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    SingleDeviceSharding,
)

import gradlens as gl
from gradlens.models.attention import TENSOR
from gradlens.models.config import DecoderConfig
from gradlens.models.forward import Model

DATA = ('task', 'fsdp')

_IN, _OUT = (0, 1), (1, 0)
# Module and name to (dimension over data, dimension over 'tensor').
_DIMS = {
    ('q', 'kernel'): _IN, ('k', 'kernel'): _IN, ('v', 'kernel'): _IN,
    ('o', 'kernel'): _OUT,
    ('gate', 'kernel'): _IN, ('up', 'kernel'): _IN, ('down', 'kernel'): _OUT,
    ('head', 'kernel'): _IN,
    **{(name, 'bias'): (None, 0) for name in 'qkv'},
}


def _dims(path: tuple) -> tuple[int | None, int | None]:
  """Of one layer's parameter: over data, and over 'tensor'."""
  names = tuple(
      key.key for key in path if isinstance(key, jax.tree_util.DictKey)
  )
  if names[-1:] == ('embedding',):
    return _OUT
  return _DIMS.get(names[-2:], (None, None))


def _dim(path: tuple, leaf: jax.Array) -> int | None:
  del leaf
  return _dims(path)[0]


def shards(model: Model) -> gl.Shards:
  """What the decoder's taps are told."""
  return gl.Shards('task', ('fsdp',), _dim, model.compute.dtype)


def specs(params: Any, *, tensor: bool = True, data: bool = True) -> Any:
  """Of all parameters, or of a part, such as adapters.

  Args:
    params: of the model, or shapes of these.
    tensor: False leaves out the axis 'tensor'.
    data: False leaves out the data axes.
  """

  def spec(path, leaf):
    axes = [None] * leaf.ndim
    stacked = path[0].key == 'layers'
    over_data, over_tensor = _dims(path)
    if data and over_data is not None:
      axes[over_data + stacked] = DATA
    if tensor and over_tensor is not None:
      axes[over_tensor + stacked] = TENSOR
    return PartitionSpec(*axes)

  return jax.tree_util.tree_map_with_path(spec, params)


def specs_like(tree: Any, params: Any, of_params: Any) -> Any:
  """Specs of what holds copies of the parameters, as an optimizer's state.

  What does not end in the path of a parameter, with its shape, is on every
  device.
  """
  known = {
      path: (leaf.shape, spec)
      for (path, leaf), spec in zip(
          jax.tree_util.tree_leaves_with_path(params),
          jax.tree.leaves(of_params), strict=True,
      )
  }
  longest = max(map(len, known))

  def spec(path, leaf):
    for i in range(max(0, len(path) - longest), len(path)):
      shape, found = known.get(path[i:], (None, None))
      if shape == leaf.shape:
        return found
    return PartitionSpec()

  return jax.tree_util.tree_map_with_path(spec, tree)


def shardings(mesh: Mesh | None, of_tree: Any) -> Any:
  """Of specs; everything on the first device where there is no mesh."""
  if mesh is None:
    first = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda spec: first, of_tree)
  return jax.tree.map(functools.partial(NamedSharding, mesh), of_tree)


def make_mesh(
    task: int, fsdp: int, tensor: int, *, num_rows: int,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh over all devices, with as many groups of rows as there can be.

  Rows are spread over 'task' evenly. Where it has more devices than rows, or a
  number that does not divide them, the largest common divisor is taken, and the
  rest goes to 'fsdp': parameters lie on the same devices in either case.

  Args:
    task: devices along 'task'.
    fsdp: along 'fsdp'; -1 is all that the other two leave.
    tensor: along 'tensor'.
    num_rows: R.
    devices: all by default.

  Raises:
    ValueError: the three do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  if fsdp == -1:
    fsdp, rest = divmod(len(devices), task * tensor)
    if rest or not fsdp:
      raise ValueError(
          f"{len(devices)} devices cannot be divided by task x tensor ="
          f' {task} x {tensor}, and fsdp=-1 takes what these leave.'
      )
  if task * fsdp * tensor != len(devices):
    raise ValueError(
        f'a mesh of {task} x {fsdp} x {tensor} = {task * fsdp * tensor}'
        f' devices (task x fsdp x tensor) was asked for, and there are'
        f' {len(devices)}.'
    )
  groups = math.gcd(task, num_rows)
  # Any factors will do: 8 x 8 on a torus of 4 x 4 x 4 as well.
  places = mesh_utils.create_device_mesh(
      (groups, task // groups * fsdp, tensor), devices,
      allow_split_physical_axes=True,
  )
  return Mesh(places, (*DATA, TENSOR), axis_types=(AxisType.Auto,) * 3)


def sampling_mesh(mesh: Mesh, tensor: int) -> Mesh:
  """The same devices, of which `tensor` have a model together.

  Args:
    mesh: from `make_mesh`.
    tensor: along 'tensor', which grows at the cost of 'fsdp'.

  Raises:
    ValueError: the two do not divide so.
  """
  task, fsdp, own = mesh.devices.shape
  more, rest = divmod(tensor, own)
  if rest or fsdp % more:
    raise ValueError(
        f'{tensor} devices cannot sample together on a mesh of {task} x {fsdp}'
        f' x {own} (task x fsdp x tensor): it must be {own} times a number that'
        f' divides {fsdp}.'
    )
  return Mesh(
      mesh.devices.reshape(task, fsdp // more, tensor), mesh.axis_names,
      axis_types=mesh.axis_types,
  )


def check_mesh(mesh: Mesh, config: DecoderConfig, num_prompts: int) -> None:
  """Refuses what the mesh does not divide.

  Args:
    mesh: from `make_mesh`.
    config: of the model.
    num_prompts: of a row, and of a micro-batch of it.

  Raises:
    ValueError: with the size and the number of devices that does not divide it.
  """
  data = mesh.shape['task'] * mesh.shape['fsdp']
  tensor = mesh.shape[TENSOR]
  for name, size, devices, axes in (
      ('hidden_size', config.hidden_size, data, "'task' and 'fsdp'"),
      ('num_key_value_heads', config.num_key_value_heads, tensor, "'tensor'"),
      ('num_attention_heads', config.num_attention_heads, tensor, "'tensor'"),
      ('intermediate_size', config.intermediate_size, tensor, "'tensor'"),
      ('vocab_size', config.vocab_size, tensor, "'tensor'"),
      ('the prompts of a row', num_prompts, mesh.shape['fsdp'],
       "'fsdp' and what rows leave of 'task'"),
  ):
    if size % devices:
      raise ValueError(
          f'{name} = {size} cannot be divided by the {devices} devices of'
          f' {axes}; choose another mesh.'
      )
