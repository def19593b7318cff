"""Program: `python -m gradlens.report --workdir=DIR`."""

from collections.abc import Sequence
import importlib

from gradlens import command

with command.imports('train'):
  from absl import app, flags

  from gradlens import report
  # Imported on use by `report`; absl alone comes with optax.
  importlib.import_module('gradlens.report.page')

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Directory of the run to report on.', required=True)
_GAIN_WINDOW = flags.DEFINE_integer(
    'gain_window', None, 'Steps on each side of a learning gain; without it a '
    'tenth of the run.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
  """Prints the table and writes the page and the CSV file."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  with command.one_sentence():
    path = report.write(_WORKDIR.value, gain_window=_GAIN_WINDOW.value)
    text = report.table(_WORKDIR.value)
  print(f'{text}\n\n{path}')


if __name__ == '__main__':
  app.run(main)
