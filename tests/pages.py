"""Code on a page: its blocks, and what they print."""

import contextlib
import io
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
  """The page's blocks in a language."""
  return [text for kind, text in _fenced(page) if kind == language]


def examples(page: str) -> list[tuple[str, str]]:
  """Every python block, and the text block right behind it, or ''."""
  found = []
  for kind, text in _fenced(page):
    if kind == 'python':
      found.append((text, ''))
    elif kind == 'text':
      source, printed_before = found[-1]
      assert not printed_before, f'{page}: two outputs of one block'
      found[-1] = source, text
  return found


def printed(*sources: str, namespace: dict | None = None) -> str:
  """What the sources print, run in one namespace."""
  out = io.StringIO()
  namespace = {} if namespace is None else namespace
  with contextlib.redirect_stdout(out):
    for source in sources:
      exec(compile(source, 'page', 'exec'), namespace)
  return out.getvalue()


def _fenced(page: str) -> list[tuple[str, str]]:
  text = (ROOT / page).read_text()
  return re.findall(r'^```(\w+)\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
