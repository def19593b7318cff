"""Draws the figures of the study, and prints its tables, from its results.

    python -m experiments.imbalance.plot
"""

import pathlib

from absl import app
import matplotlib.pyplot as plt
import numpy as np

from experiments import figures, study, tables
from experiments.imbalance import analysis, findings, rule_outs

_HERE = pathlib.Path(__file__).parent
WINDOW = 2  # blocks of steps before and after one, of a learning gain


def _curve(axes, table, column, color, label):
  """Mean over seeds, and their range."""
  over = table.groupby('step')[column]
  mean = over.mean()
  axes.plot(mean.index, mean, color=color, label=label)
  axes.fill_between(mean.index, over.min(), over.max(), color=color, alpha=0.2,
                    linewidth=0)


def draw_figure(found: tables.Found) -> plt.Figure:
  """Squared norms, learning gains and rewards, as in the paper's figure 1."""
  settings = findings.settings(found)
  figure, grid = plt.subplots(
      len(settings), 3, figsize=(10, 2.6 * len(settings)), sharex=True,
      squeeze=False,
  )
  titles = 'squared norm (unbiased)', 'learning gain', 'training reward'
  for line, setting in zip(grid, settings, strict=True):
    steps = tables.of(found['steps'], 'figure', setting, 'sequence')
    gains = analysis.paper_gains(steps, WINDOW)
    for color, (task, own) in figures.colored(steps.groupby('task')):
      _curve(line[0], own, 'norm_sq', color, task)
      _curve(line[1], gains[gains.task == task], 'gain', color, task)
      _curve(line[2], own, 'reward', color, task)
    line[0].set_ylabel(setting)
    line[0].axhline(0, color='gray', linewidth=0.5)
    line[1].axhline(0, color='gray', linewidth=0.5)
    figures.legend_beside(line[2])
  for axes, title in zip(grid[0], titles, strict=True):
    axes.set_title(title)
  for axes in grid[-1]:
    axes.set_xlabel('step')
  return figure


def draw_confounds(found: tables.Found) -> plt.Figure:
  """Norms of the first policy's gradients under every loss."""
  settings = findings.settings(found)
  figure, grid = plt.subplots(
      1, len(settings), figsize=(10, 3), squeeze=False
  )
  for axes, setting in zip(grid[0], settings, strict=True):
    table = found['fixed'][found['fixed'].setting == setting]
    losses = list(table.kind.unique())
    for i, (color, (task, own)) in enumerate(
        figures.colored(table.groupby('task'))
    ):
      at = [losses.index(kind) + 0.12 * (i - 1.5) for kind in own.kind]
      axes.errorbar(
          at, own.norm_sq, color=color, label=task, fmt='o', markersize=4,
          yerr=[own.norm_sq - own.low, own.high - own.norm_sq],
      )
    axes.set_title(setting)
    axes.set_yscale('symlog', linthresh=1e-3)
    axes.axhline(0, color='gray', linewidth=0.5)
    axes.set_xticks(range(len(losses)), losses)
    axes.set_xlabel('loss')
    figures.legend_beside(axes)
  grid[0, 0].set_ylabel('squared norm (unbiased)')
  return figure


def draw_anatomy(found: tables.Found) -> plt.Figure:
  """Every task's stages, from its tokens to its squared norm."""
  stages = findings.stages(found)
  known = stages[stages.norm_sq > 0].sort_values('norm_sq')
  known = known[list(rule_outs.STAGES)]
  figure, axes = plt.subplots(figsize=(9, 4))
  logs = np.log10(known / np.exp(np.log(known).mean()))
  left = {True: np.zeros(len(logs)), False: np.zeros(len(logs))}
  for color, stage in figures.colored(rule_outs.STAGES):
    for up in (True, False):
      width = logs[stage].where((logs[stage] > 0) == up, 0).to_numpy()
      axes.barh(
          logs.index, width, left=left[up], color=color, height=0.7,
          label=stage if up else None,
      )
      left[up] = left[up] + width
  axes.plot(logs.sum(axis=1), logs.index, 'k|', markersize=10, label='in all')
  axes.set_xlabel('log10 of the squared norm, above the mean of all tasks')
  axes.legend(frameon=False, fontsize=8)
  return figure


def main(argv: list[str]) -> None:
  """Figures, then tables."""
  del argv
  _, results, folder = study.folders(_HERE, study.VARIANT.value)
  found = tables.read(results)
  figures.save(
      folder, found, figure=draw_figure, confounds=draw_confounds,
      anatomy=draw_anatomy,
  )
  print('\n\n'.join(findings.all_tables(found)))


if __name__ == '__main__':
  app.run(main)
