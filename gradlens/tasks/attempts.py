"""What the sandbox must withstand before anything runs in it."""

import dataclasses
import json
import socket
import sys
import tempfile

from gradlens.tasks import sandbox

# Each attempt that succeeds is named on standard output.
_PROGRAM = """
import json, os, signal, socket, time

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

@attempt('reading a file of the runner')
def _():
  open(asked['secret']).read()

@attempt('reaching the network')
def _():
  socket.create_connection(('127.0.0.1', asked['port']), 5)

for folder in asked['folders']:
  @attempt(f'writing into {folder}')
  def _():
    open(os.path.join(folder, 'gradlens-attempt'), 'w')

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

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
