"""Pieces of HTML, and the guards on what goes into it."""

import base64
from collections.abc import Iterable
import hashlib
import html
import re

import plotly.graph_objects as go


def escape(text: object) -> str:
  """Text for HTML; what has no visible or valid form is replaced."""
  # A lone surrogate cannot be written as UTF-8.
  text = str(text).encode('utf-8', 'replace').decode()
  # Control characters as pictures, U+2400 and on; tabs and newlines stay.
  text = re.sub(r'[\x00-\x08\x0b-\x1f]',
                lambda match: chr(0x2400 + ord(match[0])), text)
  return html.escape(text)


def swatch(fill: str, name: str) -> str:
  """A name beside its color; `fill` is a CSS background."""
  return f'<i style="background:{fill}"></i>{escape(name)}'


def section(title: str, caption: str, body: str) -> str:
  """A section of the page, as wide as it; `body` is HTML."""
  return (f'<section class="panel wide"><h2>{escape(title)}</h2>'
          f'<p class="caption">{escape(caption)}</p>{body}</section>')


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
  """A table whose lines start with a heading; all cells are HTML."""
  names = ''.join(f'<th>{name}</th>' for name in head)
  body = ''.join(
      f'<tr><th>{first}</th>' + ''.join(f'<td>{cell}</td>' for cell in cells)
      + '</tr>' for first, *cells in lines)
  return (f'<table class="summary"><thead><tr>{names}</tr></thead>'
          f'<tbody>{body}</tbody></table>')


def figures_json(figures: Iterable[go.Figure]) -> str:
  """Figures as JSON that cannot end the script element it stands in."""
  parts = []
  for figure in figures:
    figure.layout.template = None
    parts.append(figure.to_json())
  text = f'[{",".join(parts)}]'
  for char in '<>&\u2028\u2029':
    text = text.replace(char, f'\\u{ord(char):04x}')
  return text


def policy(*scripts: str) -> str:
  """Content security policy: these scripts only, and no request at all."""
  digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
  sources = ' '.join(
      f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
  return (f"default-src 'none'; script-src {sources}; "
          "style-src 'unsafe-inline'; img-src data: blob:")
