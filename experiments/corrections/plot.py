"""Draws the figures of the comparison, and prints its tables.

    python -m experiments.corrections.plot
"""

import pathlib

from absl import app
import matplotlib.pyplot as plt
import numpy as np

from experiments import figures, scores, study, tables
from experiments.corrections import findings

_HERE = pathlib.Path(__file__).parent


def draw_differences(found: tables.Found) -> plt.Figure:
  """What methods end with, less what the plain sum does, with intervals."""
  names = findings.compared(found)[::-1]
  figure, grid = plt.subplots(1, 2, figsize=(9, 0.3 * len(names) + 1),
                              sharey=True)
  for axes, difference, title in (
      (grid[0], findings.differences, 'average over tasks'),
      (grid[1], findings.worst_differences, 'worst task'),
  ):
    axes.axvline(0, color='k', linewidth=0.8)
    for y, name in enumerate(names):
      value, low, high = difference(found, name)
      axes.plot([low, high], [y, y], linewidth=3, color=figures.COLORS[0])
      axes.plot(value, y, 'k|', markersize=10)
    axes.set_title(title)
    axes.set_xlabel('last held-out reward less the sum\'s')
    axes.locator_params(axis='x', nbins=5)  # more would touch
    axes.set_yticks(range(len(names)), names)
  return figure


def draw_profiles(found: tables.Found) -> plt.Figure:
  """Shares of runs and tasks with a gain above each number."""
  figure, axes = plt.subplots(figsize=(6, 4))
  names = findings.methods(found, 'core')
  everything = np.concatenate(
      [findings.gains(found, 'core', name).ravel() for name in names]
  )
  at_T = np.linspace(everything.min() - 0.01, everything.max() + 0.01, 101)
  styles = [
      (color, line) for line in ('-', '--') for color in figures.COLORS
  ]
  for (color, line), name in zip(styles, names, strict=False):
    axes.plot(
        at_T, scores.profile(findings.gains(found, 'core', name), at_T),
        color=color, linestyle=line, label=name, linewidth=1.2,
    )
  axes.set_xlabel('gain in held-out reward')
  axes.set_ylabel('share of runs and tasks above it')
  axes.legend(frameon=False, fontsize=7, ncols=2)
  return figure


def main(argv: list[str]) -> None:
  """Figures, then tables."""
  del argv
  _, results, folder = study.folders(_HERE, study.VARIANT.value)
  found = tables.read(results)
  figures.save(
      folder, found, differences=draw_differences, profiles=draw_profiles
  )
  print('\n\n'.join(findings.all_tables(found)))


if __name__ == '__main__':
  app.run(main)
