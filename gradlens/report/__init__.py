"""Report: a run as one HTML page, a CSV file and a table on the terminal.

All three show the same numbers. The command is
`python -m gradlens.report --workdir=DIR`.
"""

# The parts are imported on use: that command imports this package before it can
# say that what they need is not installed.
import os
import textwrap


def table(workdir: str | os.PathLike) -> str:
  """Summarizes a run for the terminal.

  Args:
    workdir: the run's directory.

  Returns:
    The table, one line a task, and a closing sentence.

  Raises:
    ValueError: there is no run, or one of its files is broken.
  """
  from gradlens.report import history, sentence, summary, tables
  rows = summary.summarize(history.load(workdir))
  closing = textwrap.fill(sentence.closing_sentence(rows), width=100)
  return f'{tables.to_text(rows)}\n\n{closing}'


def write(
    workdir: str | os.PathLike, gain_window: int | None = None,
) -> os.PathLike:
  """Writes WORKDIR/report.html and WORKDIR/report.csv.

  Args:
    workdir: the run's directory, finished or not.
    gain_window: steps on each side of a learning gain; None takes a tenth of
      the run.

  Returns:
    The page's path.

  Raises:
    ValueError: there is no run, one of its files is broken, or the window is
      not positive.
  """
  from gradlens.report import history, page, summary, tables
  run = history.load(workdir)
  if gain_window is None:
    gain_window = max(1, len(run.steps) // 10)
  if gain_window < 1:
    raise ValueError(f'gain_window must be at least 1, not {gain_window}.')
  rows = summary.summarize(run)
  path = run.workdir / 'report.html'
  path.write_bytes(page.render(run, rows, gain_window).encode())
  (run.workdir / 'report.csv').write_bytes(tables.to_csv(rows).encode())
  return path
