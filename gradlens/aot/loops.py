"""Loops: how often the body of a `while` runs."""

import json
from typing import Any

import numpy as np

from gradlens.aot.hlo import Computation, Program

# What a number goes through unchanged.
_SAME = {'copy', 'bitcast', 'copy-done', 'copy-start', 'convert', 'reshape'}


def _follow(computation: Computation, own: Any) -> Any:
  while own.opcode in _SAME:
    own = computation.operands(own)[0]
  return own


def _number(own: Any) -> int | None:
  """Of an integer constant."""
  if own.opcode != 'constant':
    return None
  found = [
      *own.literal.s32s, *own.literal.s64s, *own.literal.u32s,
      *own.literal.u64s, *np.frombuffer(own.literal.u8s, np.uint8),
  ]
  return int(found[0]) if len(found) == 1 else None


def _parts(
    program: Program, computation: Computation, own: Any, opcode: str
) -> list[Any] | None:
  """Operands of an `opcode`, in a fusion of its own or not."""
  own = _follow(computation, own)
  if own.opcode == 'fusion':
    [inside] = program.called(own)
    root = _follow(inside, inside.root)
    if root.opcode != opcode:
      return None
    given = computation.operands(own)
    return [
        _follow(computation, given[each.parameter_number])
        if each.opcode == 'parameter' else each
        for each in (_follow(inside, one) for one in inside.operands(root))
    ]
  if own.opcode != opcode:
    return None
  return [_follow(computation, each) for each in computation.operands(own)]


def _step(program: Program, body: Computation, place: int) -> int | None:
  """What a loop adds to one of its variables: 0 leaves it as it is."""
  if body.root.opcode != 'tuple':
    return None
  out = _follow(body, body.operands(body.root)[place])

  def is_variable(each):
    return each.opcode == 'get-tuple-element' and each.tuple_index == place

  if is_variable(out):
    return 0
  given = _parts(program, body, out, 'add')
  if given is None or not any(map(is_variable, given)):
    return None
  [other] = [each for each in given if not is_variable(each)] or [None]
  return None if other is None else _number(other)


def trip_count(
    program: Program, computation: Computation, own: Any
) -> int | None:
  """Of a `while`; None where its data decide.

  What the compiler has noted, or else what its condition says: a variable that
  starts at a constant and grows by a constant is less than a constant.
  """
  noted = json.loads(own.backend_config or b'{}').get('known_trip_count')
  if noted:
    return int(noted['n'])
  body, condition = program.called(own)
  order = _order(program, condition)
  given = _parts(program, condition, condition.root, 'compare')
  start = _follow(computation, computation.operands(own)[0])
  if order not in ('LT', 'LE') or given is None or start.opcode != 'tuple':
    return None
  first = computation.operands(start)

  def now(each):
    """A number's value before the loop, and its step."""
    if each.opcode != 'get-tuple-element':
      return _number(each), 0
    value = _number(_follow(computation, first[each.tuple_index]))
    return value, _step(program, body, each.tuple_index)

  (value, step), (limit, change) = map(now, given)
  if value is None or limit is None or change != 0 or not step or step < 0:
    return None
  return max(0, -(-(limit + (order == 'LE') - value) // step))


def _order(program: Program, condition: Computation) -> str:
  root = condition.root
  if root.opcode == 'fusion':
    root = program.called(root)[0].root
  return root.comparison_direction
