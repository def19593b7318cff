"""Content: all that the page's script draws, as plain data.

Dims here: T training steps, K tasks, M blocks, C columns.
"""

from collections.abc import Sequence
import math
from typing import Any

import numpy as np

from gradlens.report import (
    curves,
    figures,
    groups,
    history,
    maps,
    samples,
    summary,
    thin,
)

# Of a line; an eye on a page that is a thousand pixels wide sees no more.
MAX_POINTS = 160


def all_tasks(runs: Sequence[history.Run]) -> list[str]:
  """Of all runs, in the order of the first that has each."""
  return list(dict.fromkeys(task for run in runs for task in run.tasks))


def collect(
    runs: Sequence[history.Run], of: Sequence[groups.Group], window: int,
) -> dict[str, Any]:
  """Everything that is drawn.

  Args:
    runs: their histories.
    of: the groups that they are in.
    window: steps on each side of a learning gain.
  """
  tasks = all_tasks(runs)
  home = {i: g for g, group in enumerate(of) for i in group.members}
  names = groups.names(runs)
  return {
      'tasks': tasks,
      'groups': [{
          'label': group.label, 'runs': len(group.members),
          'waterfall': _waterfalls([runs[i] for i in group.members], tasks),
      } for group in of],
      'runs': [_run(run, names[i], home[i], tasks, window)
               for i, run in enumerate(runs)],
      'curves': {
          figure.key: [_tab(tab, runs, of, tasks, window)
                       for tab in figure.tabs]
          for figure in figures.FIGURES if figure.kind == 'lines'},
      'samples': samples.collect(runs, tasks),
  }


def _waterfalls(
    members: Sequence[history.Run], tasks: Sequence[str],
) -> list[list[list[float]]]:
  return [
      [list(stage) for stage in maps.waterfall(members, task)]
      if task in members[0].tasks else [] for task in tasks]


def _tab(
    tab: figures.Tab, runs: Sequence[history.Run],
    of: Sequence[groups.Group], tasks: Sequence[str], window: int,
) -> dict[str, Any]:
  """Curves of every group and task that has any."""
  lines, floors = [], []
  for g, group in enumerate(of):
    members = [runs[i] for i in group.members]
    for k, task in enumerate(tasks):
      if task not in members[0].tasks:
        continue
      curve = _curve(tab, members, task, window)
      if curve.steps.size:
        lines.append({'g': g, 'k': k} | _points(curve, tab.raw))
        floors.append(summary.mean(np.concatenate([
            run.values(f'{tab.prefix}/{task}') for run in members])))
  return {
      'axis': tab.axis, 'form': tab.form, 'log': tab.log, 'lines': lines,
      'dots': tab.kind == 'heldout',
      # Noise around zero has no end on a log axis: cut under the quietest.
      'floor': min((f for f in floors if f > 0), default=1.0) / 2
      if tab.log else None}


def _curve(
    tab: figures.Tab, members: Sequence[history.Run], task: str, window: int,
) -> curves.Curve:
  if tab.kind == 'heldout':
    return curves.heldout(members, task)
  return curves.metric(members, f'{tab.prefix}/{task}', tab.part,
                       window if tab.kind == 'gain' else 0)


def _points(curve: curves.Curve, raw: bool) -> dict[str, list]:
  """A curve as lists, thinned; intervals are those of the kept steps."""
  kept = thin.largest_triangles(curve.steps, curve.values, MAX_POINTS)
  points = {'x': curve.steps[kept].tolist(), 'y': curve.values[kept].tolist()}
  if np.isfinite(curve.low).any():
    points |= {'low': curve.low[kept].tolist(),
               'high': curve.high[kept].tolist()}
  if raw and curve.raw.size:
    kept = thin.extremes(curve.raw_steps, curve.raw, 2 * MAX_POINTS)
    points |= {'rawX': curve.raw_steps[kept].tolist(),
               'rawY': curve.raw[kept].tolist()}
  return points


def _run(
    run: history.Run, name: str, group: int, tasks: Sequence[str], window: int,
) -> dict[str, Any]:
  """What is shown of one run at a time."""
  columns, names = maps.columns(run), maps.blocks(run)
  frames, cosines = maps.film(run)
  return {
      'name': name, 'group': group, 'seed': run.setting('seed'),
      'estimator': summary.estimator(run),
      'tasks': [tasks.index(task) for task in run.tasks],
      'blocks': names, 'columns': columns.spans,
      'layers': maps.layer_shares(run, columns, names).tolist()
      if names and columns.places else [],
      'frames': frames.spans if frames.places else [],
      'cosines': [own.tolist() for own in cosines],
      'quarters': [_quarters(run, k, window) for k in range(len(run.tasks))],
  }


def _quarters(run: history.Run, k: int, window: int) -> list[list[float]]:
  """Norm and gain of each quarter that has both, and its number."""
  norms_Q, gains_Q = maps.quarters(run, k, window)
  return [[float(norm), float(gain), q + 1]
          for q, (norm, gain) in enumerate(zip(norms_Q, gains_Q, strict=True))
          if norm > 0 and math.isfinite(gain)]
