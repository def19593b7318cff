"""The report's page is safe and whole: in a browser, no error, no request."""

import base64
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import urllib.request

from absl.testing import absltest, parameterized
import browser
from known_run import Page, ReportCase, write_run
import pytest

from gradlens import report
from gradlens.report import serve, tables

HOSTILE = ('</script><img src=x onerror=alert(1)>\u2028<!--<script>'
           'alert(2)</script>&lt;"\'javascript:alert(3)\u202e\x00\ud800')
# What has no visible form is shown by a picture of it, or a question mark.
SHOWN = HOSTILE.replace('\x00', '\u2400').replace('\ud800', '?')


class HostileTextTest(ReportCase):

  def test_stays_text(self):
    names = ('a</script><img src=x>', 'b\u2028')
    write_run(self.workdir, names=names, text=HOSTILE,
              correction={'name': HOSTILE})
    text = report.write(self.workdir).read_text()
    page = Page(text)
    self.assertNotIn('img', page.tags)
    self.assertEqual(page.tags.count('script'), 2)
    self.assertIn(SHOWN, page.data['samples']['texts'])
    self.assertIn(SHOWN, page.texts)
    data = text.partition('id="data">')[2].partition('</script>')[0]
    self.assertNoCommonElements(data, '<>&\u2028')
    self.assertEqual(page.data['tasks'], list(names))

  def test_nothing_comes_from_elsewhere(self):
    write_run(self.workdir)
    text = report.write(self.workdir).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    self.assertStartsWith(policy, "default-src 'none'; script-src 'sha256-")
    self.assertNotIn('connect-src', policy)
    # The namespace of SVG is a name, not an address.
    addresses = re.findall(r'(?:https?:)?//[\w.]+\.\w+[\w/]*', text)
    self.assertEqual(set(addresses), {'http://www.w3.org/2000/svg'})


@pytest.mark.slow
class BrowserTest(ReportCase):

  def setUp(self):
    super().setUp()
    self.browser = browser.start(self, self.workdir.parent / 'profile')

  def open(self, *workdirs, scheme='light', width=1440, **kwargs):
    """Writes and opens the page; it must find nothing to complain about."""
    path = report.write(workdirs or self.workdir, **kwargs)
    self.resize(width, scheme)
    self.address = pathlib.Path(path).as_uri()
    self.assertEqual(self.browser.problems(self.address), [])
    self.browser.call('Page.bringToFront')

  def resize(self, width, scheme='light', media=''):
    self.browser.call('Emulation.setEmulatedMedia', media=media, features=[
        {'name': 'prefers-color-scheme', 'value': scheme}])
    self.browser.call('Emulation.setDeviceMetricsOverride', width=width,
                      height=900, deviceScaleFactor=1, mobile=width < 500)

  def compared(self):
    """Two corrections, of two seeds and of one."""
    paths = []
    for name, seed in (('total', 1), ('total', 2), ('pcgrad', 1)):
      paths.append(self.workdir / f'{name}{seed}')
      write_run(paths[-1], seed=seed, correction={'name': name},
                text=f'{name} {seed}', source='one')
    return paths

  def js(self, expression):
    return self.browser.evaluate(expression)

  def count(self, selector):
    return self.js(f'document.querySelectorAll({selector!r}).length')

  def texts(self, selector):
    return self.js(f'[...document.querySelectorAll({selector!r})]'
                   '.map(e => e.textContent)')

  def choose(self, selector, value):
    self.js(f'{{ const e = document.querySelector({selector!r});'
            f'e.value = {value!r};'
            'e.dispatchEvent(new Event("input", {bubbles: true}));'
            'e.dispatchEvent(new Event("change", {bubbles: true})); }')

  def click(self, selector):
    self.js(f'document.querySelector({selector!r}).click()')

  def screenshot(self, name):
    png = base64.b64decode(self.browser.call(
        'Page.captureScreenshot', captureBeyondViewport=True)['data'])
    # Kept where one wants to look at it; a blank page has less than 20 kB.
    folder = os.environ.get('SCREENSHOTS', self.workdir.parent)
    (pathlib.Path(folder) / f'report_{name}.png').write_bytes(png)
    self.assertGreater(len(png), 100_000)

  def assert_quiet(self):
    """No error, no message on the console and no request since the opening."""
    self.js('0')
    self.assertEqual(self.browser.found(self.address), [])

  def test_finds_what_is_wrong_with_a_page(self):
    path = self.workdir.parent / 'bad.html'
    path.write_text(
        '<img src="http://127.0.0.1:9/external.png"><script>'
        'console.error("complaint"); throw new Error("thrown")</script>')
    found = '\n'.join(self.browser.problems(path.as_uri()))
    for problem in ('request: http://127.0.0.1:9/external.png', 'complaint',
                    'thrown'):
      self.assertIn(problem, found)

  def test_numbers_are_those_of_the_table(self):
    write_run(self.workdir)
    self.open()
    values = [0.5, -12.345, 1234.6, 0.99951, 99.96, 9999.6, 9.996e-4, -5e-7]
    self.assertEqual(
        self.js(f'{values}.map(digits)'),
        [tables.number(value).replace('-', '\u2212') for value in values])

  @parameterized.parameters(
      ('light', 1440), ('dark', 1440), ('light', 390), ('dark', 390))
  def test_page_draws_everything_and_asks_for_nothing(self, scheme, width):
    write_run(self.workdir, text=HOSTILE)
    self.open(scheme=scheme, width=width)
    drawn = self.js('[...document.querySelectorAll("figure.panel")].map(f => '
                    'f.querySelectorAll(".plots svg :is(path, rect)").length)')
    self.assertLen(drawn, 11)
    self.assertNotIn(0, drawn)
    # Nothing stands out of the window: what is wider scrolls by itself.
    self.assertLessEqual(
        self.js('document.documentElement.scrollWidth'), width)
    ground = self.js('getComputedStyle(document.body).backgroundColor')
    self.assertEqual(ground, {'light': 'rgb(251, 251, 250)',
                              'dark': 'rgb(20, 23, 27)'}[scheme])
    self.screenshot(f'{scheme}_{width}')
    self.assert_quiet()

  def test_what_a_model_wrote_is_shown_as_text(self):
    write_run(self.workdir, text=HOSTILE, names=(f'a {HOSTILE[:-2]}', 'b'))
    self.open()
    self.assertEqual(set(self.texts('#samples dd')), {'hello', SHOWN})
    self.assertEqual(self.count('img, main script, iframe, a[href^="j"]'), 0)
    self.assertEqual(self.count('script'), 2)
    self.click('figure summary')
    self.assert_quiet()

  def test_toggles_the_theme_and_prints_in_light(self):
    write_run(self.workdir)
    self.open(scheme='dark')
    ground = 'getComputedStyle(document.body).backgroundColor'
    grounds = [self.js(ground)]
    for _ in range(3):
      self.click('#theme')
      grounds.append(self.js(ground))
    dark, light = 'rgb(20, 23, 27)', 'rgb(251, 251, 250)'
    self.assertEqual(grounds, [dark, light, dark, dark])
    self.click('#theme')
    self.click('#theme')
    self.assertEqual(self.texts('#theme'), ['Theme: dark'])
    self.resize(800, 'dark', media='print')
    self.assertEqual(self.js(ground), 'rgb(255, 255, 255)')
    self.assertEqual(self.js(
        'getComputedStyle(document.querySelector(".filters")).display'), 'none')
    self.screenshot('print')
    pdf = base64.b64decode(self.browser.call(
        'Page.printToPDF', printBackground=True)['data'])
    self.assertStartsWith(pdf, b'%PDF')
    self.assert_quiet()

  def test_tasks_groups_and_tabs_can_be_switched(self):
    self.open(*self.compared())
    series = '#norms g.series'
    self.assertEqual(self.count(series), 6)
    self.assertEqual(self.texts('#norms svg .title'), ['a', 'b', 'c'])
    self.assertEqual(self.texts('#norms svg .name')[:2], ['A', 'B'])
    # Two seeds have an interval, one has none.
    self.assertEqual(self.count('#norms g.series[data-g="0"] .band'), 3)
    self.assertEqual(self.count('#norms g.series[data-g="1"] .band'), 0)
    self.click('.chip[data-group="0"]')
    self.assertEqual(self.count(series), 3)
    self.click('.chip[data-task="1"]')
    self.assertEqual(self.count(series), 2)
    self.assertEqual(
        self.count('.chip[data-task="1"][aria-pressed=false]'), 1)
    self.click('.chip[data-group="0"]')
    self.choose('#by', 'group')
    self.assertEqual(self.texts('#norms svg .title'),
                     ['A  correction=total',
                      'B  correction=pcgrad'])
    before = self.js('document.querySelector("#norms .line").outerHTML')
    self.click('#norms [data-tab="1"]')
    after = self.js('document.querySelector("#norms .line").outerHTML')
    self.assertNotEqual(before, after)
    # Who opens the address again finds the same view.
    address = f'{self.address}{self.js("location.hash")}'
    self.browser.call('Page.navigate', url='about:blank')
    self.assertEqual(self.browser.problems(address), [])
    self.assertEqual(self.count(series), 4)
    self.assertEqual(self.count('#norms [data-tab="1"][aria-pressed=true]'), 1)
    self.screenshot('compared')

  def test_one_run_at_a_time(self):
    self.open(*self.compared())
    heads = '.run:not([hidden]) h2'
    self.assertEqual(self.texts(heads), ['The run total1'])
    plots = 'document.querySelector("#scatter .plots").innerHTML'
    before = self.js(plots)
    self.choose('#run', '1')
    self.assertEqual(self.texts(heads), ['The run total2'])
    self.assertNotEqual(self.js(plots), before)
    self.choose('#run', '2')
    self.assertEqual(self.texts(heads), ['The run pcgrad1'])
    self.assertEqual(self.texts('#waterfall .which'),
                     ['group: correction=pcgrad'])
    self.assertEqual(self.texts('#film .which'), ['run: pcgrad1'])
    self.assert_quiet()

  def test_samples_are_searched_and_filtered(self):
    self.open(*self.compared())
    found = '#samples .sample'
    self.assertEqual(self.count(found), 18)
    self.choose('#search', 'PCGRAD hello')
    self.assertEqual(self.count(found), 6)
    self.assertEqual(self.texts('#found'), ['6 of 18 samples'])
    self.choose('#search', 'pcgrad nowhere')
    self.assertEqual(self.count(found), 0)
    self.choose('#search', '')
    for selector, value, left in (
        ('#sample-task', '2', 6), ('#sample-run', '1', 2),
        ('#sample-when', 'last', 1), ('#sample-reward', '1', 1),
        ('#sample-reward', '0', 0), ('#sample-reward', '', 1)):
      self.choose(selector, value)
      self.assertEqual(self.count(found), left, selector)
    self.assertEqual(self.texts(f'{found} h3'),
                     ['c · step 40 · total2✓ reward 1.00'])
    self.assertEqual(self.texts(f'{found} dt'),
                     ['prompt', 'completion', 'reference', 'reason'])
    self.assert_quiet()

  def test_pointer_and_keys_read_single_steps(self):
    numbers = write_run(self.workdir)
    self.open()
    box = self.js('{ const e = document.querySelector("#reward svg");'
                  'e.scrollIntoView({block: "center"});'
                  'const b = e.getBoundingClientRect();'
                  '[b.left, b.top, b.width, b.height] }')
    self.browser.call(
        'Input.dispatchMouseEvent', type='mouseMoved', x=box[0] + box[2] / 2,
        y=box[1] + box[3] / 2)
    self.assertFalse(self.js('document.getElementById("tip").hidden'))
    self.assertRegex(self.texts('#tip b')[0], r'^step \d+$')
    self.js('document.querySelector("#reward svg").focus()')
    for key in 'End', 'ArrowLeft':
      for kind in 'keyDown', 'keyUp':
        self.browser.call('Input.dispatchKeyEvent', type=kind, key=key)
    # A twelfth of 40 steps is 3: the mean of steps 38, 39 and 40.
    mean = numbers['reward'][37:40, 0].mean()
    said = self.texts('#said')[0]
    self.assertStartsWith(said, f'step 39: a {mean:.3f}, b ')
    self.browser.call('Input.dispatchKeyEvent', type='keyDown', key='Escape')
    self.assertTrue(self.js('document.getElementById("tip").hidden'))
    self.assert_quiet()

  def test_everything_has_a_name_and_a_table_of_numbers(self):
    numbers = write_run(self.workdir)
    self.open()
    nameless = self.js(
        '[...document.querySelectorAll("button, select, input, svg[role], '
        'figure")].filter(e => !(e.getAttribute("aria-label") || '
        'e.getAttribute("aria-labelledby") || e.labels?.length || '
        '!e.matches("svg") && e.textContent.trim()))'
        '.map(e => e.outerHTML.slice(0, 80))')
    self.assertEqual(nameless, [])
    ids = self.js('[...document.querySelectorAll("[aria-labelledby]")].every('
                  'e => document.getElementById('
                  'e.getAttribute("aria-labelledby")))')
    self.assertTrue(ids)
    self.js('document.querySelectorAll(".numbers").forEach(d => d.open = true);'
            'new Promise(done => setTimeout(done, 50))')
    self.assertEqual(self.count('.numbers table caption'), 11)
    row = self.texts('#heldout .numbers tbody tr:first-child :is(th, td)')
    means = [own[:, 0].mean(dtype=float) for own in numbers['evals']]
    self.assertEqual(row[0], 'a')
    self.assertStartsWith(row[1], f'{means[0]:.3f} [')
    self.assertStartsWith(row[-1], f'{means[1]:.3f} [')
    # Every plot and every control is reached by the tabulator.
    self.assertEqual(self.count('svg[role=img]:not([tabindex="0"])'), 0)
    self.assert_quiet()

  def test_live_view_reloads_when_the_run_goes_on(self):
    write_run(self.workdir)
    server = serve.make_server([self.workdir], 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    self.addCleanup(thread.join)
    self.addCleanup(server.server_close)
    self.addCleanup(server.shutdown)
    address = f'http://127.0.0.1:{server.server_address[1]}/'
    self.assertEqual(self.browser.problems(address), [])
    self.assertEqual(self.texts('#live'), ['Live'])
    self.click('.chip[data-task="1"]')
    with (self.workdir / 'metrics.jsonl').open('a') as file:
      file.write('{"step": 41, "scalars": {"reward/a": 0.5}}\n')
    self.browser.wait('document.body.innerText.includes("41 of 40")')
    self.assertEqual(self.count('#reward g.series'), 2)


@pytest.mark.slow
class CommandTest(ReportCase):

  def start(self, *flags):
    return subprocess.Popen(
        # What runs in the background of a script is deaf to interrupts, and
        # so would be its children.
        ['env', '--default-signal=INT', sys.executable, '-m',
         'gradlens.report', f'--workdir={self.workdir}', *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'})

  def command(self):
    process = self.start()
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(
        process.args, process.returncode, out, err)

  def test_serves_until_it_is_interrupted(self):
    write_run(self.workdir)
    process = self.start('--serve=0')
    self.addCleanup(process.kill)
    line = process.stdout.readline()
    address = re.match(r'http://127\.0\.0\.1:\d+/', line)[0]
    # Straight there, whatever proxy the machine has.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=60) as answer:
      self.assertEqual(Page(answer.read().decode()).data['tasks'],
                       ['a', 'b', 'c'])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    self.assertEqual((process.returncode, err), (0, ''))
    self.assertNoCommonElements(
        ['report.html', 'report.csv'], [p.name for p in self.workdir.iterdir()])

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
