"""Program: `python -m gradlens.report --workdir=DIR[,DIR...]`."""

from collections.abc import Sequence

from gradlens import command

with command.imports('train'):
  from absl import app, flags

  from gradlens.report import files, history, serve

_WORKDIR = flags.DEFINE_list(
    'workdir', None, 'Directory of the run to report on; several, with commas '
    'between them, are compared.', required=True)
_GAIN_WINDOW = flags.DEFINE_integer(
    'gain_window', None, 'Steps on each side of a learning gain; without it a '
    'tenth of the longest run.', lower_bound=1)
_OUTPUT = flags.DEFINE_string(
    'output', None, 'Folder to write to; without it that of the run, or the '
    'nearest that has all the runs.')
_SERVE = flags.DEFINE_integer(
    'serve', None, 'Write no files, but show the page on this port of this '
    'machine, to this machine only, and renew it while runs go on. 0 takes a '
    'free port.', lower_bound=0, upper_bound=65535)


def main(argv: Sequence[str]) -> None:
  """Prints the table and writes the page and the CSV files, or serves them."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  with command.one_sentence():
    if _SERVE.value is not None:
      serve.serve(_WORKDIR.value, _SERVE.value, gain_window=_GAIN_WINDOW.value)
      return
    runs = history.load_all(_WORKDIR.value)
    path = files.write(runs, _GAIN_WINDOW.value, _OUTPUT.value)
    text = files.text(runs)
  print(f'{text}\n\n{path}')


if __name__ == '__main__':
  app.run(main)
