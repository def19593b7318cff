"""Runs the comparison of corrections, and writes its tables.

    make study NAME=corrections
    python -m experiments.corrections.run --keep --seeds=8    # three more
"""

from collections.abc import Iterator
import functools
import itertools
import pathlib

from absl import app, flags

from experiments import kept, study, tables
from experiments.corrections import arms, config, findings

_HERE = pathlib.Path(__file__).parent
_SEEDS = flags.DEFINE_integer('seeds', 5, 'Seeds of every method.')
_OTHERS = flags.DEFINE_boolean('others', True, 'Run the other methods, too.')
_SHORT = (
    'num_steps=4', 'prompts_per_task=8', 'num_completions=4',
    'evaluate.every=2', 'evaluate.num_completions=1', 'gain_window=1',
)


def parts(
    folder: pathlib.Path, before: tables.Found
) -> Iterator[tables.Found]:
  """Tables of tuning, of the core by what it found seed by seed, of others."""
  run = functools.partial(kept.run, folder=folder, block=20, before=before)
  if study.VARIANT.value == 'smoke':
    rates = dict.fromkeys(config.CORE, 3e-4)
    few = 'total', 'mgs', 'fixed_weights'
    yield run([
        arm for arm in arms.core(rates, 2, _SHORT)
        if arm.labels['method'] in few
    ])
    return
  tuning = run(arms.tuning())
  yield tuning
  rates = findings.best_rates(tuning['heldout'])
  core = arms.core(rates, _SEEDS.value)
  for _, part in itertools.groupby(core, lambda arm: arm.labels['seed']):
    yield run(list(part))
  if _OTHERS.value:
    yield run(arms.others(rates['total']))


def main(argv: list[str]) -> None:
  """Writes what is known after every part."""
  del argv
  folder, results, _ = study.folders(_HERE, study.VARIANT.value)
  kept.write(parts(folder, kept.read(results)), results)


if __name__ == '__main__':
  app.run(main)
