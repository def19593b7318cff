"""A headless Chromium for tests, driven without a library."""

import json
import os
import select
import shutil
import subprocess
import sys
import time

# Chromium reads commands from descriptor 3 and answers on 4.
_START = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for fd, pipe in enumerate(pipes, start=3):
  os.dup2(pipe, fd)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
  """Headless Chromium with one page open, driven through two pipes."""

  def __init__(self, program, directory):
    theirs, self._write = os.pipe()
    self._read, theirs_too = os.pipe()
    flags = ['--headless=new', '--no-sandbox', '--disable-gpu',
             '--disable-quic', '--no-first-run', '--disable-component-update',
             '--disable-background-networking', '--disable-sync',
             '--remote-debugging-pipe', f'--user-data-dir={directory}']
    self._process = subprocess.Popen(
        [sys.executable, '-c', _START, str(theirs), str(theirs_too), program,
         *flags], pass_fds=(theirs, theirs_too),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(theirs)
    os.close(theirs_too)
    self._bytes, self._calls, self._session = b'', 0, {}
    self.events = []
    target = self.call('Target.createTarget', url='about:blank')
    session = self.call('Target.attachToTarget', flatten=True, **target)
    self._session = session
    for domain in ('Page', 'Runtime', 'Network', 'Log'):
      self.call(f'{domain}.enable')

  def call(self, method, **params):
    self._calls += 1
    message = {'id': self._calls, 'method': method, 'params': params}
    os.write(self._write, json.dumps(message | self._session).encode() + b'\0')
    while (answer := self._receive()).get('id') != self._calls:
      self.events.append(answer)
    if 'error' in answer:
      raise RuntimeError(f'{method}: {answer["error"]}')
    return answer['result']

  def _receive(self):
    while b'\0' not in self._bytes:
      if not select.select([self._read], [], [], 60)[0]:
        raise TimeoutError('Chromium has not answered for 60 s')
      received = os.read(self._read, 1 << 20)
      if not received:
        raise EOFError(f'Chromium ended with code {self._process.wait(20)}')
      self._bytes += received
    message, _, self._bytes = self._bytes.partition(b'\0')
    return json.loads(message)

  def evaluate(self, expression):
    result = self.call('Runtime.evaluate', expression=expression,
                       awaitPromise=True, returnByValue=True)
    return result['result'].get('value')

  def problems(self, url):
    """Opens a page; errors, dialogs and requests that it made."""
    del self.events[:]
    self.call('Page.navigate', url=url)
    self.evaluate('new Promise(done => { const wait = () => '
                  'document.readyState === "complete" && location.href !== '
                  '"about:blank" ? setTimeout(done, 500) : '
                  'setTimeout(wait, 50); wait(); })')
    return self.found(url)

  def wait(self, condition):
    """Until it holds, whatever pages come and go."""
    deadline = time.monotonic() + 60
    while not self.evaluate(condition):
      if time.monotonic() > deadline:
        raise TimeoutError(f'not within 60 s: {condition}')
      time.sleep(0.1)

  def found(self, url):
    """What the page that was opened last has done so far."""
    found = []
    url = url.partition('#')[0]  # the rest is not asked for
    for event in self.events:
      params = event.get('params', {})
      match event.get('method'):
        case 'Network.requestWillBeSent':
          address = params['request']['url']
          if not address.startswith((url, 'data:', 'blob:')):
            found.append(f'request: {address}')
        case 'Runtime.exceptionThrown' | 'Page.javascriptDialogOpening':
          found.append(f'error: {params}')
        case 'Runtime.consoleAPICalled' if params['type'] != 'log':
          found.append(f'console: {params}')
        case 'Log.entryAdded':
          found.append(f'console: {params["entry"]}')
    return found

  def close(self):
    self._session = {}
    self.call('Browser.close')
    self._process.wait(20)
    os.close(self._write)
    os.close(self._read)


def start(test, profile):
  """A browser for a test, which is skipped without one, but not in CI."""
  program = shutil.which('chromium') or shutil.which('google-chrome')
  if program is None:
    missing = 'needs chromium or google-chrome on the path'
    if os.environ.get('CI') == 'true':
      test.fail(missing)
    test.skipTest(missing)
  browser = Browser(program, profile)
  test.addCleanup(browser.close)
  return browser
