"""Tasks of reasoning-gym: generated questions with verifiers of their own."""

from collections.abc import Sequence
import dataclasses
import os
import random
from typing import Any

from gradlens.tasks.query import hint, pairs
from gradlens.tasks.types import Record, Row, Source

_RANDOM = 'random'  # Python's word for a hash seed that is not set
EXECUTES = 'its verifier executes the completion as Python'

# A test runs every verifier that is not listed on completions that would show
# that they were executed.
REFUSED = {
    'binary_matrix': EXECUTES,
    'codeio': 'drawing from it runs code that a language model has rewritten',
    'composite': 'it takes other datasets; name one of them',
    'countdown': EXECUTES,
    'game_of_life_halting': 'its verifier rewards any text that is not empty',
    'intermediate_integration': EXECUTES,
    'n_queens': EXECUTES,
    'polynomial_multiplication': EXECUTES,
    'puzzle24': EXECUTES,
    'simple_integration': EXECUTES,
    'spiral_matrix': EXECUTES,
    'string_insertion': EXECUTES,
}

# They iterate over sets of strings: what is drawn depends on how this process
# hashes, which is another way in each that was not told how. A test finds them.
HASHED = ('isomorphic_strings', 'knight_swap', 'ransom_note', 'word_ladder')

# Set by whoever draws, not in a source string.
_OURS = {'seed', 'size'}


class Verify:
  """A dataset's own verifier. Pickled as its arguments, not as its data."""

  def __init__(self, name: str, params: dict[str, Any]) -> None:
    self._args = name, params
    self._dataset = _create(name, seed=0, **params)

  def __reduce__(self) -> tuple[Any, ...]:
    return Verify, self._args

  def __call__(self, completion: str, record: Record) -> float:
    return self._dataset.score_answer(completion, record.entry)


class _Draws(Sequence[Row]):
  """What a dataset draws, by number; an answer that is None is empty."""

  def __init__(self, dataset: Any, size: int) -> None:
    self._dataset, self._size = dataset, size

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, i: int) -> Row:
    if not 0 <= i < self._size:
      raise IndexError(i)
    entry = self._dataset[i]
    answer = entry['answer']
    return Row(entry['question'], '' if answer is None else str(answer), entry)


def source(spec: str, *, seed: int, num_draws: int) -> Source:
  """Opens a dataset.

  Args:
    spec: `'DATASET?KEY=VALUE&KEY=VALUE'`.
    seed: of the draws.
    num_draws: how many draws there may be.

  Returns:
    The draws, with the dataset's own verifier.

  Raises:
    ValueError: unknown or refused dataset, unknown or wrong parameter; or the
      dataset depends on Python's hash seed, and that is not set.
  """
  name, _, query = spec.partition('?')
  params = _parse(name, query)
  if name in HASHED and os.environ.get('PYTHONHASHSEED', _RANDOM) == _RANDOM:
    raise ValueError(
        f"what dataset {name!r} draws depends on Python's hash seed, so that no"
        ' run could be repeated; start the program with PYTHONHASHSEED=0'
    )
  # A dataset's i-th entry is that of seed + i: seeds must lie far apart.
  start = random.Random(seed).getrandbits(31)
  dataset = _create(name, seed=start, size=num_draws, **params)
  return Source(
      _Draws(dataset, num_draws), Verify(name, params), generated=True
  )


def _datasets() -> dict[str, tuple[type, type]]:
  try:
    from reasoning_gym.factory import DATASETS
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tasks of reasoning-gym need it: pip install 'gradlens[train]'"
    ) from error
  return DATASETS


def _create(name: str, **params: Any) -> Any:
  dataset, config = _datasets()[name]
  try:
    return dataset(config=config(**params))
  except (AssertionError, TypeError, ValueError) as error:
    raise ValueError(
        f'reasoning-gym refuses {params} for {name!r}: {error}'
    ) from error


def _parse(name: str, query: str) -> dict[str, Any]:
  datasets = _datasets()
  if name not in datasets:
    raise ValueError(
        f'reasoning-gym has no dataset {name!r}{hint(name, datasets)}'
    )
  if name in REFUSED:
    raise ValueError(f'dataset {name!r} is refused: {REFUSED[name]}')
  config = datasets[name][1]()
  known = {field.name for field in dataclasses.fields(config)} - _OURS
  params = {}
  for key, text in pairs(query, of=name).items():
    if key not in known:
      raise ValueError(
          f'dataset {name!r} has no parameter {key!r}{hint(key, known)}; it '
          f'has {", ".join(sorted(known))}'
      )
    default = getattr(config, key)
    try:
      params[key] = _value(text, default)
    except (LookupError, TypeError, ValueError) as error:
      raise ValueError(
          f'parameter {key}={text} of {name!r} is not of the type of its '
          f'default, {default!r}'
      ) from error
  return params


def _value(text: str, default: Any) -> Any:
  """`text` as the type of `default`, which may be a sequence of its type."""
  if isinstance(default, bool):
    return {'true': True, 'false': False}[text.lower()]
  if isinstance(default, list | tuple):
    return type(default)(_value(t, default[0]) for t in text.split(','))
  if default is None:
    return int(text)
  return type(default)(text)
