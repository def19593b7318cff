"""HLO: a compiled program in the compiler's own structured form."""

from collections.abc import Iterator
import math
import re
from typing import Any, NamedTuple

from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

HBM = 0  # where a TPU keeps what is not said to be anywhere else


class Computation(NamedTuple):
  """A list of instructions.

  Attributes:
    name: of the compiler.
    instructions: by number.
    users: of each, those that it is an operand of.
    root: what it returns.
    parameters: in their order.
  """

  name: str
  instructions: dict[int, Any]
  users: dict[int, list[Any]]
  root: Any
  parameters: list[Any]

  def operands(self, instruction: Any) -> list[Any]:
    """What an instruction is given."""
    return [self.instructions[i] for i in instruction.operand_ids]


class Program(NamedTuple):
  """All computations, by number, and the one that is run."""

  computations: dict[int, Computation]
  entry: Computation

  def called(self, instruction: Any) -> list[Computation]:
    """The computations that an instruction names."""
    return [self.computations[i] for i in instruction.called_computation_ids]


def _computation(proto: Any) -> Computation:
  instructions = {own.id: own for own in proto.instructions}
  users = {i: [] for i in instructions}
  for own in proto.instructions:
    for i in set(own.operand_ids):
      users[i].append(own)
  parameters = [o for o in proto.instructions if o.opcode == 'parameter']
  return Computation(
      proto.name, instructions, users, instructions[proto.root_id],
      sorted(parameters, key=lambda own: own.parameter_number),
  )


def read(serialized: bytes) -> Program:
  """From a serialized `HloModuleProto`."""
  module = hlo_pb2.HloModuleProto.FromString(serialized)
  computations = {own.id: _computation(own) for own in module.computations}
  return Program(computations, computations[module.entry_computation_id])


def of_compiled(compiled: Any) -> Program:
  """Of what `jax.jit(f).lower(...).compile()` gives."""
  [module] = compiled.runtime_executable().hlo_modules()
  return read(module.as_serialized_hlo_module_proto())


def leaves(shape: Any) -> Iterator[Any]:
  """The arrays of a shape."""
  if shape.tuple_shapes:
    for own in shape.tuple_shapes:
      yield from leaves(own)
  else:
    yield shape


def _item_bytes(element_type: int) -> float:
  name = xla_data_pb2.PrimitiveType.Name(element_type)
  if name == 'PRED':
    return 1
  bits = re.match(r'[A-Z]+(\d+)', name)  # F32, BF16, F8E4M3FN; not TOKEN
  return int(bits[1]) / 8 if bits else 0


def is_float(shape: Any) -> bool:
  """Whether an array is of floating-point numbers."""
  name = xla_data_pb2.PrimitiveType.Name(shape.element_type)
  return name.startswith(('F', 'BF'))


def array_bytes(shape: Any) -> float:
  """Of all arrays of a shape, wherever they are."""
  return sum(
      math.prod(own.dimensions) * _item_bytes(own.element_type)
      for own in leaves(shape)
  )


def hbm_bytes(shape: Any) -> float:
  """Of those that are in HBM."""
  return sum(
      array_bytes(own) for own in leaves(shape)
      if own.layout.memory_space == HBM
  )
