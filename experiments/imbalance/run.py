"""Runs the study of imbalance, and writes its tables.

    make study NAME=imbalance
    make study NAME=imbalance:smoke
"""

import json
import pathlib

from absl import app
import pandas as pd

from experiments import study, tables
from experiments.imbalance import arms
from gradlens.report import history

_HERE = pathlib.Path(__file__).parent


def fixed(
    chosen: list[study.Arm], outcomes: dict[str, study.Outcome]
) -> pd.DataFrame:
  """What `gradlens.measure` printed, a row a task; ratios to the quietest."""
  rows = []
  for arm in (arm for arm in chosen if arm.labels['part'] == 'fixed'):
    found = json.loads(outcomes[arm.name].printed)
    for task, (value, low, high) in found['norm_sq'].items():
      ratio, ratio_low, ratio_high = found['ratio'][task]
      rows.append(arm.labels | dict(
          task=task, norm_sq=value, low=low, high=high,
          ratio=ratio, ratio_low=ratio_low, ratio_high=ratio_high,
          naive=found['naive'][task], intrinsic=found['intrinsic'][task][0],
          reward=found['rewards'][task][0],
      ))
  return pd.DataFrame(rows)


def anatomy(
    chosen: list[study.Arm], outcomes: dict[str, study.Outcome]
) -> tuple[pd.DataFrame, pd.DataFrame]:
  """Stages of every task, and its prompts."""
  stages, prompts = [], []
  for arm in (arm for arm in chosen if arm.labels['part'] == 'anatomy'):
    own = dict(seed=arm.labels['seed'])
    for task, found in json.loads(outcomes[arm.name].printed).items():
      stages.append(own | dict(task=task, **found['stages']))
      prompts += [own | dict(task=task, **p) for p in found['prompts']]
  return pd.DataFrame(stages), pd.DataFrame(prompts)


def function(
    chosen: list[study.Arm], outcomes: dict[str, study.Outcome]
) -> pd.DataFrame:
  """What tasks' steps do to tasks' policies, a row a pair."""
  return pd.DataFrame([
      dict(setting=arm.labels['setting'], **row)
      for arm in chosen if arm.labels['part'] == 'function'
      for row in json.loads(outcomes[arm.name].printed)
  ])


def blocks(
    chosen: list[study.Arm], runs: dict[str, history.Run], block: int
) -> pd.DataFrame:
  """Squared norms of blocks of parameters, of the runs of figure 1."""
  own = [
      arm for arm in chosen if arm.labels['part'] == 'figure'
      and arm.labels['kind'] == 'sequence'
  ]
  tags = next(iter(runs.values())).scalars
  names = sorted({
      tag.split('/')[1] for tag in tags if tag.startswith('layer_norm_sq/')
  })
  metrics = {name: f'layer_norm_sq/{name}' for name in names}
  return tables.steps(own, runs, block, metrics)


def main(argv: list[str]) -> None:
  """Runs what is not done, then reads all of it."""
  del argv
  smoke = study.VARIANT.value == 'smoke'
  chosen, block = (arms.smoke(), 2) if smoke else (arms.everything(), 6)
  folder, results, _ = study.folders(_HERE, study.VARIANT.value)
  outcomes = study.run(chosen, folder, study.JOBS.value)
  stages, prompts = anatomy(chosen, outcomes)
  tables.write(
      tables.all_of(chosen, outcomes, folder, block) | dict(
          blocks=blocks(chosen, tables.load(chosen, folder), block),
          fixed=fixed(chosen, outcomes), stages=stages, prompts=prompts,
          function=function(chosen, outcomes),
      ), results,
  )


if __name__ == '__main__':
  app.run(main)
