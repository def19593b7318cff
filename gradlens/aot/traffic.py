"""Traffic: bytes that an instruction reads from HBM and writes to it."""

from typing import Any

from gradlens.aot import collectives
from gradlens.aot.hlo import HBM, Computation, Program, array_bytes, hbm_bytes

_SLICES = {'slice', 'dynamic-slice', 'gather'}
# Which operand is put into another, of which nothing else moves.
_UPDATES = {'dynamic-update-slice': 1, 'scatter': 2}
# Names for what is there, and what is inside of the computations they call.
_NOTHING = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
    'call', 'conditional', 'after-all', 'add-dependency', 'opt-barrier',
    'domain', 'partition-id', 'replica-id', 'async-update',
}
# Custom calls of the compiler's own that move nothing.
FREE = {
    'AllocateBuffer', 'ConcatBitcast', 'AsyncCollectiveStart',
    'AsyncCollectiveDone', 'AssumeGatherIndicesInBound',
    'GatherScatterIndicesBitpacked', 'Sharding', 'SPMDFullToShardShape',
    'SPMDShardToFullShape',
}


def _is_free(own: Any) -> bool:
  return (
      own.opcode in _NOTHING or own.opcode.endswith('-done')
      or (own.opcode == 'custom-call' and own.custom_call_target in FREE)
  )


def _is_in_hbm(shape: Any) -> bool:
  return shape.layout.memory_space == HBM


def _read(program: Program, computation: Computation, given: Any) -> float:
  """Bytes of one array that a fused computation reads."""
  whole, total = array_bytes(given.shape), 0.0
  for user in computation.users[given.id]:
    places = [
        i for i, operand in enumerate(user.operand_ids) if operand == given.id
    ]
    if user.opcode == 'bitcast':
      total += _read(program, computation, user)
    elif user.opcode in _SLICES and places == [0]:
      total += array_bytes(user.shape)
    elif user.opcode in _UPDATES and places == [0]:
      continue
    elif user.opcode == 'fusion':
      [inside] = program.called(user)
      total += sum(
          _read(program, inside, inside.parameters[i]) for i in places
      )
    elif not (_is_free(user) or collectives.kind(user.opcode)):
      return whole
  return min(whole, total)


def _written(
    program: Program, computation: Computation, own: Any, shape: Any
) -> float:
  """Bytes of a fused result; `shape` says where it goes."""
  if own.opcode == 'tuple':
    return sum(
        _written(program, computation, each, part)
        for each, part in zip(
            computation.operands(own), shape.tuple_shapes, strict=True
        )
    )
  if own.opcode == 'bitcast':
    return _written(program, computation, computation.operands(own)[0], shape)
  if own.opcode == 'fusion':
    [inside] = program.called(own)
    return _written(program, inside, inside.root, shape)
  if _is_free(own) or collectives.kind(own.opcode):
    return 0.0
  if own.opcode in _UPDATES:
    update = computation.operands(own)[_UPDATES[own.opcode]]
    return array_bytes(update.shape) if _is_in_hbm(shape) else 0.0
  return hbm_bytes(shape)


def _fused(program: Program, computation: Computation, own: Any) -> float:
  """Of what is computed without going to HBM in between."""
  [inside] = program.called(own)
  shape = own.shape
  if own.opcode == 'async-start':
    shape = shape.tuple_shapes[1]  # beside the operands and a flag
  return _written(program, inside, inside.root, shape) + sum(
      _read(program, inside, parameter)
      for parameter, given in zip(
          inside.parameters, computation.operands(own), strict=True
      )
      if not given.shape.tuple_shapes and _is_in_hbm(given.shape)
  )


def traffic(program: Program, computation: Computation, own: Any) -> float:
  """Bytes that one instruction moves from and to HBM.

  What is in a loop or a branch is not the instruction's own.
  """
  if _is_free(own):
    return 0.0
  if own.opcode in ('fusion', 'async-start'):
    return _fused(program, computation, own)
  given = computation.operands(own)
  out = own.shape
  if own.opcode == 'copy-start':  # to, from
    out = out.tuple_shapes[0]
  if own.opcode in ('all-gather-start', 'collective-permute-start'):
    out = out.tuple_shapes[1]  # beside what goes in
  if own.opcode in _SLICES:
    read = array_bytes(out) if _is_in_hbm(given[0].shape) else 0.0
    return read + hbm_bytes(out)
  if own.opcode in _UPDATES:
    update = given[_UPDATES[own.opcode]]
    written = array_bytes(update.shape) if _is_in_hbm(out) else 0.0
    return hbm_bytes(update.shape) + written
  return hbm_bytes(out) + sum(hbm_bytes(each.shape) for each in given)
