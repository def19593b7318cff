"""Command: what the programs share, before and beside their work."""

from collections.abc import Iterator
import contextlib
import logging


@contextlib.contextmanager
def imports(extra: str) -> Iterator[None]:
  """Around a program's imports: ends it if a package is missing.

  Raises:
    SystemExit: with one sentence, naming the package and the extra.
  """
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
