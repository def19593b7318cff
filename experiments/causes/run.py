"""Runs the study of causes, and writes its tables.

    make study NAME=causes
    make study NAME=causes:smoke
"""

import pathlib

from absl import app

from experiments import kept, study, tables
from experiments.causes import arms

_HERE = pathlib.Path(__file__).parent


def main(argv: list[str]) -> None:
  """Runs what is not done, then reads all of it."""
  del argv
  smoke = study.VARIANT.value == 'smoke'
  chosen, block = (arms.smoke(), 2) if smoke else (arms.everything(), 10)
  folder, results, _ = study.folders(_HERE, study.VARIANT.value)
  found = kept.run(chosen, folder, block, kept.read(results))
  tables.write(found, results)


if __name__ == '__main__':
  app.run(main)
