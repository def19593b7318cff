"""Tables: what the runs of a study left, as small CSV files.

    steps.csv    a row per arm, task and block of steps: means over the block
    heldout.csv  a row per arm, task and evaluation
    runs.csv     a row per arm: what ran, on which commit, with which config
"""

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from experiments import study
from gradlens.report import history
from gradlens.report.summary import Estimate
from gradlens.report.tables import bracket, number

# Of each column, the metric (docs/metrics.md).
METRICS = dict(
    norm_sq='norm_sq/unbiased',
    naive='norm_sq/naive',
    intrinsic='intrinsic_norm_sq/unbiased',
    reward='reward',
    abs_advantage='abs_advantage',
    length='length',
    entropy='entropy',
    prompts='prompts',
    share='share/before',
    share_corrected='share/after',
    share_optimizer='share/optimizer',
)
_DIGITS = '%.6g'

Found = dict[str, pd.DataFrame]  # tables of a study, by name


def load(
    arms: Sequence[study.Arm], folder: pathlib.Path
) -> dict[str, history.Run]:
  """The runs of those arms that are runs, by name."""
  return {
      arm.name: history.load(folder / arm.name) for arm in arms
      if arm.program == 'gradlens.main'
  }


def steps(
    arms: Sequence[study.Arm], runs: dict[str, history.Run], block: int,
    metrics: dict[str, str] = METRICS,
) -> pd.DataFrame:
  """Means over blocks of as many steps; `step` is the last of a block.

  Columns are those of `metrics`. What is not known of a step has no part in its
  block; nor have a task's other shares where that of the update is not known,
  of a learning rate of 0.
  """
  parts = []
  for arm in (arm for arm in arms if arm.name in runs):
    run = runs[arm.name]
    last = (np.arange(len(run.steps)) // block + 1) * block - 1
    last = run.steps[np.minimum(last, len(run.steps) - 1)]
    for k, task in enumerate(run.tasks):
      own = pd.DataFrame({
          name: run.per_task(tag)[:, k] for name, tag in metrics.items()
      })
      shares = [name for name in own if name.startswith('share')]
      if shares and own.share_optimizer.notna().any():
        own.loc[own.share_optimizer.isna(), shares] = np.nan
      own = own.groupby(last).mean()
      labels = pd.DataFrame(
          arm.labels | dict(task=task), index=own.index
      ).assign(step=own.index)
      parts.append(pd.concat([labels, own], axis=1))
  return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def heldout(
    arms: Sequence[study.Arm], runs: dict[str, history.Run]
) -> pd.DataFrame:
  """Mean held-out rewards of every evaluation."""
  rows = []
  for arm in (arm for arm in arms if arm.name in runs):
    run = runs[arm.name]
    for task in run.tasks:
      for step, reward in zip(*run.heldout(task), strict=True):
        rows.append(arm.labels | dict(
            task=task, step=int(step), reward=float(reward)
        ))
  return pd.DataFrame(rows)


def command(arm: study.Arm) -> str:
  """As anybody runs it."""
  return ' '.join(['PYTHONHASHSEED=0 python', *arm.command()])


def provenance(
    arms: Sequence[study.Arm], outcomes: dict[str, study.Outcome]
) -> pd.DataFrame:
  """What ran."""
  return pd.DataFrame([
      arm.labels | dict(
          command=command(arm),
          config_hash=outcomes[arm.name].config_hash,
          commit=outcomes[arm.name].commit,
          cpu_seconds=round(outcomes[arm.name].cpu_seconds),
      ) for arm in arms
  ])


def all_of(
    arms: Sequence[study.Arm], outcomes: dict[str, study.Outcome],
    folder: pathlib.Path, block: int,
) -> Found:
  """The three tables of arms that are done."""
  runs = load(arms, folder)
  return dict(
      steps=steps(arms, runs, block), heldout=heldout(arms, runs),
      runs=provenance(arms, outcomes),
  )


def of(table: pd.DataFrame, part: str, setting: str, kind: str) -> pd.DataFrame:
  """The rows of some arms."""
  return table[
      (table.part == part) & (table.setting == setting)
      & (table.kind.astype(str) == kind)
  ]


def kinds(found: Found, part: str) -> list[tuple[str, str]]:
  """Settings and kinds of a part's runs, in their order."""
  own = found['steps'][found['steps'].part == part]
  pairs = zip(own.setting, own.kind.astype(str), strict=True)
  return list(dict.fromkeys(pairs))


def read(results: pathlib.Path) -> Found:
  """All tables of a study, by name."""
  return {path.stem: pd.read_csv(path) for path in results.glob('*.csv')}


def write(found: Found, results: pathlib.Path) -> None:
  """A file for each, with six digits of every number."""
  results.mkdir(parents=True, exist_ok=True)
  for name, table in found.items():
    table.to_csv(
        results / f'{name}.csv', index=False, float_format=_DIGITS,
        lineterminator='\n',
    )


def estimate(bounds: Sequence[Any]) -> Estimate:
  """Of `(value, low, high)`."""
  return Estimate(*map(float, bounds))


def correlation(bounds: Sequence[Any]) -> Estimate:
  """The same of a correlation, which the jackknife does not know ends at 1."""
  return Estimate(*(float(np.clip(bound, -1, 1)) for bound in bounds))


def estimates(
    names: Sequence[str], bounds: Sequence[np.ndarray]
) -> dict[str, Estimate]:
  """The same of several, by name."""
  return dict(zip(names, map(estimate, zip(*bounds, strict=True)), strict=True))


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """A table as a README has it; an `Estimate` is with its interval."""
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(map(_cell, line))} |' for line in lines)


def _cell(value: Any) -> str:
  if isinstance(value, Estimate):
    return bracket(number, *value)
  return str(value)
