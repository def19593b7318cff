"""The template of a task: a wordy question cut to its payload."""

from collections.abc import Callable, Mapping
import re
import types
from typing import Any

Cut = Callable[..., str]
_NONE: Mapping[str, Any] = types.MappingProxyType({})


def cutter(pattern: str, template: str) -> Cut:
  """The function that turns a source's question into a prompt.

  Args:
    pattern: regular expression, searched for in the question; '' matches any.
    template: `str.format` string over the pattern's groups, by number from 0
      or by name; over `question`, and over the names of the record's entry. A
      group hides what else has its name. A group that took no part in the match
      is empty.

  Returns:
    `cut(question, entry={}) -> prompt`, which raises a ValueError on a question
    that the pattern does not match, or if the template asks for what there is
    not.

  Raises:
    ValueError: `pattern` is no regular expression.

  >>> cutter(r': (\\w+)$', 'reverse {0}=')('Spell this word backward: sun')
  'reverse sun='
  >>> cutter('', '{question} {numbers}')('Make 7 of', {'numbers': [3, 4]})
  'Make 7 of [3, 4]'
  """
  try:
    compiled = re.compile(pattern)
  except re.error as error:
    raise ValueError(
        f'pattern {pattern!r} is no regular expression: {error}'
    ) from error

  def cut(question: str, entry: Mapping[str, Any] = _NONE) -> str:
    match = compiled.search(question)
    if match is None:
      raise ValueError(
          f'pattern {pattern!r} does not match the question {question!r:.200}; '
          "change the pattern, or the source's parameters"
      )
    names = {**entry, 'question': question, **match.groupdict(default='')}
    try:
      return template.format(*match.groups(default=''), **names)
    except (AttributeError, IndexError, KeyError, TypeError,
            ValueError) as error:
      raise ValueError(
          f'template {template!r} does not fit pattern {pattern!r}, which has '
          f'{compiled.groups} groups, numbered from 0, and a record with the '
          f'names {", ".join(sorted(names))} ({error}); double a brace that is '
          'meant literally'
      ) from error

  return cut
