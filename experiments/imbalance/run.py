"""Runs the study of imbalance, and writes its tables.

    make study NAME=imbalance
    make study NAME=imbalance:smoke
"""

from collections.abc import Sequence
import functools
import json
import pathlib

from absl import app
import pandas as pd

from experiments import kept, study, tables
from experiments.imbalance import arms

_HERE = pathlib.Path(__file__).parent


def _fixed(labels: dict, found: dict) -> list[dict]:
  """What `gradlens.measure` printed, a row a task; ratios to the quietest."""
  rows = []
  for task, (value, low, high) in found['norm_sq'].items():
    ratio, ratio_low, ratio_high = found['ratio'][task]
    rows.append(labels | dict(
        task=task, norm_sq=value, low=low, high=high,
        ratio=ratio, ratio_low=ratio_low, ratio_high=ratio_high,
        naive=found['naive'][task], intrinsic=found['intrinsic'][task][0],
        reward=found['rewards'][task][0],
    ))
  return rows


def _stages(labels: dict, found: dict) -> list[dict]:
  """Of every task's anatomy."""
  return [labels | dict(task=task, **own['stages'])
          for task, own in found.items()]


def _prompts(labels: dict, found: dict) -> list[dict]:
  """Of every task's anatomy, its prompts."""
  return [labels | dict(task=task, **prompt)
          for task, own in found.items() for prompt in own['prompts']]


def _function(labels: dict, found: list[dict]) -> list[dict]:
  """What tasks' steps do to tasks' policies, a row a pair."""
  return [labels | row for row in found]


# Tables of what arms of a part have printed.
_PRINTED = dict(
    fixed=('fixed', _fixed), stages=('anatomy', _stages),
    prompts=('anatomy', _prompts), function=('function', _function),
)


def _blocks(
    chosen: Sequence[study.Arm], folder: pathlib.Path, block: int
) -> pd.DataFrame:
  """Squared norms of blocks of parameters, of the runs of figure 1."""
  own = [
      arm for arm in chosen if arm.labels['part'] == 'figure'
      and arm.labels['kind'] == 'sequence'
  ]
  runs = tables.load(own, folder)
  names = sorted({
      tag.split('/')[1] for run in runs.values() for tag in run.scalars
      if tag.startswith('layer_norm_sq/')
  })
  metrics = {name: f'layer_norm_sq/{name}' for name in names}
  return tables.steps(own, runs, block, metrics)


def _more(
    chosen: Sequence[study.Arm], outcomes: dict[str, study.Outcome],
    folder: pathlib.Path, block: int,
) -> tables.Found:
  """The tables that other studies do not have."""
  found = {'blocks': _blocks(chosen, folder, block)}
  for name, (part, rows) in _PRINTED.items():
    found[name] = pd.DataFrame([
        row for arm in chosen if arm.labels['part'] == part
        for row in rows(arm.labels, json.loads(outcomes[arm.name].printed))
    ])
  return found


def main(argv: list[str]) -> None:
  """Runs what is not done, then reads all of it."""
  del argv
  smoke = study.VARIANT.value == 'smoke'
  chosen, block = (arms.smoke(), 2) if smoke else (arms.everything(), 6)
  folder, results, _ = study.folders(_HERE, study.VARIANT.value)
  further = functools.partial(_more, folder=folder, block=block)
  tables.write(
      kept.run(chosen, folder, block, kept.read(results), further), results
  )


if __name__ == '__main__':
  app.run(main)
