"""The report's page is safe and whole: in a browser, no error, no request."""

import base64
import html.parser
import os
import pathlib
import shutil
import subprocess
import sys

from absl.testing import absltest, parameterized
from browser import Browser
from known_run import Page, ReportCase, write_run
import pytest

from gradlens import report

HOSTILE = ('</script><img src=x onerror=alert(1)>\u2028<!--<script>'
           '&lt;\u202e\x00\ud800')


class HostileTextTest(ReportCase):

  def test_stays_text(self):
    names = ('a</script><img src=x>', 'b\u2028')
    write_run(self.workdir, names=names, text=HOSTILE)
    text = report.write(self.workdir).read_text()
    page = Page(text)
    self.assertNotIn('img', page.tags)
    self.assertEqual(page.tags.count('script'), 3)
    # What has no visible form is shown by a picture of it, or a question mark.
    shown = HOSTILE.replace('\x00', '\u2400').replace('\ud800', '?')
    self.assertGreaterEqual(page.texts.count(shown), 2 * 3)
    figures = text.partition('id="figures">')[2].partition('</script>')[0]
    self.assertNoCommonElements(figures, '<>\u2028')
    named = {trace.get('name') for f in page.figures for trace in f['data']}
    self.assertContainsSubset({html.escape(name) for name in names}, named)


@pytest.mark.slow
class BrowserTest(ReportCase):

  def setUp(self):
    super().setUp()
    program = shutil.which('chromium') or shutil.which('google-chrome')
    if program is None:
      missing = 'needs chromium or google-chrome on the path'
      if os.environ.get('CI') == 'true':
        self.fail(missing)
      self.skipTest(missing)
    self.browser = Browser(program, self.workdir.parent / 'profile')
    self.addCleanup(self.browser.close)

  def test_finds_what_is_wrong_with_a_page(self):
    path = self.workdir.parent / 'bad.html'
    path.write_text(
        '<img src="http://127.0.0.1:9/external.png"><script>'
        'console.error("complaint"); throw new Error("thrown")</script>')
    found = '\n'.join(self.browser.problems(path.as_uri()))
    for problem in ('request: http://127.0.0.1:9/external.png', 'complaint',
                    'thrown'):
      self.assertIn(problem, found)

  @parameterized.parameters('light', 'dark')
  def test_page_draws_everything_and_asks_for_nothing(self, scheme):
    write_run(self.workdir, text=HOSTILE)
    path = pathlib.Path(report.write(self.workdir))
    self.browser.call('Emulation.setEmulatedMedia', features=[
        {'name': 'prefers-color-scheme', 'value': scheme}])
    self.browser.call('Emulation.setDeviceMetricsOverride', width=1280,
                      height=900, deviceScaleFactor=1, mobile=False)
    self.assertEqual(self.browser.problems(path.as_uri()), [])
    drawn = self.browser.evaluate(
        '[...document.querySelectorAll(".plot:not([hidden])")]'
        '.map(div => div.querySelectorAll(".js-line, .hm, .points").length)')
    self.assertLen(drawn, 9)
    self.assertNotIn(0, drawn)
    # The whole page fits the window's width.
    self.assertLessEqual(
        self.browser.evaluate('document.documentElement.scrollWidth'), 1280)
    for button in '.tabs button + button', '.chip':
      self.browser.evaluate(f'document.querySelector("{button}").click()')
    png = base64.b64decode(self.browser.call(
        'Page.captureScreenshot', captureBeyondViewport=True)['data'])
    # Kept where one wants to look at it; a blank page has less than 20 kB.
    folder = os.environ.get('SCREENSHOTS', self.workdir)
    (pathlib.Path(folder) / f'report_{scheme}.png').write_bytes(png)
    self.assertGreater(len(png), 100_000)


@pytest.mark.slow
class CommandTest(ReportCase):

  def command(self):
    return subprocess.run(
        [sys.executable, '-m', 'gradlens.report', f'--workdir={self.workdir}'],
        capture_output=True, text=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'})

  def test_prints_the_table_and_the_path(self):
    failed = self.command()
    self.assertEqual(failed.returncode, 1)
    self.assertRegex(failed.stderr, r'(?m)^gradlens: .* holds no run')
    self.assertNotIn('Traceback', failed.stderr)
    write_run(self.workdir)
    done = self.command()
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertTrue(done.stdout.startswith(report.table(self.workdir)))
    self.assertIn(str(self.workdir / 'report.html'), done.stdout)


if __name__ == '__main__':
  absltest.main()
