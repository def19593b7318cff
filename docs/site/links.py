"""Links of the built site: files and anchors exist, and nothing is fetched.

    python docs/site/links.py build/site
"""

from collections.abc import Iterator
import html.parser
import pathlib
import re
import sys
import urllib.parse

# What a browser fetches by itself, as opposed to what a reader clicks on.
_FETCHED = {
    'script': 'src', 'img': 'src', 'iframe': 'src', 'link': 'href',
    'source': 'src', 'video': 'src', 'audio': 'src', 'object': 'data',
}
_HOST = re.compile(r'(localhost|([a-z0-9-]+\.)+[a-z]{2,})(:\d+)?')
# Told to search engines and browsers, and not fetched.
_RELATIONS = {'canonical', 'prev', 'next', 'edit'}


class Page(html.parser.HTMLParser):
  """Anchors and links of a page.

  Attributes:
    anchors: ids and names.
    links: (address, whether a browser fetches it).
  """

  def __init__(self, text: str):
    super().__init__()
    self.anchors: set[str] = set()
    self.links: list[tuple[str, bool]] = []
    self.feed(text)

  def handle_starttag(
      self, tag: str, attrs: list[tuple[str, str | None]]
  ) -> None:
    """Of an element."""
    given = dict(attrs)
    self.anchors |= {given[key] for key in ('id', 'name') if given.get(key)}
    key = _FETCHED.get(tag, 'href')
    address = given.get(key)
    if address:
      fetched = tag in _FETCHED and given.get('rel') not in _RELATIONS
      self.links.append((address, fetched))


def problems(site: pathlib.Path) -> Iterator[str]:
  """One line for each link that leads nowhere, or is fetched from elsewhere."""
  site = site.resolve()
  pages = {
      path: Page(path.read_text(encoding='utf-8'))
      for path in sorted(site.glob('**/*.html'))
  }
  if not pages:
    yield f'{site} has no pages'
  for path, page in pages.items():
    for address, fetched in page.links:
      wrong = _wrong(site, pages, path, address, fetched)
      if wrong:
        yield f'{path.relative_to(site)}: {address}: {wrong}'


def _wrong(
    site: pathlib.Path, pages: dict[pathlib.Path, Page], path: pathlib.Path,
    address: str, fetched: bool,
) -> str:
  parts = urllib.parse.urlsplit(address)
  if parts.scheme == 'data':
    return ''
  if parts.scheme or parts.netloc:
    if fetched:
      return 'is fetched from another host'
    proper = parts.scheme in ('http', 'https')
    named = proper and _HOST.fullmatch(parts.netloc)
    return '' if named else 'is no address of a page'
  target = path
  if parts.path:
    start = site if parts.path.startswith('/') else path.parent
    target = (start / urllib.parse.unquote(parts.path).lstrip('/')).resolve()
    target = target / 'index.html' if target.is_dir() else target
  if not target.is_relative_to(site) or not target.exists():
    return 'no such file'
  anchor = urllib.parse.unquote(parts.fragment)
  if anchor and target in pages and anchor not in pages[target].anchors:
    return 'no such anchor'
  return ''


def main(argv: list[str]) -> None:
  """Prints the problems of a folder, and ends with 1 if there are any."""
  [folder] = argv
  found = list(problems(pathlib.Path(folder)))
  print('\n'.join(found) if found else f'{folder}: all links hold')
  sys.exit(bool(found))


if __name__ == '__main__':
  main(sys.argv[1:])
