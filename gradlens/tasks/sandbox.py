"""The sandbox: runs a program that nobody has read, by bubblewrap.

The program has a user, processes, a network and a file system of its own: it
sees the Python that runs it, read-only, and a small empty /tmp. As root, an
unprivileged user id is taken before bubblewrap builds the sandbox, since the
limit on processes does not hold for root.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from gradlens.tasks import seccomp

_SCRIPT = pathlib.Path(__file__).with_name('confined.py')
_LIBRARIES = ('/lib', '/lib64', '/lib32', '/usr/lib', '/usr/lib64')
_FILES = ('/etc/ld.so.cache', '/etc/localtime')
_ENVIRON = {
    'PATH': '/nonexistent', 'HOME': '/tmp', 'LANG': 'C.UTF-8',
    # Equal sets must iterate alike in every run.
    'PYTHONHASHSEED': '0', 'PYTHONUTF8': '1', 'PYTHONDONTWRITEBYTECODE': '1',
}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a program may use.

  Attributes:
    cpu_seconds: CPU time of all tests of a program together.
    wall_seconds: elapsed time of the same.
    memory_bytes: address space of each process.
    processes: how many there may be at once, two of them the sandbox's own.
    file_bytes: of one file.
    tmp_bytes: of all files together.
    sandbox: False runs programs without one, as this user.
  """

  cpu_seconds: float = 2.0
  wall_seconds: float = 20.0
  memory_bytes: int = 512 << 20
  processes: int = 8
  file_bytes: int = 8 << 20
  tmp_bytes: int = 32 << 20
  sandbox: bool = True


class Output(NamedTuple):
  """What a program made of a test.

  Attributes:
    text: its standard output, or the value of the test's expression as JSON.
    ending: '' if it ended well; else in words.
  """

  text: str
  ending: str


def run(
    program: str, tests: Sequence[dict[str, str]], limits: Limits,
    output_bytes: int,
) -> list[Output]:
  """Runs a program once for each test.

  Args:
    program: Python source.
    tests: of each, 'stdin'; and, if a value is asked for, the 'expression' to
      be evaluated after the program and the statements of 'setup'.
    limits: on all of it.
    output_bytes: how much of each output is kept; more ends the test.

  Returns:
    An output for each test, in order; fewer, if the program ended what runs it.

  Raises:
    TimeoutError: it took longer than `wall_seconds`.
    RuntimeError: the sandbox did not start.
  """
  request = json.dumps(dict(
      dataclasses.asdict(limits), program=program, tests=list(tests),
      output_bytes=output_bytes,
  ))
  most = 1000 + len(tests) * (6 * output_bytes + 100)
  with (
      _file(request.encode()) as stdin, _file(b'') as stderr,
      _file(seccomp.denied() if limits.sandbox else b'') as calls,
      tempfile.TemporaryDirectory() as folder,
  ):
    data = _communicate(
        _command(limits, calls.fileno()), limits.wall_seconds, most,
        stdin=stdin, stderr=stderr, cwd=folder, pass_fds=[calls.fileno()],
    )
    stderr.seek(0)
    said = stderr.read(1000).decode('utf-8', 'replace').strip()
  ready, *lines = data.decode('ascii', 'replace').split('\n')
  if ready != 'ready':
    raise RuntimeError(f'the sandbox did not start: {said}')
  return _outputs(lines[:len(tests)])


def _file(data: bytes) -> Any:
  file = tempfile.TemporaryFile()
  file.write(data)
  file.seek(0)
  return file


def _outputs(lines: list[str]) -> list[Output]:
  """Those that are well-formed, up to the first that is not."""
  outputs = []
  for line in lines:
    match _json(line):
      case [str(text), str(how)]:
        outputs.append(Output(text, how))
      case _:
        break
  return outputs


def _json(line: str) -> Any:
  try:
    return json.loads(line)
  except (ValueError, RecursionError):
    return None


def _communicate(
    command: list[str], seconds: float, most: int, **surroundings: Any
) -> bytes:
  """What a command prints, up to `most` bytes; nothing of it is left alive."""
  process = subprocess.Popen(
      command, stdout=subprocess.PIPE, env=_ENVIRON, start_new_session=True,
      **surroundings,
  )
  deadline = time.monotonic() + seconds
  data = bytearray()
  try:
    with process.stdout as pipe:
      while len(data) <= most:
        left = max(deadline - time.monotonic(), 0)
        if not select.select([pipe], [], [], left)[0]:
          raise TimeoutError(f'a program took {seconds} s')
        chunk = os.read(pipe.fileno(), 1 << 16)
        if not chunk:
          break
        data += chunk
  finally:
    # The first process of the sandbox; the kernel ends all others with it.
    process.kill()
    process.wait()
  return bytes(data)


def _command(limits: Limits, calls: int) -> list[str]:
  python = os.path.realpath(sys.executable)
  # Not -I, with which the seed of hashes would not be read.
  script = [
      python, '-s', '-S', '-P', '-c', _SCRIPT.read_text(encoding='utf-8')
  ]
  if not limits.sandbox:
    return script
  inner = [
      _bwrap(), '--unshare-all', '--unshare-user', '--disable-userns',
      '--die-with-parent', '--new-session', '--cap-drop', 'ALL',
      '--seccomp', str(calls),
      *_mounts(), '--proc', '/proc', '--dev', '/dev', '--remount-ro', '/dev',
      '--size', str(limits.tmp_bytes), '--tmpfs', '/tmp', '--chdir', '/tmp',
      '--remount-ro', '/', *script,
  ]
  return inner if os.geteuid() else [*_as_nobody(), *inner]


def _bwrap() -> str:
  program = shutil.which('bwrap')
  if program is None:
    raise RuntimeError('there is no bwrap on the path')
  return os.path.realpath(program)


def _mounts() -> list[str]:
  """The libraries of the system, and the Python that runs this."""
  # What bubblewrap makes by itself is closed to others.
  mounts = ['--perms', '0755', '--dir', '/etc']
  for path in _LIBRARIES:
    if os.path.islink(path):
      mounts += ['--symlink', os.readlink(path), path]
    elif os.path.isdir(path):
      mounts += ['--ro-bind', path, path]
  for path in _FILES:
    mounts += ['--ro-bind-try', path, path]
  # A folder of root's own need not be open to others; what lies in it is.
  base = os.path.realpath(sys.base_prefix)
  for parent in reversed(pathlib.Path(base).parents[:-1]):
    if str(parent) != '/usr':
      mounts += ['--perms', '0755', '--dir', str(parent)]
  return [*mounts, '--ro-bind', base, base]


def _as_nobody() -> list[str]:
  """Starts a command as a user that nobody else is, where Python is seen."""
  # Limits count a user's processes, so that each sandbox has its own user.
  user = str(40_000 + os.getpid() % 20_000)
  setpriv = shutil.which('setpriv')
  if setpriv is None:
    raise RuntimeError('there is no setpriv on the path')
  return [
      _bwrap(), '--unshare-pid', '--die-with-parent', '--ro-bind', '/usr',
      '/usr', *_mounts(), '--symlink', 'usr/bin', '/bin', '--dir', '/tmp',
      '--bind', '/proc', '/proc', '--dev', '/dev',
      '--cap-add', 'CAP_SETUID', '--cap-add', 'CAP_SETGID',
      os.path.realpath(setpriv), '--reuid', user, '--regid', user,
      '--clear-groups', '--inh-caps=-all',
  ]
