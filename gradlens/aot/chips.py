"""Chips: the public figures of a TPU, which estimates are made from."""

from typing import NamedTuple


class Chip(NamedTuple):
  """A chip of a generation.

  Attributes:
    flops: peak FLOP/s of products in bfloat16.
    hbm_bytes: capacity of its memory.
    hbm_bandwidth: bytes a second.
    ici_bandwidth: bytes a second that it sends to all its neighbours together;
      half of the published figure, which has both directions.
  """

  flops: float
  hbm_bytes: float
  hbm_bandwidth: float
  ici_bandwidth: float


# https://docs.cloud.google.com/tpu/docs/v5e, .../v5p and .../v6e, read in
# November 2026. Of capacities that are given in GiB and in GB, the lesser.
CHIPS = dict(
    v5e=Chip(197e12, 16e9, 819e9, 400e9 / 2),
    v5p=Chip(459e12, 95e9, 2765e9, 1200e9 / 2),
    v6e=Chip(918e12, 32e9, 1638e9, 800e9 / 2),
)


def of_topology(name: str) -> Chip:
  """The chip of a slice, as 'v5p:4x4x4'.

  Raises:
    ValueError: a generation without figures.
  """
  generation = name.partition(':')[0]
  if generation not in CHIPS:
    raise ValueError(
        f'--topology={name}: there are figures of {", ".join(CHIPS)}; write it'
        ' as v5e:4x4, v5p:4x4x4 or v6e:8x8.'
    )
  return CHIPS[generation]
