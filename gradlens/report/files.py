"""Files: a report as text and as bytes, and where it is written."""

from collections.abc import Sequence
import csv
import io
import os
import textwrap

from etils import epath

from gradlens.report import (
    compare,
    groups,
    history,
    page,
    sentence,
    summary,
    tables,
)

PAGE, TABLE, STEPS = 'report.html', 'report.csv', 'report_steps.csv'


def window(runs: Sequence[history.Run], given: int | None) -> int:
  """Steps on each side of a learning gain: a tenth of the longest run.

  Raises:
    ValueError: the given one is not positive.
  """
  if given is None:
    return max(1, max(len(run.steps) for run in runs) // 10)
  if given < 1:
    raise ValueError(f'gain_window must be at least 1, not {given}.')
  return given


def text(runs: Sequence[history.Run]) -> str:
  """For the terminal; see `gradlens.report.table`."""
  if len(runs) > 1:
    of = groups.grouped(runs)
    return compare.to_text(compare.lines(runs, of), of)
  rows = summary.summarize(runs[0])
  closing = textwrap.fill(sentence.closing_sentence(rows), width=100)
  return f'{tables.to_text(rows)}\n\n{closing}'


def html(
    runs: Sequence[history.Run], gain_window: int | None, live: str = '',
) -> bytes:
  """The page; see `page.render`."""
  return page.render(runs, window(runs, gain_window), live).encode()


def table_csv(runs: Sequence[history.Run]) -> bytes:
  """The summaries, a line for every run and task."""
  of, names = groups.grouped(runs), groups.names(runs)
  home = {i: group.label for group in of for i in group.members}
  found = []
  for i, run in enumerate(runs):
    marks = {'run': names[i], 'group': home[i], 'seed': run.setting('seed')}
    found += tables.records(summary.summarize(run), marks)
  return tables.to_csv(found).encode('utf-8', 'replace')


def steps_csv(runs: Sequence[history.Run]) -> bytes:
  """Every metric of every step, a line for every run and step."""
  tags = list(dict.fromkeys(tag for run in runs for tag in run.scalars))
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(['run', 'step', *tags])
  for run, name in zip(runs, groups.names(runs), strict=True):
    steps = sorted({step for own in run.scalars.values() for step in own})
    columns = [[run.scalars.get(tag, {}).get(step, '') for step in steps]
               for tag in tags]
    writer.writerows(zip([name] * len(steps), steps, *columns, strict=True))
  return out.getvalue().encode('utf-8', 'replace')


def folder(runs: Sequence[history.Run]) -> epath.Path:
  """The run's own, or the nearest that has all the runs."""
  if len(runs) == 1:
    return runs[0].workdir
  paths = [run.workdir.resolve() for run in runs]
  return next(parent for parent in paths[0].parents
              if all(parent in path.parents for path in paths))


def write(
    runs: Sequence[history.Run], gain_window: int | None,
    output: str | os.PathLike | None,
) -> epath.Path:
  """Writes a page with its CSV files; see `gradlens.report.write`."""
  content = {PAGE: html(runs, gain_window), TABLE: table_csv(runs),
             STEPS: steps_csv(runs)}
  target = folder(runs) if output is None else epath.Path(output)
  target.mkdir(parents=True, exist_ok=True)
  for name, own in content.items():
    (target / name).write_bytes(own)
  return target / PAGE
