"""Needs: what the programs of a config need on a slice."""

import os

import jax
from jax.experimental.compilation_cache import compilation_cache
import ml_collections

from gradlens.aot import chips, figures, programs


def use_no_device() -> None:
  """Nothing runs here, and there is no TPU to ask about itself."""
  jax.config.update('jax_platforms', 'cpu')
  os.environ['TPU_SKIP_MDS_QUERY'] = '1'
  # Others may compile at the same time: no TPU is to be shared.
  os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'
  # A program can be loaded from a cache only where there is its device.
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()


def needs(
    config: ml_collections.ConfigDict, topology: str, *, compare: bool,
    loop_trips: int | None = None,
) -> dict[str, figures.Figures]:
  """What the programs of a config need on a slice.

  Args:
    config: of a run.
    topology: the slice, as 'v5p:4x4x4'.
    compare: with and without the decomposition, not as configured only.
    loop_trips: how often a loop of the step runs whose data decide it.

  Returns:
    'on', 'off' or both, each the figures of a chip.

  Raises:
    ValueError: one sentence on what does not fit together.
  """
  chip = chips.of_topology(topology)
  planned = programs.plan(config, programs.find_devices(topology))
  instrument = config.instrument_every > 0
  wanted = [True, False] if compare else [instrument]
  steps = {
      'on' if each else 'off': figures.of_step(
          programs.compile_step(config, planned, each), planned, chip,
          loop_trips,
      )
      for each in wanted
  }
  sampler = figures.of_sampler(
      programs.compile_sampler(config, planned), config, planned, chip
  )
  return {
      name: step | dict(
          step_fits=step['fits'], sampler=sampler,
          fits=step['fits'] and sampler['fits'],
      )
      for name, step in steps.items()
  }
