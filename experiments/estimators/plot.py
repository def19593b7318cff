"""Draws the figure of the study of estimators, and prints its tables.

    python -m experiments.estimators.plot
"""

import pathlib

from absl import app
import matplotlib.pyplot as plt

from experiments import figures, study, tables
from experiments.estimators import findings

_HERE = pathlib.Path(__file__).parent


def draw_estimates(found: tables.Found) -> plt.Figure:
  """Every step's estimates of one and the same squared norm."""
  steps, true = found['steps'], found['truth'].set_index('task')
  names = list(steps.task.unique())
  figure, grid = plt.subplots(1, len(names), figsize=(9, 2.8), squeeze=False)
  for axes, task in zip(grid[0], names, strict=True):
    own = steps[steps.task == task]
    for x, (color, (_, values)) in enumerate(
        figures.colored(own.groupby('estimator', sort=False))
    ):
      jitter = (values.step % 8 - 3.5) / 20
      axes.plot(x + jitter, values.norm_sq, '.', color=color, markersize=4)
    axes.axhline(true.norm_sq[task], color='k', linewidth=1)
    axes.axhspan(true.low[task], true.high[task], color='k', alpha=0.15)
    kinds = list(own.estimator.unique())
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_title(task)
  grid[0, 0].set_ylabel('squared norm')
  return figure


def main(argv: list[str]) -> None:
  """The figure, then tables."""
  del argv
  _, results, folder = study.folders(_HERE, study.VARIANT.value)
  found = tables.read(results)
  figures.save(folder, found, estimates=draw_estimates)
  print('\n\n'.join(findings.all_tables(found)))


if __name__ == '__main__':
  app.run(main)
