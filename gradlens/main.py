"""Trains from the command line: python -m gradlens.main --config --workdir."""

import re

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


def _parse_flags(argv: list[str]) -> list[str]:
  """Absl's parser, but what is wrong is said in one line."""
  try:
    remaining = flags.FLAGS(argv)
    _CONFIG.value.lock()  # a file that cannot be read raises when it is used
    return remaining
  except AttributeError as error:
    key = re.search(r'\w+', str(error))[0]
    given = [arg for arg in argv if re.match(rf'--?config\..*\b{key}\b', arg)]
    if not given:
      raise  # a config file's own mistake
    problem = f'{given[0]}: no such key; configs/default.py lists them all.'
  except (flags.Error, OSError) as error:
    # What a config file raised comes with its traceback inside.
    line = str(error).strip().splitlines()[-1].strip()
    problem = line.removeprefix('ValueError: ')
  raise SystemExit(
      f'gradlens: {problem}\n'
      'Usage: python -m gradlens.main --config=configs/toy.py --workdir=DIR'
  )


def main(argv: list[str]) -> None:
  """Runs or resumes the run, then prints its table and writes its report."""
  if len(argv) > 1:
    raise app.UsageError(f'not understood: {" ".join(argv[1:])}')
  command.show_progress()
  with command.one_sentence():
    train.train(_CONFIG.value, _WORKDIR.value)
    print(report.table(_WORKDIR.value))
    print(f'\nReport: {report.write(_WORKDIR.value)}')


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=_parse_flags)
