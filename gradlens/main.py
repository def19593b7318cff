"""Trains from the command line: python -m gradlens.main --config --workdir."""

import sys

from gradlens import command

with command.imports('train'):
  from absl import app, flags
  from ml_collections import config_flags

  from gradlens import report, train

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with its argument after a colon.',
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder.")
# That of a program that SIGTERM ends; what restarts jobs must not take a run
# that was asked to end for one that is done.
_ASKED_TO_END = 143


def main(argv: list[str]) -> None:
  """Runs or resumes the run, then prints its table and writes its report."""
  if len(argv) > 1:
    raise app.UsageError(f'not understood: {" ".join(argv[1:])}')
  command.show_progress()
  with command.one_sentence():
    run = train.train(_CONFIG.value, _WORKDIR.value)
    print(report.table(_WORKDIR.value))
    print(f'\nReport: {report.write(_WORKDIR.value)}')
  if run.steps[-1] < _CONFIG.value.num_steps:
    sys.exit(_ASKED_TO_END)


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=command.flags_parser('main', '--workdir=DIR'))
