"""The template of a task: a wordy question cut to its payload."""

from collections.abc import Callable
import re


def cutter(pattern: str, template: str) -> Callable[[str], str]:
  """The function that turns a source's question into a prompt.

  Args:
    pattern: regular expression, searched for in the question.
    template: `str.format` string over the pattern's groups, by number from 0
      or by name. A group that took no part in the match is empty.

  Returns:
    `cut(question) -> prompt`, which raises a ValueError on a question that the
    pattern does not match.

  Raises:
    ValueError: `pattern` is no regular expression, or `template` asks for a
      group that it does not have.

  >>> cutter(r': (\\w+)$', 'reverse {0}=')('Spell this word backward: sun')
  'reverse sun='
  """
  try:
    compiled = re.compile(pattern)
  except re.error as error:
    raise ValueError(
        f'pattern {pattern!r} is no regular expression: {error}'
    ) from error

  def fill(groups: tuple[str, ...], named: dict[str, str]) -> str:
    try:
      return template.format(*groups, **named)
    except (IndexError, KeyError, ValueError) as error:
      raise ValueError(
          f'template {template!r} does not fit pattern {pattern!r}, which has '
          f'{compiled.groups} groups, numbered from 0 ({error}); double a '
          'brace that is meant literally'
      ) from error

  fill(('',) * compiled.groups, dict.fromkeys(compiled.groupindex, ''))

  def cut(question: str) -> str:
    match = compiled.search(question)
    if match is None:
      raise ValueError(
          f'pattern {pattern!r} does not match the question {question!r}; '
          "change the pattern, or the source's parameters"
      )
    return fill(match.groups(default=''), match.groupdict(default=''))

  return cut
