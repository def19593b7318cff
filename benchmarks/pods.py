"""The table of docs/pods.md: configs, compiled for slices that are not there.

    pip install '.[train,aot]' matplotlib
    python -m benchmarks.pods
    python -m benchmarks.pods --scaling

A row for each config and slice: `gradlens.aot --compare`, which takes minutes.
What was found is kept in --folder, and not compiled again. --scaling writes
docs/scaling.svg too.
"""

import hashlib
import json
import pathlib
from typing import Any

from absl import app, flags
import jax
import ml_collections

from gradlens.aot import chips, figures, programs
from gradlens.aot.needs import needs, use_no_device
from gradlens.configs import multidomain, singledomain

_FOLDER = flags.DEFINE_string('folder', 'runs/pods', 'Of what was found.')
_SCALING = flags.DEFINE_bool('scaling', False, 'From 16 to 1024 chips.')
_PLOT = flags.DEFINE_string('plot', 'docs/scaling.svg', 'Of --scaling.')

_CONFIGS = dict(multidomain=multidomain, singledomain=singledomain)
# Config, tasks (0 is its own), slice, argument; the rest is as in the file.
_ROWS = (
    ('multidomain', 0, 'v5p:4x4x4', 'model=qwen2_5_7b'),
    ('multidomain', 0, 'v5p:4x4x4', 'model=qwen2_5_7b,num_completions=2'),
    ('multidomain', 0, 'v5e:8x8',
     'model=qwen2_5_7b,num_completions=2,rollout.tensor=2'),
    ('multidomain', 0, 'v5e:8x8',
     'model=qwen2_5_7b,num_completions=2,mesh.tensor=2,prompts_per_task=8'),
    ('multidomain', 16, 'v5p:4x4x4',
     'model=qwen2_5_7b,num_completions=2,mesh.task=32,prompts_per_task=4'),
    ('multidomain', 16, 'v5p:4x4x4',
     'model=qwen2_5_7b,mesh.task=32,prompts_per_task=4'),
    ('singledomain', 0, 'v5p:4x4x4', 'model=qwen2_5_3b,prompts_per_task=64'),
    ('singledomain', 0, 'v5p:4x4x4',
     'model=qwen2_5_7b,num_completions=2,prompts_per_task=64'),
    ('singledomain', 0, 'v6e:4x4',
     'model=llama3_2_3b,num_completions=2,prompts_per_task=16'),
    ('singledomain', 0, 'v5p:2x2x4',
     'model=qwen3_1_7b,num_completions=2,prompts_per_task=16'),
    ('multidomain', 0, 'v5e:4x4',
     'model=qwen2_5_3b,num_completions=2,prompts_per_task=4'),
    ('multidomain', 0, 'v5p:4x4x4',
     'model=qwen3_1_7b,num_completions=2,correction.apply=stacked'),
    ('multidomain', 0, 'v5e:2x4',
     'model=qwen3_1_7b,num_completions=2,prompts_per_task=2'),
    ('multidomain', 0, 'v5e:4x4',
     'model=llama3_2_3b,num_completions=2,prompts_per_task=4'),
    ('multidomain', 0, 'v6e:8x8', 'model=qwen2_5_7b,num_completions=2'),
)
_SLICES = {16: 'v5p:2x2x4', 64: 'v5p:4x4x4', 256: 'v5p:4x8x8',
           1024: 'v5p:8x8x16'}
_HEADER = (
    '| config | slice | tasks | step GB, off | on | | sampler GB | FLOPs |'
    ' sent GB, off | on | | ESTIMATE s, off | on | | fits |\n|---|---|'
    + '---:|' * 13
)


def build_config(
    name: str, num_tasks: int, arg: str
) -> ml_collections.ConfigDict:
  """A config, with as many tasks as asked for."""
  config = _CONFIGS[name].get_config(arg)
  if num_tasks:
    [spec, *_] = config.tasks.values()
    with config.unlocked():
      config.tasks = {f'task_{i}': spec for i in range(num_tasks)}
  return config


def kept(
    key: str, config: ml_collections.ConfigDict, find: Any
) -> dict[str, Any]:
  """From the folder, or found now."""
  content = hashlib.sha256(config.to_json(sort_keys=True).encode()).hexdigest()
  key = f'{key}-{content[:8]}'
  folder = pathlib.Path(_FOLDER.value)
  folder.mkdir(parents=True, exist_ok=True)
  file = folder / f'{key.replace(":", "_").replace(",", "_")}.json'
  if not file.exists():
    found = find()
    jax.clear_caches()
    file.write_text(json.dumps(found))
  return json.loads(file.read_text())


def _pair(off: float | None, on: float | None, unit: float) -> str:
  if off is None or on is None:
    return ' | '.join(
        ['none' if a is None else f'{a / unit:.2f}' for a in (off, on)] + ['']
    )
  return f'{off / unit:.2f} | {on / unit:.2f} | {on / off:.2f}x'


def row(name: str, num_tasks: int, topology: str, arg: str) -> str:
  """A line of the table."""
  config = build_config(name, num_tasks, arg)
  found = kept(
      f'{name}-{num_tasks}-{topology}-{arg}', config,
      lambda: needs(config, topology, compare=True),
  )
  off, on = found['off'], found['on']
  flops = 'none' if off['flops'] is None or on['flops'] is None else (
      f'{on["flops"] / off["flops"]:.4f}x'
  )
  free = min(on['headroom'], on['sampler']['headroom'])
  fits = {
      (True, True): f'{free:.0%} free',
      (True, False): 'step only', (False, True): 'sampler only',
      (False, False): 'no',
  }[on['step_fits'], on['sampler']['fits']]
  return ' | '.join([
      f'| `{name}.py:{arg}`', topology, str(len(config.tasks)),
      _pair(off['hbm_bytes'], on['hbm_bytes'], 1e9),
      f'{on["sampler"]["hbm_bytes"] / 1e9:.2f}', flops,
      _pair(off['collective_bytes'], on['collective_bytes'], 1e9),
      _pair(off['step_seconds'], on['step_seconds'], 1.0), f'{fits} |',
  ])


def scaled_config(num_chips: int) -> ml_collections.ConfigDict:
  """As much work for a chip as on any other slice."""
  return build_config(
      'multidomain', 0,
      f'model=qwen3_1_7b,prompts_per_task={num_chips // 4},num_completions=2',
  )


def scaled(num_chips: int) -> dict[str, Any]:
  """The step on a slice."""
  config = scaled_config(num_chips)
  topology = _SLICES[num_chips]
  planned = programs.plan(config, programs.find_devices(topology))
  return {
      'on' if instrument else 'off': figures.of_step(
          programs.compile_step(config, planned, instrument), planned,
          chips.of_topology(topology), None,
      )
      for instrument in (False, True)
  }


def scaling() -> None:
  """A table and a plot: efficiency against the smallest slice."""
  from matplotlib import pyplot

  found = {
      n: kept(f'scaling-{n}', scaled_config(n), lambda n=n: scaled(n))
      for n in _SLICES
  }
  first = found[min(found)]
  lines = {
      name: [first[name]['step_seconds'] / found[n][name]['step_seconds']
             for n in found]
      for name in ('off', 'on')
  }
  print('| chips | slice | ESTIMATE s, off | on | | sent GB, off | on | |'
        ' efficiency, off | on |\n|---:|---|' + '---:|' * 8)
  for i, (n, own) in enumerate(found.items()):
    print(' | '.join([
        f'| {n}', _SLICES[n],
        *(
            _pair(own['off'][key], own['on'][key], unit)
            for key, unit in (('step_seconds', 1.0), ('collective_bytes', 1e9))
        ),
        f'{lines["off"][i]:.3f} | {lines["on"][i]:.3f} |',
    ]))
  figure, axes = pyplot.subplots(figsize=(5, 3))
  for name, values in lines.items():
    axes.plot(list(found), values, marker='o', label=f'decomposition {name}')
  axes.set(
      xscale='log', xticks=list(found), xlabel='chips (v5p)', ylim=(0, 1.05),
      ylabel='efficiency (ESTIMATE)',
  )
  axes.set_xticks(list(found), list(map(str, found)))
  axes.minorticks_off()
  axes.legend()
  figure.tight_layout()
  figure.savefig(_PLOT.value)


def main(argv: list[str]) -> None:
  """Prints the table as it is found."""
  del argv
  use_no_device()
  if _SCALING.value:
    scaling()
    return
  print(_HEADER)
  for own in _ROWS:
    print(row(*own), flush=True)


if __name__ == '__main__':
  app.run(main)
