"""Compare: groups of runs side by side, task by task."""

from collections.abc import Sequence
import math
import textwrap
from typing import NamedTuple

import numpy as np

from gradlens.report import (
    content,
    curves,
    groups,
    history,
    markup,
    summary,
    tables,
)

LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
_COLUMNS = {
    'contribution': ('squared norm [95%]', tables.number),
    'share_before': ('share before', tables.percent),
    'share_after': ('after', tables.percent),
    'share_optimizer': ('after optimizer', tables.percent),
    'reward_before': ('reward first', tables.fixed),
    'reward_after': ('last', tables.fixed),
    'gain': ('gain [95%]', tables.signed),
    'beyond': ('less A\'s [95%]', tables.signed),
}


class Line(NamedTuple):
  """A task of a group.

  Attributes:
    task: its name.
    group: place of the group.
    runs: how many the numbers are averages over.
    cells: for each column an estimate.
  """
  task: str
  group: int
  runs: int
  cells: dict[str, summary.Estimate]


def letter(group: int) -> str:
  """The short name of a group, in tables and at the ends of lines."""
  first, last = divmod(group, len(LETTERS))
  return LETTERS[last] if not first else f'{LETTERS[first - 1]}{LETTERS[last]}'


def lines(
    runs: Sequence[history.Run], of: Sequence[groups.Group],
) -> list[Line]:
  """Averages over the runs of every group, with Student's intervals.

  Args:
    runs: all of them.
    of: the groups.
  """
  rows = [{row.task: row for row in summary.summarize(run)} for run in runs]
  seeds = [run.setting('seed') for run in runs]
  found = []
  for task in content.all_tasks(runs):
    first = {}
    for g, group in enumerate(of):
      own = {seeds[i]: rows[i][task] for i in group.members if task in rows[i]}
      if own:
        cells = {name: _over_runs([getattr(row, name) for row in own.values()])
                 for name in _COLUMNS if name != 'beyond'}
        cells['beyond'] = _beyond(own, first)
        found.append(Line(task, g, len(own), cells))
      first = first if g else own
  return found


def _beyond(
    own: dict[int, summary.Row], first: dict[int, summary.Row],
) -> summary.Estimate:
  """The gain less the first group's, of runs with the same seed."""
  differences = [row.gain.value - first[seed].gain.value
                 for seed, row in own.items() if seed in first]
  return _over_runs(differences or [math.nan])


def _over_runs(values: Sequence[summary.Estimate | float]) -> summary.Estimate:
  """The mean, with the interval of a single run if it has one."""
  parts = [value if isinstance(value, summary.Estimate)
           else summary.Estimate(value) for value in values]
  if len(parts) == 1:
    return parts[0]
  means = np.array([part.value for part in parts])
  return summary.Estimate(*map(float, curves.over_runs(means)))


def _cells(found: Sequence[Line]) -> list[list[str]]:
  """Names of columns, and below them cells."""
  unit, scale = tables.unit_of([
      line.cells['contribution'].value for line in found])
  names = [name for name, _ in _COLUMNS.values()]
  head = ['task', 'group', names[0].replace(' [', f'{unit} ['), *names[1:]]
  body = []
  for line in found:
    cells = [tables.bracket(form, *line.cells[name])
             for name, (_, form) in _COLUMNS.items()]
    cells[0] = tables.bracket(
        tables.number, *(scale * x for x in line.cells['contribution']))
    body.append([line.task, letter(line.group), *cells])
  return [head, *body]


def to_text(found: Sequence[Line], of: Sequence[groups.Group]) -> str:
  """For the terminal: a legend of the groups, then a line a task and group."""
  legend = '\n'.join(
      f'{letter(g)}  {group.label}, {_runs(len(group.members))}'
      for g, group in enumerate(of))
  closing = textwrap.fill(note(of), width=100)
  return f'{legend}\n\n{tables.aligned(_cells(found))}\n\n{closing}'


def to_html(found: Sequence[Line]) -> str:
  """The same as a table of the page."""
  head, *body = ([markup.escape(cell) for cell in cells]
                 for cells in _cells(found))
  return f'<div class="compared">{markup.table(head, body)}</div>'


def note(of: Sequence[groups.Group]) -> str:
  """What the intervals are."""
  several = any(len(group.members) > 1 for group in of)
  alone = any(len(group.members) == 1 for group in of)
  parts = []
  if several:
    parts.append('Of several runs, numbers are means over runs and intervals '
                 '95% of Student\'s t over runs, which differ by their seeds.')
  if len(of) > 1:
    parts.append('The last column is the gain less that of group A, in pairs '
                 'of runs with one seed, which have the same prompts.')
  if alone:
    parts.append('Of a single run, the norm\'s interval is a jackknife over '
                 f'{summary.NUM_BLOCKS} blocks of steps, and the gain\'s is '
                 'over held-out prompts: neither holds for another seed.')
  return ' '.join(parts)


def _runs(count: int) -> str:
  return '1 run' if count == 1 else f'{count} runs'


def legend_html(of: Sequence[groups.Group], seeds: Sequence[list[object]],
                names: Sequence[str]) -> str:
  """The groups: what sets them apart, and their runs."""
  keys = list(dict.fromkeys(key for group in of for key in group.differs))
  return markup.table(
      ['group', *map(markup.escape, keys), 'seeds', 'runs'],
      ([letter(g), *(markup.escape(group.differs[key]) for key in keys),
        markup.escape(', '.join(map(str, seeds[g]))),
        markup.escape(', '.join(names[i] for i in group.members))]
       for g, group in enumerate(of)))
