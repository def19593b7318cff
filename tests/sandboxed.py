"""What tests of the sandbox have in common."""

import os
import pathlib
import shutil
import time

from absl.testing import parameterized
from program import running

from gradlens.tasks import sandbox

LIMITS = sandbox.Limits(cpu_seconds=5.0, wall_seconds=120.0)


class SandboxTestCase(parameterized.TestCase):
  """Skips without bubblewrap; where CI is set, fails."""

  def setUp(self):
    super().setUp()
    if shutil.which('bwrap') is None:
      if os.environ.get('CI') == 'true':
        self.fail('bwrap is missing')
      self.skipTest('bwrap is missing')

  def assert_gone(self, pids):
    deadline = time.monotonic() + 60
    while any(map(running, pids)):
      self.assertLess(time.monotonic(), deadline, f'{pids} are still there')
      time.sleep(0.05)


def inhabitants(namespace):
  """Processes of a namespace, as /proc names it, by their numbers outside."""
  found = []
  for link in pathlib.Path('/proc').glob('[0-9]*/ns/pid'):
    try:
      if os.readlink(link) == namespace:
        found.append(int(link.parts[2]))
    except OSError:
      continue  # It has just ended, or is not ours.
  return found


def descendants(pid):
  """Processes that come of a process, itself left out."""
  found = []
  for path in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
    for child in map(int, path.read_text().split()):
      found += [child, *descendants(child)]
  return found


def is_python(pid):
  try:
    return 'python' in pathlib.Path(f'/proc/{pid}/comm').read_text()
  except OSError:
    return False  # It has just ended.
