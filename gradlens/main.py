"""Trains from the command line: python -m gradlens.main --config --workdir."""

import logging

from absl import app, flags
from ml_collections import config_flags

from gradlens import report, train

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with its argument after a colon.',
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder.")


def main(argv: list[str]) -> None:
  """Runs or resumes the run, then prints its table and writes its report."""
  if len(argv) > 1:
    raise app.UsageError(f'not understood: {" ".join(argv[1:])}')
  logging.getLogger('gradlens').setLevel(logging.INFO)
  try:
    train.train(_CONFIG.value, _WORKDIR.value)
    print(report.table(_WORKDIR.value))
    print(f'Report: {report.write(_WORKDIR.value)}')
  except ValueError as error:
    raise SystemExit(f'gradlens: {error}') from error


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main)
