"""Count: what a compiled program does on one chip, loops included."""

import collections
from typing import Any, NamedTuple

from gradlens.aot import collectives
from gradlens.aot.chips import Chip
from gradlens.aot.hlo import Computation, Program
from gradlens.aot.loops import trip_count
from gradlens.aot.products import Products, kernel, products
from gradlens.aot.traffic import FREE, traffic


class Counts(NamedTuple):
  """Of one chip.

  Attributes:
    products: matrix products.
    hbm_traffic: bytes read from HBM and written to it.
    busy_seconds: each instruction at the peak rate of what bounds it, one after
      the other.
    collectives: how many there are of each kind.
    sent: bytes that the chip sends, by kind.
    uncounted: custom calls of which nothing is known but their bytes.
  """

  products: Products = Products()
  hbm_traffic: float = 0.0
  busy_seconds: float = 0.0
  collectives: collections.Counter = collections.Counter()
  sent: collections.Counter = collections.Counter()
  uncounted: collections.Counter = collections.Counter()

  def __add__(self, other: 'Counts') -> 'Counts':
    return Counts(*(a + b for a, b in zip(self, other, strict=True)))

  def times(self, n: int) -> 'Counts':
    """Of n runs."""
    return Counts(
        Products(*(n * a for a in self.products)), n * self.hbm_traffic,
        n * self.busy_seconds,
        *(
            collections.Counter({key: n * a for key, a in own.items()})
            for own in (self.collectives, self.sent, self.uncounted)
        ),
    )

  def network_seconds(self, chip: Chip) -> float:
    """At the rate at which the chip sends."""
    return sum(self.sent.values()) / chip.ici_bandwidth

  def seconds(self, chip: Chip) -> float:
    """An estimate from below: one of the two wholly behind the other."""
    return max(self.busy_seconds, self.network_seconds(chip))


def _uncounted(program: Program, own: Any) -> collections.Counter:
  if own.opcode == 'fusion':
    return sum(
        (
            _uncounted(program, each)
            for inside in program.called(own)
            for each in inside.instructions.values()
        ),
        collections.Counter(),
    )
  if own.opcode != 'custom-call' or own.custom_call_target in FREE:
    return collections.Counter()
  name = own.metadata.op_name.rpartition('/')[0].rpartition('/')[2]
  return collections.Counter(
      [] if kernel(own) else [f'{own.custom_call_target} {name}'.strip()]
  )


def _communication(
    program: Program, computation: Computation, own: Any, num_devices: int
) -> list[tuple[str, float]]:
  """The collectives that an instruction starts."""
  if own.opcode in ('fusion', 'async-start'):
    return [
        found for inside in program.called(own)
        for each in inside.instructions.values()
        for found in _communication(program, inside, each, num_devices)
    ]
  if collectives.kind(own.opcode) and collectives.starts(computation, own):
    return [collectives.sent(computation, own, num_devices)]
  return []


def _of_instruction(
    program: Program, computation: Computation, own: Any, chip: Chip
) -> Counts:
  done = products(program, computation, own)
  moved = traffic(program, computation, own)
  return Counts(
      done, moved,
      max(done.passes / chip.flops, moved / chip.hbm_bandwidth),
      uncounted=_uncounted(program, own),
  )


def count(
    program: Program, chip: Chip, num_devices: int, data_trips: int | None
) -> Counts:
  """What a chip does in one run.

  Args:
    program: from `hlo.of_compiled`.
    chip: whose rates the times are from.
    num_devices: all that it runs on.
    data_trips: how often a loop runs whose data decide when it ends; None
      refuses such a loop.

  Raises:
    ValueError: there is such a loop.
  """

  def of_while(computation, own):
    trips = trip_count(program, computation, own)
    if trips is None:
      trips = data_trips
    if trips is None:
      raise ValueError(
          f'its data decide how often the loop {own.metadata.op_name!r} runs;'
          ' say how often with --loop_trips.'
      )
    body, condition = program.called(own)
    return of_computation(body).times(trips) + (
        of_computation(condition).times(trips + 1)
    )

  def of_branches(computation, own):
    del computation
    return max(
        map(of_computation, program.called(own)), key=lambda c: c.busy_seconds
    )

  def of_call(computation, own):
    del computation
    return sum(map(of_computation, program.called(own)), Counts())

  rules = {'while': of_while, 'conditional': of_branches, 'call': of_call}
  known = {}

  def of_computation(computation):
    if computation.name in known:
      return known[computation.name]
    total = Counts()
    for own in computation.instructions.values():
      if own.opcode in rules:
        total += rules[own.opcode](computation, own)
        continue
      total += _of_instruction(program, computation, own, chip)
      for kind, size in _communication(
          program, computation, own, num_devices
      ):
        total += Counts(
            collectives=collections.Counter([kind]),
            sent=collections.Counter({kind: size}),
        )
    known[computation.name] = total
    return total

  return of_computation(program.entry)
