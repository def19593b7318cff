"""Products: floating-point operations of dots, convolutions and attention."""

import functools
import math
from typing import Any, NamedTuple

from gradlens.aot.hlo import Computation, Program, is_float
from gradlens.models.kernels import tiles


class Products(NamedTuple):
  """Floating-point operations of matrix products.

  Attributes:
    flops: all, two for each multiplication.
    attention_flops: those of them in kernels, which the compiler counts as 0.
    passes: all, as often as the unit for bfloat16 goes through them.
  """

  flops: float = 0.0
  attention_flops: float = 0.0
  passes: float = 0.0

  def __add__(self, other: 'Products') -> 'Products':
    return Products(*(a + b for a, b in zip(self, other, strict=True)))


# By xla.PrecisionConfig: float32 as sums of one, two or three of bfloat16.
_PASSES = {0: 1, 1: 3, 2: 6}
_KERNELS = {'splash_mha_fwd': 2, 'splash_mha_dq': 3, 'splash_mha_dkv': 4}


@functools.cache
def _taps(size: int, out: int, window: tuple[int, ...]) -> int:
  """Pairs of an output and a window's place that meet an input."""
  width, stride, low, dilation, base = window
  last = (size - 1) * base
  found = 0
  for k in range(width):
    # Inputs are at multiples of `base`, from 0 to `last`.
    first = k * dilation - low
    places = range(first, first + out * stride, stride)
    if stride % base == 0:
      inside = range(
          max(0, -(first // stride)), min(out, (last - first) // stride + 1)
      )
      found += len(inside) if first % base == 0 else 0
    else:
      found += sum(0 <= p <= last and p % base == 0 for p in places)
  return found


def _convolution(computation: Computation, own: Any) -> float:
  image, kernel = computation.operands(own)
  d = own.convolution_dimension_numbers
  taps = math.prod(
      _taps(image.shape.dimensions[i], own.shape.dimensions[o], (
          w.size, w.stride, w.padding_low, w.window_dilation, w.base_dilation,
      ))
      for i, o, w in zip(
          d.input_spatial_dimensions, d.output_spatial_dimensions,
          own.window.dimensions, strict=True,
      )
  )
  return (
      2 * taps * own.shape.dimensions[d.output_batch_dimension]
      * own.shape.dimensions[d.output_feature_dimension]
      * kernel.shape.dimensions[d.kernel_input_feature_dimension]
  )


def _dot(computation: Computation, own: Any) -> float:
  left = computation.operands(own)[0]
  contracted = own.dot_dimension_numbers.lhs_contracting_dimensions
  return 2 * math.prod(own.shape.dimensions) * math.prod(
      left.shape.dimensions[i] for i in contracted
  )


_RULES = dict(dot=_dot, convolution=_convolution)


def kernel(own: Any) -> str | None:
  """The known kernel that a custom call is."""
  if own.custom_call_target != 'tpu_custom_call':
    return None
  return next((k for k in _KERNELS if k in own.metadata.op_name), None)


def attention(
    name: str, queries: tuple[int, ...], keys: tuple[int, ...]
) -> float:
  """Of a kernel, from shapes `[..., heads, length, width]`.

  Blocks above the diagonal are left out; a sliding window is not known here,
  and counts as none.
  """
  *lead, length, width = queries
  before = keys[-2] - length
  _, rows = tiles(length)
  _, columns = tiles(keys[-2])
  blocks = sum(
      -(-(before + last + 1) // columns)
      for last in range(rows - 1, length, rows)
  )
  return 2 * _KERNELS[name] * math.prod(lead) * (
      blocks * rows * columns * width
  )


def products(
    program: Program, computation: Computation, own: Any
) -> Products:
  """Of one instruction; of a fusion, of all that is fused."""
  if own.opcode == 'fusion':
    return sum(
        (
            products(program, inside, each)
            for inside in program.called(own)
            for each in inside.instructions.values()
        ),
        Products(),
    )
  if own.opcode in _RULES:
    flops = _RULES[own.opcode](computation, own)
    precision = max([*own.precision_config.operand_precision, 0])
    return Products(flops, 0.0, flops * _PASSES[precision])
  if own.opcode == 'custom-call' and kernel(own):
    # Masks and segments are integers.
    queries, keys, *_ = (
        tuple(each.shape.dimensions) for each in computation.operands(own)
        if is_float(each.shape)
    )
    flops = attention(kernel(own), queries, keys)
    return Products(flops, flops, flops)
  return Products()
