"""Command: what the programs share, before and beside their work."""

from collections.abc import Callable, Iterator
import contextlib
import logging
import os
import re
import sys

from absl import flags  # optax brings it

from gradlens import hosts

# TensorFlow writes metrics, and transformers has tokenizers: what they say of
# kernels and of PyTorch is of nothing that is used.
QUIET = {
    'TF_ENABLE_ONEDNN_OPTS': '0', 'TRANSFORMERS_NO_ADVISORY_WARNINGS': '1'
}


@contextlib.contextmanager
def imports(extra: str) -> Iterator[None]:
  """Around a program's imports: ends it if a package is missing.

  Raises:
    SystemExit: with one sentence, naming the package and the extra.
  """
  for name, value in QUIET.items():
    os.environ.setdefault(name, value)
  try:
    yield
  except ModuleNotFoundError as error:
    raise SystemExit(
        f'gradlens: {error.name} is not installed; run'
        f" pip install 'gradlens[{extra}]'"
    ) from error


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
  """Around a program's work: what the user can mend is said without a trace.

  Raises:
    SystemExit: with the sentence of a ValueError.
  """
  try:
    yield
  except ValueError as error:
    raise SystemExit(f'gradlens: {error}') from error


def host_flags() -> None:
  """Defines what a program on several hosts is told; see `hosts.start`."""
  flags.DEFINE_string(
      'coordinator', None, 'Of several hosts, ADDRESS:PORT of number 0; Cloud'
      ' TPUs need none of these three flags.',
  )
  flags.DEFINE_integer('num_hosts', None, 'How many there are.')
  flags.DEFINE_integer('host', None, 'Which one this is, from 0.')


@contextlib.contextmanager
def on_hosts() -> Iterator[None]:
  """Around the work of a program on one host or several."""
  with hosts.together(), one_sentence():
    given = flags.FLAGS
    hosts.start(given.coordinator, given.num_hosts, given.host)
    yield


def flags_parser(
    program: str, others: str
) -> Callable[[list[str]], list[str]]:
  """Absl's parser, but what is wrong is said in one line.

  Args:
    program: its module, with a flag `--config` for a config file.
    others: an example of its other flags.
  """

  def parse(argv: list[str]) -> list[str]:
    try:
      remaining = flags.FLAGS(argv)
      # A file that cannot be read raises when it is used.
      flags.FLAGS['config'].value.lock()
      return remaining
    except AttributeError as error:
      key = re.search(r'\w+', str(error))[0]
      given = [
          arg for arg in argv if re.match(rf'--?config\..*\b{key}\b', arg)
      ]
      if not given:
        raise  # a config file's own mistake
      problem = f'{given[0]}: no such key; configs/default.py lists them all.'
    except (flags.Error, OSError) as error:
      # What a config file raised comes with its traceback inside.
      line = str(error).strip().splitlines()[-1].strip()
      problem = line.removeprefix('ValueError: ')
    raise SystemExit(
        f'gradlens: {problem}\n'
        f'Usage: python -m gradlens.{program} --config=configs/toy.py {others}'
    )

  return parse


def show_progress() -> None:
  """Logs of gradlens go to stderr; those of its libraries only if they warn."""
  logging.getLogger().setLevel(logging.WARNING)
  logging.getLogger('absl').setLevel(logging.WARNING)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  logger = logging.getLogger('gradlens')
  logger.setLevel(logging.INFO)
  logger.addHandler(handler)
  logger.propagate = False
  # Readers that Orbax leaves behind at a damaged checkpoint would bury the
  # sentence that names it, before it or at the exit.
  sys.unraisablehook = lambda unraisable: None
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
