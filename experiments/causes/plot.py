"""Draws the figure of the study, and prints its tables.

    python -m experiments.causes.plot
"""

import pathlib

from absl import app
import matplotlib.pyplot as plt

from experiments import figures, study, tables
from experiments.causes import arms, findings

_HERE = pathlib.Path(__file__).parent


def draw_doses(found: tables.Found) -> plt.Figure:
  """Gains of all tasks by the factor of the loudest one's gradient."""
  doses = tables.kinds(found, 'dose')
  settings = list(dict.fromkeys(setting for setting, _ in doses))
  figure, grid = plt.subplots(
      1, len(settings), figsize=(4.5 * len(settings), 3), sharey=True,
      squeeze=False,
  )
  for axes, setting in zip(grid[0], settings, strict=True):
    gains = {1.0: findings.base_gains(found, setting)} | {
        float(kind.split('@')[1]): findings.gains(found, 'dose', setting, kind)
        for own, kind in doses if own == setting
    }
    at, dosed = sorted(gains), arms.LOUDEST[setting]
    for color, task in figures.colored(gains[1.0]):
      for dose in at:
        axes.plot([dose] * len(gains[dose]), gains[dose][task], '.',
                  color=color)
      axes.plot(at, [gains[dose][task].mean() for dose in at], color=color,
                linewidth=2.5 if task == dosed else 1, label=task)
    axes.set_xscale('log', base=2)
    axes.set_xticks(at, [f'{dose:g}' for dose in at])
    axes.set_xlabel(f'factor of the gradient of {dosed}')
    axes.legend(frameon=False, fontsize=8)
  grid[0, 0].set_ylabel('gain in held-out reward')
  return figure


def main(argv: list[str]) -> None:
  """The figure, then tables."""
  del argv
  _, results, folder = study.folders(_HERE, study.VARIANT.value)
  found = tables.read(results)
  figures.save(folder, found, doses=draw_doses)
  print('\n\n'.join(findings.all_tables(found)))


if __name__ == '__main__':
  app.run(main)
