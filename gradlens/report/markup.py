"""Pieces of HTML and JSON, and the guards on what goes into them."""

import base64
from collections.abc import Iterable
import hashlib
import html
import json
import math
import re
from typing import Any


def visible(text: object) -> str:
  """Text of which every character has a visible or at least a valid form."""
  # A lone surrogate cannot be written as UTF-8.
  text = str(text).encode('utf-8', 'replace').decode()
  # Control characters as pictures, U+2400 and on; tabs and newlines stay.
  return re.sub(r'[\x00-\x08\x0b-\x1f]',
                lambda match: chr(0x2400 + ord(match[0])), text)


def escape(text: object) -> str:
  """Text for HTML; what has no visible or valid form is replaced."""
  return html.escape(visible(text))


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
  """A table whose lines start with a heading; all cells are HTML."""
  names = ''.join(f'<th scope="col">{name}</th>' for name in head)
  body = ''.join(
      f'<tr><th scope="row">{first}</th>'
      + ''.join(f'<td>{cell}</td>' for cell in cells)
      + '</tr>' for first, *cells in lines)
  return (f'<div class="scroll" tabindex="0"><table class="summary"><thead><tr>'
          f'{names}</tr></thead><tbody>{body}</tbody></table></div>')


def island(content: Any) -> str:
  """JSON that cannot end the script element it stands in.

  Numbers keep four digits, and are null where they are not finite.
  """
  text = json.dumps(
      _plain(content), ensure_ascii=False, allow_nan=False,
      separators=(',', ':'))
  for char in '<>&\u2028\u2029':
    text = text.replace(char, f'\\u{ord(char):04x}')
  return text


def _plain(content: Any) -> Any:
  match content:
    case str():
      return visible(content)
    case dict():
      return {visible(key): _plain(value) for key, value in content.items()}
    case list() | tuple():
      return [_plain(value) for value in content]
    case float():
      return float(f'{content:.4g}') if math.isfinite(content) else None
  return content


def policy(script: str, *, live: bool) -> str:
  """Content security policy: this script only, and no request.

  Args:
    script: the page's own.
    live: the page may ask the server it came from.
  """
  digest = hashlib.sha256(script.encode()).digest()
  source = f"'sha256-{base64.b64encode(digest).decode()}'"
  connect = " connect-src 'self';" if live else ''
  return (f"default-src 'none'; script-src {source};{connect} "
          "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
          "form-action 'none'")
