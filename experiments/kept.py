"""Kept: results of a study that are there already, and are not made again."""

from collections.abc import Callable, Iterable, Sequence
import pathlib

from absl import flags
import numpy as np
import pandas as pd

from experiments import study, tables

_KEEP = flags.DEFINE_boolean(
    'keep', False,
    'Take what results/ has of the same commands, and run what it lacks.'
)


def read(results: pathlib.Path) -> tables.Found:
  """All tables that are there with `--keep`, and none without."""
  return tables.read(results) if _KEEP.value else {}


def run(
    arms: Sequence[study.Arm], folder: pathlib.Path, block: int,
    before: tables.Found,
    more: Callable[
        [Sequence[study.Arm], dict[str, study.Outcome]], tables.Found
    ] = lambda arms, outcomes: {},
) -> tables.Found:
  """Runs arms, and reads the three tables of them, and more.

  Args:
    arms: of one study, with the same labels.
    folder: of their runs.
    block: steps of a row of `steps`.
    before: tables that were written before, or none. Arms that these have, of
      the same commands, are not run.
    more: of arms that have run, and their outcomes, the study's other tables.
      Rows begin with their arm's labels.

  Returns:
    The tables, in the order of `arms`.
  """
  known = set(before['runs'].command) if before else set()
  missing = [arm for arm in arms if tables.command(arm) not in known]
  here = [arm for arm in arms if tables.command(arm) in known]
  parts = []
  if missing:
    outcomes = study.run(missing, folder, study.JOBS.value)
    parts.append(
        tables.all_of(missing, outcomes, folder, block)
        | more(missing, outcomes)
    )
  if here:
    parts.append({name: _rows(before[name], here) for name in before})
  found = {}
  for name in parts[0]:
    rows = [part[name] for part in parts if len(part[name])]
    found[name] = _rows(pd.concat(rows), arms) if rows else pd.DataFrame()
  return found


def write(parts: Iterable[tables.Found], results: pathlib.Path) -> None:
  """Writes what is known after every part, as it comes."""
  done = []
  for part in parts:
    done.append(part)
    tables.write({
        name: pd.concat([each[name] for each in done], ignore_index=True)
        for name in part
    }, results)


def _rows(table: pd.DataFrame, arms: Sequence[study.Arm]) -> pd.DataFrame:
  """Those of some arms, in their order."""
  names = table[list(arms[0].labels)].astype(str).agg('-'.join, axis=1)
  place = names.map({arm.name: i for i, arm in enumerate(arms)})
  order = np.argsort(place.to_numpy(), kind='stable')  # unknown ones are last
  return table.iloc[order[:place.notna().sum()]].reset_index(drop=True)
