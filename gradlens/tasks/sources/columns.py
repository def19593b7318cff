"""Columns: which fields of a record are question, answer and verifier data."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

from gradlens.tasks.query import hint, pairs
from gradlens.tasks.sources import entries
from gradlens.tasks.types import Row


class Columns(NamedTuple):
  """A map from a record's columns; a dot goes into a nested one.

  Attributes:
    prompt: column of the question.
    answer: column of the answer; '' if there is none.
    entry: names that the verifier and the template know, to columns.
  """

  prompt: str
  answer: str
  entry: dict[str, str]

  @classmethod
  def take(
      cls, params: dict[str, str], *, prompt: str = 'prompt',
      answer: str = 'answer',
  ) -> Self:
    """What a source's parameters say, given its default columns."""
    params = dict(params)
    return cls(
        params.pop('prompt', prompt), params.pop('answer', answer), params
    )

  @property
  def names(self) -> list[str]:
    """Of the columns at the top of a record."""
    used = [self.prompt, self.answer, *self.entry.values()]
    return list(dict.fromkeys(name.partition('.')[0] for name in used if name))

  def row(self, record: Mapping[str, Any]) -> Row:
    """A record as a row; what is null is empty.

    Raises:
      ValueError: a column is not there, or not what it has to be.
    """
    return Row(
        _text(self.prompt, _find(record, self.prompt)),
        _text(self.answer, _find(record, self.answer)) if self.answer else '',
        entries.checked({
            name: _find(record, column) for name, column in self.entry.items()
        }),
    )


def parse(spec: str, own: Iterable[str]) -> tuple[str, dict[str, str], dict]:
  """Takes `WHAT?KEY=VALUE&KEY=VALUE` apart.

  Args:
    spec: `%20` stands for a blank, and so on.
    own: keys that are no columns.

  Returns:
    What is named; values of the own keys that are given; those of others.

  Raises:
    ValueError: a part that is no `KEY=VALUE`, or a key given twice.
  """
  what, _, query = spec.partition('?')
  found = pairs(query, of=what)
  mine = {key: found.pop(key) for key in own if key in found}
  return what, mine, found


def number(params: Mapping[str, str], key: str) -> int:
  """A count among the parameters; 0 if it is not given.

  Raises:
    ValueError: it is no whole number, or below 0.
  """
  text = params[key] if key in params else '0'
  if not text.isdecimal():
    raise ValueError(f'parameter {key}={text} is no count; give it digits')
  return int(text)


def _find(record: Mapping[str, Any], column: str) -> Any:
  value: Any = record
  for name in [column] if column in record else column.split('.'):
    if not isinstance(value, Mapping) or name not in value:
      known = sorted(value) if isinstance(value, Mapping) else []
      raise ValueError(
          f'there is no column {column!r}{hint(name, known)}; there are '
          f'{", ".join(known) if known else "none at that place"}; say which'
          ' is meant, as in ?prompt=COLUMN&answer=COLUMN'
      )
    value = value[name]
  return value


def _text(column: str, value: Any) -> str:
  # NaN stands for nothing in tables, and does not equal itself.
  if value is None or value != value:
    return ''
  if not isinstance(value, str | int | float):
    raise ValueError(
        f'column {column!r} holds {value!r:.80}, which is neither text nor a '
        'number'
    )
  text = str(value)
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
        f'column {column!r} is no text of Unicode: {error}'
    ) from error
  return text
