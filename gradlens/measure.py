"""Measures the tasks' gradients at fixed parameters, without training.

    python -m gradlens.measure --config=configs/toy.py --prompts=2048

Every prompt belongs to one of `--splits` parts of its task (see
`gradlens/measurement.py`). `--json` prints the numbers as one line, the last.
"""

import json
import math
from typing import Any

from gradlens import command

with command.imports('train'):
  from absl import app, flags
  from ml_collections import config_flags
  import numpy as np

  from gradlens import hosts
  from gradlens.measurement import Interval, Measurement, measure
  from gradlens.report import tables

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with its argument after a colon.',
    lock_config=True,
)
command.host_flags()
_PROMPTS = flags.DEFINE_integer(
    'prompts', 2048, 'Prompts of each task; more make the intervals narrower.'
)
_SPLITS = flags.DEFINE_integer(
    'splits', 8, 'Independent parts of the prompts, each a gradient in memory.'
)
_JSON = flags.DEFINE_boolean('json', False, 'Print one line of JSON as well.')


def table(measured: Measurement) -> str:
  """The measurement as text: a line a task, then the layers' shares."""
  bracket = tables.bracket
  lines = [['task', 'reward [95%]', 'squared norm [95%]', 'naive',
            'intrinsic [95%]', 'ratio to quietest [95%]']]
  for k, name in enumerate(measured.names):
    reward, norm_sq, intrinsic, ratio = (
        [bound[k] for bound in interval]
        for interval in (measured.rewards_K, measured.norm_sq_K,
                         measured.intrinsic_K, measured.ratio_K)
    )
    lines.append([
        name,
        bracket(tables.fixed, *reward),
        bracket(tables.number, *norm_sq),
        tables.number(measured.naive_K[k]),
        bracket(tables.number, *intrinsic),
        bracket(tables.number, *ratio),
    ])
  layers = [['share of the squared norm', *measured.names]]
  for block, shares_K in measured.layer_shares.items():
    layers.append([block, *map(tables.percent, shares_K)])
  return f'{tables.aligned(lines)}\n\n{tables.aligned(layers)}'


def as_json(measured: Measurement) -> dict[str, Any]:
  """`{field: {task: number, or [value, low, high]}}`; null is not known."""

  def plain(value):
    if isinstance(value, Interval):
      return dict(zip(measured.names, map(plain, np.stack(value, -1)),
                      strict=True))
    if isinstance(value, np.ndarray):
      return [plain(each) for each in value]
    return float(value) if math.isfinite(value) else None

  def by_task(values_K):
    return dict(zip(measured.names, plain(values_K), strict=True))

  fields = measured._asdict()
  del fields['names']
  shares = fields.pop('layer_shares')
  return {
      name.removesuffix('_K'): (
          plain(value) if isinstance(value, Interval) else by_task(value)
      ) for name, value in fields.items()
  } | dict(layer_shares={b: by_task(v) for b, v in shares.items()})


def main(argv: list[str]) -> None:
  """Measures and prints."""
  if len(argv) > 1:
    raise app.UsageError(f'not understood: {" ".join(argv[1:])}')
  command.show_progress()
  with command.on_hosts():
    measured = measure(
        _CONFIG.value, num_prompts=_PROMPTS.value, num_splits=_SPLITS.value
    )
    if hosts.first():
      print(table(measured))
      if _JSON.value:
        print(json.dumps(as_json(measured)))


if __name__ == '__main__':
  flags.mark_flags_as_required(['config'])
  parser = command.flags_parser('measure', '--prompts=1024')
  app.run(main, flags_parser=parser)
