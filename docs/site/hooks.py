"""Hooks of the site: pages from outside of docs/, links to there, formulas."""

import pathlib
import posixpath
import re
from typing import Any

from latex2mathml import converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[2]
# Page on the site -> file that it is made of.
OUTSIDE = {'changelog.md': 'CHANGELOG.md', 'contributing.md': 'CONTRIBUTING.md'}
_PICTURES = ('.svg', '.png')
_LINK = re.compile(r'(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))')
_README = re.compile(r'^<!-- README: (.+) -->$', re.MULTILINE)
_FENCE = re.compile(r'^```.*?^```$', re.DOTALL | re.MULTILINE)
_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)
_NUMBER = re.compile(r'<mtext mathvariant="monospace">(.*?)</mtext>')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
  """Adds experiments, and pages without a place, to the navigation."""
  [experiments] = [
      part['Experiments'] for part in config.nav if 'Experiments' in part
  ]
  for page, file in _experiments().items():
    first = (ROOT / file).read_text(encoding='utf-8').partition('\n')[0]
    experiments.append({first.removeprefix('# '): page})
  [reference] = [
      part['Reference'] for part in config.nav if 'Reference' in part
  ]
  known = re.findall(r'[\w/]+\.md', str(config.nav))
  for path in sorted((ROOT / 'docs').glob('*.md')):
    if path.name not in known:
      reference.append(path.name)
  return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the pages from outside of docs/, and the pictures beside them."""
  for page, file in (OUTSIDE | _experiments()).items():
    text = (ROOT / file).read_text(encoding='utf-8')
    files.append(File.generated(config, page, content=text))
  for picture in sorted((ROOT / 'experiments').glob('**/*')):
    if picture.suffix not in _PICTURES:
      continue
    files.append(File.generated(
        config, picture.relative_to(ROOT).as_posix(),
        abs_src_path=str(picture),
    ))
  return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, **unused: Any
) -> str:
  """Puts in parts of the README, and turns links to files into addresses."""
  del unused
  source = page.file.src_uri
  file = (OUTSIDE | _experiments()).get(source, f'docs/{source}')
  text = _relinked(markdown, file, source, config)
  return _README.sub(
      lambda m: _relinked(_of_readme(m[1]), 'README.md', source, config), text
  )


def on_page_content(html: str, **unused: Any) -> str:
  """Formulas become MathML, which needs no script."""
  del unused
  return _FORMULA.sub(_mathml, html)


def _experiments() -> dict[str, str]:
  folders = sorted((ROOT / 'experiments').glob('*/README.md'))
  return {
      f'experiments/{path.parent.name}.md': path.relative_to(ROOT).as_posix()
      for path in folders
  }


def _of_readme(title: str) -> str:
  """What stands under a heading of the README."""
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  _, heading, rest = text.partition(f'\n## {title}\n')
  if not heading:
    raise ValueError(f'README.md has no section {title!r}')
  return rest.partition('\n## ')[0].strip()


def _relinked(text: str, file: str, page: str, config: MkDocsConfig) -> str:
  """A file's links, as seen from a page of the site."""
  pages = {file: page for page, file in (OUTSIDE | _experiments()).items()}
  folder = posixpath.dirname(file)

  def address(match):
    path = posixpath.normpath(posixpath.join(folder, match[1]))
    anchor = match[2] if match[2] else ''
    if not (ROOT / path).exists():
      raise ValueError(f'{file} links to {match[1]}, which is not there')
    if (ROOT / path).is_dir() and f'{path}/README.md' in pages:
      path = f'{path}/README.md'
    inside = pages.get(path, path.removeprefix('docs/'))
    if path in pages or path.startswith('docs/') or path.endswith(_PICTURES):
      return posixpath.relpath(inside, posixpath.dirname(page)) + anchor
    kind = 'tree' if (ROOT / path).is_dir() else 'blob'
    return f'{config.extra["repository"]}/{kind}/main/{path}{anchor}'

  # Code is left alone.
  code = _FENCE.findall(text)
  parts = [_LINK.sub(address, part) for part in _FENCE.split(text)]
  return ''.join(
      part + fence for part, fence in zip(parts, [*code, ''], strict=True)
  )


def _mathml(match: re.Match[str]) -> str:
  kind, latex = match[1], match[2]
  for entity, sign in (('&lt;', '<'), ('&gt;', '>'), ('&amp;', '&')):
    latex = latex.replace(entity, sign)
  display = 'block' if kind == 'div' else 'inline'
  text = converter.convert(latex.strip(), display=display)
  # The converter keeps the backslash of `\_`.
  text = _NUMBER.sub(lambda m: m[0].replace('\\_', '_'), text)
  return f'<{kind} class="formula">{text}</{kind}>'
