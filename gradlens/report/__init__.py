"""Report: runs as one HTML page, CSV files and a table on the terminal.

All show the same numbers. The command is
`python -m gradlens.report --workdir=DIR`; docs/report.md says what is shown.
"""

# The parts are imported on use: that command imports this package before it can
# say that what they need is not installed.
from collections.abc import Sequence
import os

Workdirs = str | os.PathLike | Sequence[str | os.PathLike]


def several(workdirs: Workdirs) -> list[str | os.PathLike]:
  """The directories as a list."""
  if isinstance(workdirs, (str, os.PathLike)):
    return [workdirs]
  return list(workdirs)


def table(workdirs: Workdirs) -> str:
  """Summarizes a run, or compares several, for the terminal.

  Args:
    workdirs: the directory of a run, or those of several.

  Returns:
    The table. Of one run it has a line a task, and a closing sentence; of
    several, a line for every task and group of runs.

  Raises:
    ValueError: there is no run, or one of its files is broken.
  """
  from gradlens.report import files, history
  return files.text(history.load_all(several(workdirs)))


def write(
    workdirs: Workdirs, gain_window: int | None = None,
    output: str | os.PathLike | None = None,
) -> os.PathLike:
  """Writes report.html, report.csv and report_steps.csv.

  Args:
    workdirs: the directory of a run, finished or not, or those of several.
    gain_window: steps on each side of a learning gain; None takes a tenth of
      the longest run.
    output: the folder to write to; None takes the run's own, or the nearest
      that has all the runs.

  Returns:
    The page's path.

  Raises:
    ValueError: there is no run, one of its files is broken, or the window is
      not positive.
  """
  from gradlens.report import files, history
  runs = history.load_all(several(workdirs))
  return files.write(runs, gain_window, output)
