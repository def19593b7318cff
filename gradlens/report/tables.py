"""The summary as text: one set of cells for the terminal and the page, CSV.

Cells round the numbers to be read; the CSV holds the same numbers in full.
"""

from collections.abc import Callable, Mapping, Sequence
import csv
import io
import itertools
import math

from gradlens.report import markup, summary

_MISSING = '--'
_GAP = '  '


def to_cells(
    rows: Sequence[summary.Row],
) -> tuple[list[tuple[str, str]], list[list[str]]]:
  """Formats the rows.

  Args:
    rows: one per task.

  Returns:
    Columns as (group, name), neighbors of one group sharing a heading, and
    for each row one cell a column.
  """
  unit, scale = unit_of([row.contribution.value for row in rows])
  norms, label = f'squared norm{unit}', f'{rows[0].estimator} [95%]'
  rewards = f'{rows[0].reward_of} reward'
  columns = [
      ('', 'task'), (norms, label), (norms, 'naive'), (norms, 'intrinsic'),
      ('update share', 'before'), ('update share', 'after'),
      (rewards, 'first'), (rewards, 'last'), (rewards, 'gain [95%]'),
      ('ratio to', 'quietest [95%]')]
  return columns, [_cells(row, scale) for row in rows]


def _cells(row: summary.Row, scale: float) -> list[str]:
  return [
      row.task,
      bracket(number, *(scale * x for x in row.contribution)),
      number(scale * row.naive), number(scale * row.intrinsic),
      percent(row.share_before), percent(row.share_after),
      fixed(row.reward_before), fixed(row.reward_after),
      bracket(signed, *row.gain),
      '1' if row.ratio == (1, 1, 1) else bracket(number, *row.ratio)]


def to_text(rows: Sequence[summary.Row]) -> str:
  """The summary as an aligned table of plain ASCII text."""
  columns, body = to_cells(rows)
  names = [name for _, name in columns]
  widths = [max(map(len, cells)) for cells in zip(names, *body, strict=True)]
  heading, first = [], 0
  for group, members in itertools.groupby(group for group, _ in columns):
    last = first + len(list(members))
    span = sum(widths[first:last]) + last - first - 1
    widths[first] += max(0, len(group) - span)
    heading.append(f'{group:>{max(span, len(group))}}')
    first = last
  # Columns of one group stand closer together than groups do.
  gaps = ['', *(' ' if left[0] == right[0] else _GAP
                for left, right in itertools.pairwise(columns))]
  lines = [_GAP.join(heading)]
  for cells in (names, *body):
    first, *others = (f'{cell:>{width}}'
                      for cell, width in zip(cells, widths, strict=True))
    lines.append(cells[0].ljust(len(first)) + ''.join(
        gap + cell for gap, cell in zip(gaps[1:], others, strict=True)))
  lines.insert(2, '-' * max(map(len, lines)))
  return '\n'.join(line.rstrip() for line in lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
  """Cells in columns: the first to the left, the others to the right."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
      '  '.join(
          cell.rjust(width) if i else cell.ljust(width)
          for i, (cell, width) in enumerate(zip(line, widths, strict=True))
      ).rstrip()
      for line in lines
  )


def records(
    rows: Sequence[summary.Row], marks: Mapping[str, object],
) -> list[dict[str, object]]:
  """A run's summary as records; an interval takes two more, _low and _high.

  Args:
    rows: one per task.
    marks: what every record starts with.
  """
  found = []
  for row in rows:
    record = dict(marks)
    for name, value in row._asdict().items():
      if isinstance(value, summary.Estimate):
        record |= {name: value.value, f'{name}_low': value.low,
                   f'{name}_high': value.high}
      else:
        record[name] = value
    found.append(record)
  return found


def to_csv(found: Sequence[Mapping[str, object]]) -> str:
  """Records as CSV, with a column for every key; empty is not known."""
  out = io.StringIO()
  keys = dict.fromkeys(key for record in found for key in record)
  writer = csv.DictWriter(out, keys, restval='', lineterminator='\n')
  writer.writeheader()
  for record in found:
    writer.writerow({
        key: '' if isinstance(value, float) and math.isnan(value) else value
        for key, value in record.items()})
  return out.getvalue()


def to_html(rows: Sequence[summary.Row]) -> str:
  """The summary as an HTML table."""
  columns, body = to_cells(rows)
  headings = ''.join(
      f'<th scope="colgroup" colspan="{len(list(members))}">'
      f'{markup.escape(group)}</th>'
      for group, members in itertools.groupby(group for group, _ in columns))
  table = markup.table(
      (markup.escape(name) for _, name in columns),
      (map(markup.escape, cells) for cells in body))
  return table.replace(
      '<thead>', f'<thead><tr class="groups">{headings}</tr>', 1)


def number(value: float) -> str:
  """Three significant digits, in a form that stays short."""
  if not math.isfinite(value):
    return _MISSING
  # Rounded first: 0.9996 is 1.00.
  mantissa, exponent = f'{value:.2e}'.split('e')
  magnitude = int(exponent)
  if not -3 <= magnitude < 4:
    return f'{mantissa}e{magnitude}'
  return f'{value:.{max(0, 2 - magnitude)}f}'


def fixed(value: float) -> str:
  """A reward, to three decimals."""
  return f'{value:.3f}' if math.isfinite(value) else _MISSING


def signed(value: float) -> str:
  """A change of reward, with its sign."""
  return f'{value:+.3f}' if math.isfinite(value) else _MISSING


def percent(value: float) -> str:
  """A share as whole percent."""
  return f'{100 * value:.0f}%' if math.isfinite(value) else _MISSING


def bracket(
    form: Callable[[float], str], value: float, low: float, high: float,
) -> str:
  """An estimate and, where there is one, its interval."""
  if not (math.isfinite(low) and math.isfinite(high)):
    return form(value)
  # The sign of a change, and of percent, is shown once.
  ends = (form(end).removeprefix('+').removesuffix('%') for end in (low, high))
  return f'{form(value)} [{", ".join(ends)}]'


def unit_of(values: Sequence[float]) -> tuple[str, float]:
  """A power of ten that makes the largest value 1 to 100."""
  largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
  if largest == 0 or 0.1 <= largest < 1e4:
    return '', 1.0
  exponent = math.floor(math.log10(largest)) - 1
  return f' (in 1e{exponent})', 10.0 ** -exponent
