"""Runs the study of causes, and writes its tables.

    make study NAME=causes
    make study NAME=causes:smoke
"""

import itertools
import pathlib

from absl import app

from experiments import kept, study
from experiments.causes import arms

_HERE = pathlib.Path(__file__).parent


def parts(smoke: bool) -> list[list[study.Arm]]:
  """The arms of each setting and seed."""
  own = arms.smoke() if smoke else arms.everything()
  return [
      list(part) for _, part in itertools.groupby(
          own, lambda arm: (arm.labels['setting'], arm.labels['seed'])
      )
  ]


def main(argv: list[str]) -> None:
  """Writes what is known after every part."""
  del argv
  smoke = study.VARIANT.value == 'smoke'
  folder, results, _ = study.folders(_HERE, study.VARIANT.value)
  before, block = kept.read(results), 2 if smoke else 10
  kept.write(
      (kept.run(part, folder, block, before) for part in parts(smoke)), results
  )


if __name__ == '__main__':
  app.run(main)
