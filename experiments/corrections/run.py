"""Runs the comparison of corrections, and writes its tables.

    make study NAME=corrections
    make study NAME=corrections SEEDS=8    # three more, the others stay
"""

import pathlib

from absl import app, flags
import pandas as pd

from experiments import study, tables
from experiments.corrections import arms, config, findings

_HERE = pathlib.Path(__file__).parent
_VARIANT = flags.DEFINE_enum(
    'variant', 'all', ['all', 'smoke'], 'The study, or a few steps of it.'
)
_SEEDS = flags.DEFINE_integer('seeds', 5, 'Seeds of every method.')
_JOBS = flags.DEFINE_integer('jobs', 2, 'Runs at a time, each on one core.')
_SHORT = (
    'num_steps=4', 'prompts_per_task=8', 'num_completions=4',
    'evaluate.every=2', 'evaluate.num_completions=1', 'gain_window=1',
)


def run(chosen: list[study.Arm], folder: pathlib.Path) -> dict:
  """Tables of some arms, by name."""
  outcomes = study.run(chosen, folder, _JOBS.value)
  runs = tables.load(chosen, folder)
  return dict(
      steps=tables.steps(chosen, runs, block=20),
      heldout=tables.heldout(chosen, runs),
      runs=tables.provenance(chosen, outcomes),
  )


def main(argv: list[str]) -> None:
  """Tuning first, then all methods at what was found."""
  del argv
  folder, results, _ = study.folders(_HERE, _VARIANT.value)
  if _VARIANT.value == 'smoke':
    rates = dict.fromkeys(config.CORE, 2e-4)
    few = 'total', 'mgs', 'fixed_weights'
    parts = [run([
        arm for arm in arms.core(rates, 2, *_SHORT)
        if arm.labels['method'] in few
    ], folder)]
  else:
    tuning = run(arms.tuning(), folder)
    rates = findings.best_rates(tuning['heldout'])
    parts = [
        tuning, run(arms.core(rates, _SEEDS.value), folder),
        run(arms.others(rates['total']), folder),
    ]
  for name in parts[0]:
    table = pd.concat([part[name] for part in parts], ignore_index=True)
    tables.write(table, results / f'{name}.csv')


if __name__ == '__main__':
  app.run(main)
