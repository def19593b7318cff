"""Runs in the sandbox: executes a program once for each test, and reports.

A script for a Python that has the standard library only. What it runs may read
and change everything here, so there is nothing to gain from it: what a test
expects stays outside.

On standard input: a JSON object of 'program' and 'tests' (each 'stdin' and, for
a test of a value, 'setup' and 'expression'), and of limits. On standard output:
'ready', then for each test a line of JSON, `[text, how it ended]`.
"""

from collections.abc import Callable
import json
import math
import os
import resource
import select
import signal
import site
import sys
import tempfile
import types
from typing import Any

Test = dict[str, str]
Run = Callable[[Test, int, float], None]


def confine(request: dict[str, Any]) -> None:
  """Limits this process and all that come of it, for good."""
  for kind, most in (
      (resource.RLIMIT_CPU, math.ceil(request['cpu_seconds']) + 1),
      (resource.RLIMIT_AS, request['memory_bytes']),
      (resource.RLIMIT_FSIZE, request['file_bytes']),
      (resource.RLIMIT_NPROC, request['processes']),
      (resource.RLIMIT_NOFILE, 64),
      (resource.RLIMIT_CORE, 0),
      (resource.RLIMIT_MSGQUEUE, 0),
  ):
    resource.setrlimit(kind, (most, most))
  # Should memory run out all the same, this goes first.
  with open('/proc/self/oom_score_adj', 'w') as file:
    file.write('1000')
  # Whoever started this has given up by then.
  signal.alarm(math.ceil(request['wall_seconds']) + 5)


def watch(pid: int, pipe: int, most: int) -> bytes:
  """What a process writes, up to `most` bytes, until it ends."""
  process = os.pidfd_open(pid)
  data, open_ends = bytearray(), [pipe, process]
  while process in open_ends and len(data) <= most:
    ready, _, _ = select.select(open_ends, [], [])
    if pipe in ready:
      chunk = os.read(pipe, 1 << 16)
      data += chunk
      if not chunk:
        open_ends.remove(pipe)
    else:
      open_ends.remove(process)
  os.close(process)
  return bytes(data)


def ending(status: int, used: float, seconds: float) -> str:
  """How a process ended, '' if well."""
  code = os.waitstatus_to_exitcode(status)
  if used > seconds or code == -signal.SIGXCPU:
    return 'out of CPU time'
  if code < 0:
    return f'signal {signal.Signals(-code).name}'
  return f'exit code {code}' if code else ''


def attempt(
    run: Run, test: Test, request: dict[str, Any], seconds: float
) -> Any:
  """Runs one test in a process of its own.

  Returns:
    Its output, how it ended and its CPU seconds, in this process; in the one
    that runs the test, what is left to do there, which it does as the last
    thing, so that it ends as any program does.
  """
  read, write = os.pipe()
  pid = os.fork()
  if not pid:
    os.close(read)
    # For where no sandbox ends it.
    signal.alarm(math.ceil(request['wall_seconds']) + 5)
    return lambda: run(test, write, seconds)
  os.close(write)
  data = watch(pid, read, request['output_bytes'])
  os.close(read)
  try:
    os.killpg(pid, signal.SIGKILL)
  except (ProcessLookupError, PermissionError):
    pass  # It is gone, or never became a group.
  _, status, usage = os.wait4(pid, 0)
  used = usage.ru_utime + usage.ru_stime
  text = data.decode('utf-8', 'replace')
  if len(data) > request['output_bytes']:
    return text[:request['output_bytes']], 'too much output', used
  return text, ending(status, used, seconds), used


def become(test: Test, output: int, seconds: float) -> None:
  """Makes this process one that reads the test, and has the limits of one."""
  os.setsid()
  whole = math.ceil(seconds)
  resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
  # Memory files are not to be had here.
  with tempfile.TemporaryFile(dir='.') as given:
    given.write(test['stdin'].encode('utf-8', 'surrogatepass'))
    given.seek(0)
    os.dup2(given.fileno(), 0)
  silent = os.open(os.devnull, os.O_WRONLY)
  os.dup2(silent if 'expression' in test else output, 1)
  os.dup2(silent, 2)
  sys.stdin = open(0, encoding='utf-8', closefd=False)
  sys.argv[:] = ['main.py']


def plain(value: Any) -> Any:
  """A value as JSON: scalars as they are, the rest with the name of its type.

  `decoded` of the code verifier reads it.
  """
  if value is None or isinstance(value, bool):
    return value
  for kind in (int, float, str):
    if isinstance(value, kind):
      return kind(value)
  for kind in (list, tuple, set, frozenset):
    if isinstance(value, kind):
      return [kind.__name__, [plain(v) for v in value]]
  if isinstance(value, dict):
    return ['dict', [[plain(k), plain(v)] for k, v in value.items()]]
  return ['other', []]


def runner(program: types.CodeType) -> Run:
  """The function that runs a program under a test."""

  def run(test, output, seconds):
    become(test, output, seconds)
    name = 'solution' if 'expression' in test else '__main__'
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(program, module.__dict__)
    if 'expression' in test:
      exec(test['setup'], module.__dict__)
      value = plain(eval(test['expression'], module.__dict__))
      with open(output, 'w', encoding='utf-8') as file:
        json.dump(value, file)

  return run


def main() -> Callable[[], None] | None:
  """Runs all tests; in a test's process, returns what is left to do there."""
  with open(0, 'rb', closefd=False) as file:
    request = json.loads(file.read())
  confine(request)
  os.write(1, b'ready\n')
  program = compile(request['program'], 'main.py', 'exec', dont_inherit=True)
  # Without installed packages, Python starts without `exit` too.
  site.setquit()
  run, left = runner(program), request['cpu_seconds']
  for test in request['tests']:
    if left <= 0:
      result = '', 'out of CPU time', 0.0
    else:
      result = attempt(run, test, request, left)
    if callable(result):
      return result
    text, how, used = result
    left -= used
    line = json.dumps([text, how]).encode() + b'\n'
    while line:
      line = line[os.write(1, line):]
  return None


if __name__ == '__main__':
  rest = main()
  if rest is not None:
    rest()
