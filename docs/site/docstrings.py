"""Docstrings as Markdown: their formulas, warnings and doctests."""

import re
import textwrap
from typing import Any

import griffe

_INLINE = re.compile(r':math:`([^`]*)`')
_BLOCK = re.compile(
    r'^(?P<indent> *)\.\. (?P<kind>math|warning|note):: *(?P<rest>.*)\n'
    r'(?P<body>(?:(?P=indent) +.*\n|\s*\n(?=(?P=indent) +\S))*)',
    re.MULTILINE,
)
_DOCTEST = re.compile(r'^( *)>>> .*\n(?:\1\S.*\n)*', re.MULTILINE)


def markdown(text: str) -> str:
  """A docstring with reStructuredText's marks turned into Markdown's."""
  text = _INLINE.sub(lambda m: f'${" ".join(m[1].split())}$', text + '\n')
  text = _BLOCK.sub(_block, text)
  return _DOCTEST.sub(_example, text).rstrip('\n')


class Docstrings(griffe.Extension):
  """Rewrites every docstring before it is parsed."""

  def on_object(self, *, obj: griffe.Object, **unused: Any) -> None:
    """Of a module, class, function or attribute."""
    del unused
    if obj.docstring is not None:
      obj.docstring.value = markdown(obj.docstring.value)
    elif obj.is_attribute and obj.parent.is_module and obj.is_public:
      obj.docstring = griffe.Docstring(_said_above(obj), parent=obj)


def _said_above(obj: griffe.Object) -> str:
  """The comment above a constant, or what it is."""
  lines = obj.filepath.read_text(encoding='utf-8').splitlines()
  said = []
  for line in reversed(lines[: obj.lineno - 1]):
    if not line.startswith('# '):
      break
    said.insert(0, line[2:])
  return ' '.join(said) if said else 'A constant.'


def _block(match: re.Match[str]) -> str:
  indent = match['indent']
  body = textwrap.dedent(match['body']).strip()
  said = '\n'.join(filter(None, (match['rest'], body)))
  if match['kind'] == 'math':
    lines = ['', '$$', said, '$$', '']
  else:
    lines = [
        '', f'!!! {match["kind"]}', textwrap.indent(said, '    '), '']
  return textwrap.indent('\n'.join(lines), indent) + '\n'


def _example(match: re.Match[str]) -> str:
  indent = match[1]
  body = match[0].rstrip('\n')
  return f'\n{indent}```pycon\n{body}\n{indent}```\n'
