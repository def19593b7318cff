"""Sources: where records come from, named by a scheme and what follows it."""

from gradlens.tasks import reasoning_gym
from gradlens.tasks.sources import files, tfds
from gradlens.tasks.types import Source

__all__ = ['open_source']

_FIXED = {'jsonl': files.jsonl, 'parquet': files.parquet, 'tfds': tfds.source}
_SCHEMES = ('rg', *_FIXED)


def open_source(text: str, *, seed: int, num_draws: int) -> Source:
  """Opens the source that a string names.

  Args:
    text: `SCHEME:WHAT?KEY=VALUE&KEY=VALUE`; see docs/tasks.md.
    seed: of draws, for sources that are drawn from.
    num_draws: how many draws there may be.

  Raises:
    ValueError: an unknown scheme, or what follows it is wrong.
  """
  scheme, _, spec = text.partition(':')
  if scheme == 'rg':
    return reasoning_gym.source(spec, seed=seed, num_draws=num_draws)
  if scheme not in _FIXED:
    raise ValueError(
        f'source {text!r} has the unknown scheme {scheme!r}; it starts with '
        f'one of {", ".join(f"{s}:" for s in _SCHEMES)}'
    )
  return _FIXED[scheme](spec)
