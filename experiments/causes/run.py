"""Runs the study of causes, and writes its tables.

    make study NAME=causes
    make study NAME=causes:smoke
"""

import pathlib

from absl import app, flags

from experiments import study, tables
from experiments.causes import arms

_HERE = pathlib.Path(__file__).parent
_VARIANT = flags.DEFINE_enum(
    'variant', 'all', ['all', 'smoke'], 'The study, or a few steps of it.'
)
_JOBS = flags.DEFINE_integer('jobs', 2, 'Runs at a time, each on one core.')


def main(argv: list[str]) -> None:
  """Runs what is not done, then reads all of it."""
  del argv
  smoke = _VARIANT.value == 'smoke'
  chosen = arms.smoke() if smoke else arms.everything()
  folder, results, _ = study.folders(_HERE, _VARIANT.value)
  outcomes = study.run(chosen, folder, _JOBS.value)
  for name, table in tables.all_of(
      chosen, outcomes, folder, block=2 if smoke else 10
  ).items():
    tables.write(table, results / f'{name}.csv')


if __name__ == '__main__':
  app.run(main)
