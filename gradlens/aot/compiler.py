"""Compiler: what it makes of a program, or says of memory that it lacks."""

import logging
import re
import time
from typing import Any, NamedTuple

import jax

_log = logging.getLogger(__name__)


class Compiled(NamedTuple):
  """A program for the slice.

  Attributes:
    program: what the compiler gave.
    seconds: that it took.
  """

  program: Any
  seconds: float


class Refused(NamedTuple):
  """What the compiler found no memory for.

  Attributes:
    hbm_bytes: that are needed, on one device.
    hbm_limit: that there are.
    with_arguments: whether these are in it.
    largest: bytes and shape of the largest arrays.
    seconds: that it took to say so.
  """

  hbm_bytes: float
  hbm_limit: float
  with_arguments: bool
  largest: list[tuple[float, str]]
  seconds: float


# As 'Used 17.2G of 15.75G hbm', and 'HLO temporaries (16.18G) exceeds'; then
# 'Size: 2.30G', and what it is.
_USED = re.compile(
    r'(Used |temporaries \()([\d.]+)([KMGT]?)\b(?:.*?of|.*?\()\s*([\d.]+)'
    r'([KMGT]?)'
)
_LARGEST = re.compile(
    r'Size: ([\d.]+)([KMGT]?)\b.*?Shape: (\S+?\[[\d,]*\])', re.S
)
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def refusal(message: str, seconds: float) -> Refused | None:
  """What a compiler's error says about memory; None where it says nothing."""
  used = _USED.search(message)
  if 'RESOURCE_EXHAUSTED' not in message or used is None:
    return None
  what, need, need_unit, limit, limit_unit = used.groups()
  largest = [
      (float(size) * _UNITS[unit], shape)
      for size, unit, shape in _LARGEST.findall(message)
  ]
  return Refused(
      float(need) * _UNITS[need_unit], float(limit) * _UNITS[limit_unit],
      what == 'Used ', largest[:5], seconds,
  )


def ask(traced: Any, name: str) -> Compiled | Refused:
  """Has a traced program compiled; `name` is for the log."""
  start = time.perf_counter()
  try:
    program = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    found = refusal(str(error), time.perf_counter() - start)
    if found is None:
      raise
    return found
  seconds = time.perf_counter() - start
  _log.info('compiled %s in %.0f s', name, seconds)
  return Compiled(program, seconds)
