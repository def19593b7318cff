"""The site builds without a warning, links hold, and the API is all there."""

import functools
import http.server
import importlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
from unittest import mock

from absl.testing import absltest, parameterized
import browser
from pages import ROOT
import pytest


def load(name):
  """A module of docs/site, which is no package."""
  path = ROOT / 'docs' / 'site' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


SCRATCH = tempfile.TemporaryDirectory()
LINKS, HOOKS, DOCSTRINGS = map(load, ('links', 'hooks', 'docstrings'))
PACKAGES = ('models', 'rollout', 'tasks', 'losses', 'mixture',
            'tasks.verifiers')


@functools.cache
def built() -> pathlib.Path:
  """The site, built strictly, in a folder of this process."""
  folder = pathlib.Path(SCRATCH.name) / 'site'
  done = subprocess.run(
      [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', folder],
      cwd=ROOT, text=True, capture_output=True,
      env=dict(os.environ, NO_MKDOCS_2_WARNING='1'),
  )
  assert not done.returncode, done.stderr
  assert 'WARNING' not in done.stderr, done.stderr
  return folder


def tearDownModule():
  SCRATCH.cleanup()


class Quiet(http.server.SimpleHTTPRequestHandler):
  """Serves files, and says nothing."""

  def log_message(self, *unused):
    """Of a request."""


class SiteTest(parameterized.TestCase):

  def test_every_link_holds(self):
    self.assertEqual([], list(LINKS.problems(built())))

  def test_every_page_of_docs_is_there(self):
    for path in (ROOT / 'docs').glob('**/*.md'):
      page = path.relative_to(ROOT / 'docs').with_suffix('.html')
      self.assertTrue((built() / page).exists(), page)
    for path in (ROOT / 'experiments').glob('*/README.md'):
      page = built() / 'experiments' / f'{path.parent.name}.html'
      self.assertTrue(page.exists(), page)

  @parameterized.parameters('', *PACKAGES)
  def test_every_public_name_is_in_the_reference(self, package):
    name = f'gradlens.{package}'.rstrip('.')
    anchors = set()
    for path in (built() / 'api').glob('*.html'):
      anchors |= LINKS.Page(path.read_text()).anchors
    names = importlib.import_module(name).__all__
    self.assertGreater(len(names), 3)
    # A function may have the name of its module.
    missing = [
        n for n in names
        if not {f'{name}.{n}', f'{name}.{n}.{n}'} & anchors]
    self.assertEmpty(missing)

  def test_nothing_of_restructured_text_is_left(self):
    for path in (built() / 'api').glob('*.html'):
      text = path.read_text()
      self.assertNotIn(':math:', text)
      self.assertNotIn('.. ', re.sub(r'<pre.*?</pre>', '', text, flags=re.S))

  def test_formulas_are_mathml(self):
    for path in built().glob('**/*.html'):
      self.assertNotIn('arithmatex', path.read_text(), path)
    text = (built() / 'measuring.html').read_text()
    self.assertEqual(text.count('<math '), text.count('</math>'))
    self.assertGreater(text.count('<math '), 10)
    self.assertNotIn('mathjax', text.lower())

  def test_parts_of_the_readme_are_put_in(self):
    text = (built() / 'limits.html').read_text()
    self.assertIn('memory holds K x splits copies', text)
    self.assertNotIn('README:', text)


@pytest.mark.slow
class BrowserTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(Quiet, directory=built()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    self.addCleanup(server.server_close)
    self.addCleanup(server.shutdown)
    self.address = f'http://127.0.0.1:{server.server_port}/'
    self.browser = browser.start(self, self.create_tempdir().full_path)

  def problems(self, page):
    """All but what the page asks of its own site."""
    found = self.browser.problems(self.address + page)
    own = f'request: {self.address}'
    self.assertTrue(any(problem.startswith(own) for problem in found))
    return [problem for problem in found if not problem.startswith(own)]

  def test_pages_ask_no_other_host_and_have_no_errors(self):
    for page in ('index.html', 'concepts.html', 'api/weightings.html'):
      self.assertEmpty(self.problems(page))
    # Formulas have a size, and on a narrow window nothing sticks out.
    height = 'document.querySelector("math").getBoundingClientRect().height'
    self.assertGreater(self.browser.evaluate(height), 5)
    self.browser.call(
        'Emulation.setDeviceMetricsOverride', width=390, height=800,
        deviceScaleFactor=1, mobile=True)
    for page in ('index.html', 'concepts.html', 'metrics.html'):
      self.assertEmpty(self.problems(page))
      width = self.browser.evaluate('document.documentElement.scrollWidth')
      self.assertLessEqual(width, 390, page)

  def test_search_finds_a_correction(self):
    self.problems('index.html')
    self.browser.evaluate("""
        const field = document.querySelector('.md-search__input');
        field.focus();
        field.value = 'pcgrad';
        field.dispatchEvent(new Event('keyup', {bubbles: true}));""")
    found = self.browser.evaluate("""new Promise(done => {
        const look = () => {
          const links = document.querySelectorAll('.md-search-result__link');
          if (links.length) done([...links].map(link => link.href).join(' '));
          else setTimeout(look, 100);
        };
        look(); })""")
    self.assertIn('pcgrad', found)
    self.assertEqual(set(re.findall(r'https?://[^/]+/', found)), {self.address})


class HooksTest(parameterized.TestCase):

  @parameterized.parameters(
      ('../configs/toy.py', 'https://host/blob/main/configs/toy.py'),
      ('../configs', 'https://host/tree/main/configs'),
      ('../CHANGELOG.md', '../changelog.md'),
      ('../experiments/launch/README.md#gke', '../experiments/launch.md#gke'),
      ('tasks.md#sources', '../tasks.md#sources'),
      ('https://a.org/b', 'https://a.org/b'),
      ('#here', '#here'),
  )
  def test_links_are_seen_from_the_page(self, link, expected):
    class Config:
      extra = dict(repository='https://host')

    text = HOOKS._relinked(f'[x]({link})', 'docs/a.md', 'api/a.md', Config)
    self.assertEqual(f'[x]({expected})', text)
    code = f'```text\n[x]({link})\n```'
    self.assertEqual(code, HOOKS._relinked(code, 'docs/a.md', 'a.md', Config))

  def test_a_study_brings_its_page_and_pictures(self):
    config = mock.MagicMock(
        extra=dict(repository='https://host'), site_dir='site',
        nav=[{'Reference': []}, {'Experiments': ['experiments.md']}],
        use_directory_urls=False)
    root = pathlib.Path(self.create_tempdir().full_path)
    study = root / 'experiments' / 'study'
    study.mkdir(parents=True)
    (root / 'docs').mkdir()
    (root / 'docs' / 'new.md').write_text('# New')
    text = '# A study\n![x](a.svg) [y](a.csv) [z](../../docs/new.md)'
    for name, content in {'README.md': text, 'a.svg': '', 'a.csv': ''}.items():
      (study / name).write_text(content)
    with mock.patch.object(HOOKS, 'ROOT', root), mock.patch.object(
        HOOKS, 'OUTSIDE', {}):
      HOOKS.on_config(config)
      files = HOOKS.on_files([], config)
      page = HOOKS._relinked(
          text, 'experiments/study/README.md', 'experiments/study.md', config)
    self.assertEqual(config.nav, [
        {'Reference': ['new.md']},
        {'Experiments': ['experiments.md', {
            'A study': 'experiments/study.md'}]}])
    self.assertEqual(
        [file.src_uri for file in files],
        ['experiments/study.md', 'experiments/study/a.svg'])
    self.assertEqual(
        page, '# A study\n![x](study/a.svg)'
        ' [y](https://host/blob/main/experiments/study/a.csv) [z](../new.md)')

  def test_a_link_to_nowhere_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'docs/a.md links to gone.md'):
      HOOKS._relinked('[x](gone.md)', 'docs/a.md', 'a.md', None)

  def test_a_section_that_is_not_there_is_refused(self):
    with self.assertRaisesRegex(ValueError, "no section 'Limit'"):
      HOOKS._of_readme('Limit')

  def test_signs_of_a_formula(self):
    html = HOOKS.on_page_content(
        r'<span class="arithmatex">\(a &lt; \texttt{b\_c}\)</span>')
    self.assertIn('&#x0003C;', html)
    self.assertIn('>b_c<', html)


class DocstringsTest(absltest.TestCase):

  def test_marks_become_markdown(self):
    text = DOCSTRINGS.markdown(
        'Adds :math:`a_i`.\n\n.. math::\n  b =\n  c\n\nEnd.\n\n'
        '.. warning:: Not\n  exact.\n\n>>> print(1)\n1\n>>> x = 2\n')
    self.assertEqual(
        text.split(),
        'Adds $a_i$. $$ b = c $$ End. !!! warning Not exact. '
        '```pycon >>> print(1) 1 >>> x = 2 ```'.split())
    self.assertIn('!!! warning\n    Not\n', text)


class LinksTest(parameterized.TestCase):

  @parameterized.parameters(
      ('<a href="gone.html">', 'no such file'),
      ('<a href="b.html#gone">', 'no such anchor'),
      ('<a href="../c.html">', 'no such file'),
      ('<a href="htps://a.org">', 'no address'),
      ('<a href="https://a b.org/">', 'no address'),
      ('<script src="https://a.org/x.js">', 'another host'),
      ('<link rel="stylesheet" href="https://a.org/x.css">', 'another host'),
      ('<img src="gone.png">', 'no such file'),
  )
  def test_finds(self, html, problem):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'site'
    folder.mkdir()
    # Beside the site, and so no part of it.
    (folder.parent / 'c.html').write_text('')
    (folder / 'a.html').write_text(f'<h1 id="top">{html}')
    (folder / 'b.html').write_text('<a href="a.html#top"><a href="#me" id=me>')
    [found] = LINKS.problems(folder)
    self.assertStartsWith(found, 'a.html: ')
    self.assertIn(problem, found)

  def test_an_empty_folder_is_no_site(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    self.assertLen(list(LINKS.problems(folder)), 1)


if __name__ == '__main__':
  absltest.main()
