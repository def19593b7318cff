"""The training program in processes of their own, to be ended from outside."""

import os
import pathlib
import signal
import subprocess
import sys
import time

_ROOT = pathlib.Path(__file__).parents[1]
_ASKED_TO_END = 143  # what a run exits with that was asked to end


class Program:
  """The training program, in a process of its own."""

  def __init__(self, workdir, arg, *flags, **environ):
    self.workdir = pathlib.Path(workdir)
    environ |= dict(JAX_PLATFORMS='cpu')
    self.process = subprocess.Popen(
        [sys.executable, '-m', 'gradlens.main', f'--workdir={workdir}',
         f'--config=tests/tiny_config.py:{arg}', *flags],
        cwd=_ROOT, env=os.environ | environ, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )

  def ends(self, *codes):
    """Its output; fails if it ends with another code."""
    output, _ = self.process.communicate(timeout=300)
    assert self.process.returncode in codes, output
    return output

  def send_when(self, condition, number):
    """Sends a signal, and fails if the process or a child does not end."""
    while not condition(self.workdir):
      assert self.process.poll() is None, self.process.communicate()[0]
      time.sleep(1e-3)
    children = self.children()
    self.process.send_signal(number)
    output = self.ends(-number if number == signal.SIGKILL else _ASKED_TO_END)
    assert children, 'no process for the verifiers'
    deadline = time.monotonic() + 60
    while any(map(running, children)):
      assert time.monotonic() < deadline, f'{children} outlive the run'
      time.sleep(0.05)
    return output

  def children(self):
    tasks = pathlib.Path(f'/proc/{self.process.pid}/task').glob('*/children')
    return [int(pid) for path in tasks for pid in path.read_text().split()]


def running(pid):
  """Whether a process runs; one that waits to be reaped does not."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'
