"""Queries: the `KEY=VALUE&KEY=VALUE` behind what a config's string names."""

from collections.abc import Iterable
import difflib
import urllib.parse


def pairs(query: str, of: str) -> dict[str, str]:
  """Keys and values, where `%20` stands for a blank, and so on.

  Args:
    query: what follows the question mark.
    of: what it belongs to, for messages.

  Raises:
    ValueError: a part that is no `KEY=VALUE`, or a key given twice.

  >>> pairs('a=1&b=x%20y', of='source')
  {'a': '1', 'b': 'x y'}
  """
  found: dict[str, str] = {}
  for pair in filter(None, query.split('&')):
    key, equals, text = pair.partition('=')
    if not equals:
      raise ValueError(f'parameter {pair!r} of {of!r} is not KEY=VALUE')
    if key in found:
      raise ValueError(f'parameter {key!r} of {of!r} is given twice')
    found[key] = urllib.parse.unquote(text)
  return found


def hint(word: str, words: Iterable[str]) -> str:
  """What a misspelled word may have meant; '' if nothing is close.

  >>> hint('maths', ['math', 'exact'])
  "; did you mean 'math'?"
  """
  close = difflib.get_close_matches(word, list(words))
  return f'; did you mean {" or ".join(map(repr, close))}?' if close else ''
