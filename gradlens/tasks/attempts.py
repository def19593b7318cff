"""What the sandbox must withstand before anything runs in it."""

from collections.abc import Sequence
import dataclasses
import json
import logging
import socket
import sys
import tempfile

from gradlens.tasks import sandbox, verifiers
from gradlens.tasks.types import Task

# Each attempt that succeeds is named on standard output.
_PROGRAM = """
import ctypes, json, os, socket, time

asked = json.loads(input())
done = []

def attempt(name):
  def run(act):
    try:
      act()
    except (OSError, MemoryError):
      return
    done.append(name)
  return run

@attempt('using more memory than its limit')
def _():
  bytearray(asked['memory_bytes'])

@attempt('sharing memory, which is in no limit')
def _():
  libc = ctypes.CDLL(None)
  if libc.shmget(0, ctypes.c_size_t(1 << 20), 0o1600) < 0:
    raise OSError

@attempt('reading a file of the runner')
def _():
  open(asked['secret']).read()

@attempt('reaching the network')
def _():
  socket.create_connection(('127.0.0.1', asked['port']), 5)

for folder in asked['folders']:
  @attempt(f'writing into {folder}')
  def _():
    path = os.path.join(folder, 'gradlens-attempt')
    open(path, 'w')
    os.unlink(path)

@attempt('writing a file longer than its limit')
def _():
  with open('long', 'wb') as file:
    for _ in range(asked['file_bytes'] // 65536 + 1):
      file.write(bytes(65536))

@attempt('filling the disk')
def _():
  for i in range(asked['tmp_bytes'] // asked['file_bytes'] + 1):
    with open(f'part{i}', 'wb') as file:
      for _ in range(asked['file_bytes'] // 65536):
        file.write(bytes(65536))

@attempt('being root')
def _():
  if os.getuid():
    raise OSError

@attempt('starting more processes than its limit')
def _():
  for _ in range(asked['processes']):
    if not os.fork():
      time.sleep(1000)

print(json.dumps(done))
"""


def confine(tasks: Sequence[Task], limits: sandbox.Limits) -> list[Task]:
  """Tasks whose programs run within limits, in a sandbox that was seen to hold.

  Args:
    tasks: any; those that run no programs are returned as they are.
    limits: on a program that the model wrote.

  Raises:
    ValueError: a task runs such programs, and there is no sandbox that holds,
      unless `limits.sandbox` is False.
  """
  names = [task.name for task in tasks if verifiers.runs_code(task.verify)]
  if names and limits.sandbox:
    try:
      check(limits)
    except ValueError as error:
      raise ValueError(
          f'task {names[0]!r} runs programs that the model writes, but {error};'
          ' install bubblewrap (on Debian: apt-get install bubblewrap), or set'
          ' config.verifier.execute_code_without_a_sandbox=True on a machine'
          ' that holds nothing of value.'
      ) from error
  elif names:
    logging.warning(
        'Programs that the model writes run WITHOUT A SANDBOX, as this user:'
        ' tasks %s.', ', '.join(names)
    )
  return [
      task._replace(verify=verifiers.confined(task.verify, limits))
      for task in tasks
  ]


def check(limits: sandbox.Limits) -> None:
  """Makes sure that the sandbox holds: it attempts to break out of it.

  Args:
    limits: that programs will have.

  Raises:
    ValueError: there is no sandbox, it does not start, or an attempt
      succeeded; one sentence says which.
  """
  try:
    ending, done = _attempt(limits)
  except (OSError, RuntimeError) as error:
    raise ValueError(f'the sandbox cannot be used: {error}') from error
  if ending:
    raise ValueError(f'the sandbox cannot be used: its test ended by {ending}')
  if done:
    raise ValueError(
        f'the sandbox does not hold: a program in it succeeded in'
        f' {", ".join(done)}'
    )


def _attempt(limits: sandbox.Limits) -> tuple[str, list[str]]:
  """How the program of attempts ended, and what it succeeded in."""
  with (
      socket.create_server(('127.0.0.1', 0)) as server,
      tempfile.NamedTemporaryFile('w') as secret,
  ):
    asked = dict(
        dataclasses.asdict(limits), port=server.getsockname()[1],
        secret=secret.name,
        folders=['/', '/dev', '/etc', '/usr/lib', '/var/tmp', sys.base_prefix],
    )
    outputs = sandbox.run(
        _PROGRAM, [dict(stdin=json.dumps(asked))],
        # It has more to do than most, on a busy machine.
        dataclasses.replace(limits, cpu_seconds=20.0, wall_seconds=120.0),
        10_000,
    )
  if not outputs:
    return 'ending what runs it', []
  text, ending = outputs[0]
  return (ending, []) if ending else ('', json.loads(text))
