"""Figures: what was compiled as numbers, and these as text."""

import math
from typing import Any

import jax

from gradlens import rollout
from gradlens.aot import hlo
from gradlens.aot.chips import Chip
from gradlens.aot.compiler import Compiled, Refused
from gradlens.aot.count import Counts, count
from gradlens.aot.programs import Planned, requests
from gradlens.rollout.memory import gathered_bytes

Figures = dict[str, Any]
Largest = list[tuple[float, str]]


def _held(shapes: Any) -> float:
  """Bytes of a device's shards."""
  return float(sum(
      math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize
      for a in jax.tree.leaves(shapes)
  ))


def _largest_arrays(shapes: Any) -> Largest:
  """Of a device's shards, by the names of the whole arrays."""
  named = [
      (_held(leaf), f'{jax.tree_util.keystr(path)} {leaf.dtype}{leaf.shape}')
      for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  ]
  return sorted(named, reverse=True)[:5]


def _memory(
    found: Compiled | Refused, chip: Chip, arguments: float, beside: float,
    known: Largest,
) -> Figures:
  """HBM of a device, with what lies there beside the program's own.

  `known` stands in where the compiler does not say which arrays are large.
  """
  if isinstance(found, Refused):
    need = found.hbm_bytes + beside + (
        0 if found.with_arguments else arguments
    )
    own = dict(largest=found.largest or known)
  else:
    m = found.program.memory_analysis()
    need = beside + (
        m.argument_size_in_bytes + m.output_size_in_bytes
        - m.alias_size_in_bytes + m.temp_size_in_bytes
        + m.generated_code_size_in_bytes
    )
    own = dict(
        argument_bytes=m.argument_size_in_bytes,
        temporary_bytes=m.temp_size_in_bytes, largest=known,
    )
  return own | dict(
      hbm_bytes=need, headroom=1 - need / chip.hbm_bytes,
      compile_seconds=found.seconds,
      fits=isinstance(found, Compiled) and need <= chip.hbm_bytes,
  )


def _counted(counts: Counts, chip: Chip) -> Figures:
  return dict(
      flops=counts.products.flops,
      attention_flops=counts.products.attention_flops,
      hbm_traffic_bytes=counts.hbm_traffic,
      collective_bytes=sum(counts.sent.values()),
      collectives={
          kind: dict(count=n, bytes=counts.sent[kind])
          for kind, n in sorted(counts.collectives.items())
      },
      busy_seconds=counts.busy_seconds,
      network_seconds=counts.network_seconds(chip),
      step_seconds=counts.seconds(chip),
      uncounted=sorted(counts.uncounted),
  )


def of_step(
    found: Compiled | Refused, planned: Planned, chip: Chip,
    loop_trips: int | None,
) -> Figures:
  """Of the training step; a step that has no room is not counted."""
  figures = _memory(
      found, chip, _held(planned.state), 0.0, _largest_arrays(planned.state)
  )
  if isinstance(found, Refused):
    counted = _counted(Counts(), chip)
    return figures | dict.fromkeys(counted) | dict(
        collectives={}, uncounted=[]
    )
  return figures | _counted(count(
      hlo.of_compiled(found.program), chip, len(planned.on.used), loop_trips
  ), chip)


def of_sampler(
    found: Compiled | Refused, config: Any, planned: Planned, chip: Chip
) -> Figures:
  """Of the sampler, while the optimizer's state lies beside it."""
  moments = _held(planned.state.opt_state)
  reference = _held(planned.state.reference)
  on, r = planned.sampling, config.rollout
  n, g = requests(config, on.groups)
  slots = r.num_slots // on.groups if r.num_slots else None
  policy = planned.state.policy
  parts = dict(
      moments_bytes=moments,
      copy_bytes=gathered_bytes(planned.model, policy, on.mesh),
      cache_bytes=rollout.cache_bytes(
          planned.model, policy, n // on.groups, g, r.max_prompt_tokens,
          r.max_new_tokens, slots, on.mesh,
      ),
  )
  known = [
      (parts['copy_bytes'], 'parameters in compute.dtype, gathered'),
      (parts['cache_bytes'], f'cache of {n // on.groups} prompts'),
      (moments, "the optimizer's moments"),
  ]
  if reference:
    known.append((reference, 'the reference policy'))
  figures = parts | _memory(
      found, chip, _held(policy), moments + reference,
      sorted(known, reverse=True),
  )
  figures |= dict(prefill_seconds=None, token_seconds=None)
  if isinstance(found, Refused):
    return figures
  program = hlo.of_compiled(found.program)
  # A loop that ends when all completions have: without it, and once.
  none, one = (
      count(program, chip, len(planned.on.used), trips) for trips in (0, 1)
  )
  return figures | dict(
      prefill_seconds=none.seconds(chip),
      token_seconds=max(
          one.busy_seconds - none.busy_seconds,
          one.network_seconds(chip) - none.network_seconds(chip),
      ),
  )


def _gb(size: float) -> str:
  return f'{size / 1e9:.2f} GB'


def _seconds(value: float | None) -> str:
  return 'not known' if value is None else f'{value:.3g} s or more'


def _too_large(
    name: str, figures: Figures, fits: bool, chip: Chip
) -> list[str]:
  """What has no room, and how much of it."""
  if fits:
    return []
  return [
      f'{name} does not fit: {_gb(figures["hbm_bytes"])} of'
      f' {_gb(chip.hbm_bytes)}',
      *(f'  {_gb(size)}  {what}' for size, what in figures['largest']),
  ]


def _step_lines(name: str, step: Figures) -> list[str]:
  if step['flops'] is None:
    return [f'decomposition {name}: refused by the compiler']
  lines = [
      f'decomposition {name}',
      f'  HBM of a chip          {_gb(step["hbm_bytes"])}:'
      f' arguments {_gb(step["argument_bytes"])}, temporary'
      f' {_gb(step["temporary_bytes"])}; headroom {step["headroom"]:.0%}',
      f'  FLOPs of a chip        {step["flops"]:.4g}, of which attention'
      f' kernels {step["attention_flops"]:.4g}',
      f'  HBM traffic            {_gb(step["hbm_traffic_bytes"])}',
      f'  sent by a chip         {_gb(step["collective_bytes"])}',
  ]
  for kind, own in step['collectives'].items():
    lines.append(
        f'    {kind:<20} {own["count"]:>6} times, {_gb(own["bytes"])}'
    )
  lines += [
      f'  ESTIMATE of the step   {step["step_seconds"]:.3g} s or more: busy'
      f' {step["busy_seconds"]:.3g} s, network {step["network_seconds"]:.3g} s'
      ' wholly behind it',
      f'  compiled in            {step["compile_seconds"]:.0f} s',
  ]
  if step['uncounted']:
    lines.append(f'  FLOPs not counted of   {", ".join(step["uncounted"])}')
  return lines


_RATIOS = (
    ('FLOPs', 'flops'), ('HBM', 'hbm_bytes'),
    ('collective bytes', 'collective_bytes'),
    ('ESTIMATE of the step', 'step_seconds'),
)


def _ratios(results: dict[str, Figures]) -> list[str]:
  if len(results) < 2:
    return []
  on, off = results['on'], results['off']
  return ['on / off: ' + ', '.join(
      f'{name} {on[key] / off[key]:.4f}x' for name, key in _RATIOS
      if on[key] is not None and off[key]
  )]


def table(results: dict[str, Figures], chip: Chip) -> str:
  """All that was found, to be read."""
  lines, problems = [], []
  for name, step in results.items():
    lines += _step_lines(name, step)
    problems += _too_large(
        f'the step, decomposition {name},', step, step['step_fits'], chip
    )
  sampler = next(iter(results.values()))['sampler']
  lines += [
      'sampler',
      f'  HBM of a chip          {_gb(sampler["hbm_bytes"])}: the model'
      f' gathered {_gb(sampler["copy_bytes"])}, cache'
      f' {_gb(sampler["cache_bytes"])}, moments beside'
      f' {_gb(sampler["moments_bytes"])}; headroom {sampler["headroom"]:.0%}',
      f'  ESTIMATE of prefill    {_seconds(sampler["prefill_seconds"])}, of a'
      f' token {_seconds(sampler["token_seconds"])}',
      f'  compiled in            {sampler["compile_seconds"]:.0f} s',
  ]
  problems += _too_large(
      'the sampler', sampler, sampler['fits'], chip
  )
  return '\n'.join([*lines, *_ratios(results), *problems])
