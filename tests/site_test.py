"""The site builds without a warning, links hold, and the API is all there."""

import functools
import importlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized
from pages import ROOT


def load(name):
  """A module of docs/site, which is no package."""
  path = ROOT / 'docs' / 'site' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


LINKS, HOOKS, DOCSTRINGS = map(load, ('links', 'hooks', 'docstrings'))
PACKAGES = ('models', 'rollout', 'tasks', 'losses', 'mixture',
            'tasks.verifiers')


@functools.cache
def built() -> pathlib.Path:
  """The site, built strictly, in a folder of this process."""
  folder = pathlib.Path(tempfile.mkdtemp()) / 'site'
  done = subprocess.run(
      [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', folder],
      cwd=ROOT, text=True, capture_output=True,
      env=dict(os.environ, NO_MKDOCS_2_WARNING='1'),
  )
  assert not done.returncode, done.stderr
  assert 'WARNING' not in done.stderr, done.stderr
  return folder


def tearDownModule():
  shutil.rmtree(built().parent)


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
    folder = pathlib.Path(self.create_tempdir().full_path)
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
