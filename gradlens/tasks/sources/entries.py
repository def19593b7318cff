"""Entries: what verifiers read of a record beside the answer, checked."""

from collections.abc import Callable, Mapping
import json
from typing import Any


def checked(entry: Mapping[str, Any]) -> dict[str, Any]:
  """An entry whose known fields are what verifiers take them for.

  A text where a list belongs is read as JSON.

  Args:
    entry: `numbers` (list of whole numbers) and `target` (a whole number) of
      Countdown, `choices` (list of texts), `tests` (list of Python assertions,
      or of `stdin` and `stdout`, for which `input` and `output` stand as well);
      any other field stays as it is.

  Returns:
    The entry, with lists for lists.

  Raises:
    ValueError: a field is something else; it says which and what.

  >>> checked({'numbers': '[3, 4]', 'level': 'hard'})
  {'numbers': [3, 4], 'level': 'hard'}
  """
  return {
      name: _KNOWN[name](value) if name in _KNOWN else value
      for name, value in entry.items()
  }


def verifier(entry: Mapping[str, Any], default: str) -> str:
  """The verifier of records with these fields."""
  if 'tests' in entry:
    return 'code'
  if 'numbers' in entry and 'target' in entry:
    return 'countdown'
  return 'choice' if 'choices' in entry else default


def _numbers(value: Any) -> list[int]:
  found = _list('numbers', value)
  if not all(_whole(n) for n in found):
    raise ValueError(f'numbers={value!r:.80} are not whole numbers')
  return found


def _target(value: Any) -> int:
  if not _whole(value):
    raise ValueError(f'target={value!r:.80} is no whole number')
  return value


def _choices(value: Any) -> list[str]:
  found = _list('choices', value)
  if len(found) < 2 or not all(isinstance(text, str) for text in found):
    raise ValueError(f'choices={value!r:.80} are not two texts or more')
  return found


def _tests(value: Any) -> list[Any]:
  return [_test(one) for one in _list('tests', value)]


def _test(one: Any) -> Any:
  if isinstance(one, str):
    return one
  for stdin, stdout in (('stdin', 'stdout'), ('input', 'output')):
    if isinstance(one, Mapping) and stdin in one and stdout in one:
      if isinstance(one[stdin], str) and isinstance(one[stdout], str):
        return {'stdin': one[stdin], 'stdout': one[stdout]}
  raise ValueError(
      f'the test {one!r:.80} is neither an assertion nor has texts as stdin '
      'and stdout'
  )


def _list(name: str, value: Any) -> list[Any]:
  found = value
  if isinstance(value, str):
    try:
      found = json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
      raise ValueError(
          f'{name}={value!r:.80} is no list written as JSON: {error}'
      ) from error
  if not isinstance(found, list) or not found:
    raise ValueError(f'{name}={value!r:.80} is no list with something in it')
  return found


def _whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


_KNOWN: dict[str, Callable[[Any], Any]] = {
    'numbers': _numbers, 'target': _target, 'choices': _choices,
    'tests': _tests,
}
