"""Verifiers that go wrong, in a module that the worker process can import.

It does not import gradlens: a worker that dies again and again starts faster.
"""

import collections
import ctypes
import itertools
import os
import re
import signal
import sys
import time


def _hang_in_c():
  # A loop that never returns to the interpreter, and so sees no signal.
  collections.deque(itertools.repeat(0), maxlen=0)


def _hang_with_signals_blocked():
  signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
  while True:
    pass


def _swallow():
  while True:
    try:
      while True:
        pass
    except BaseException:
      continue


def _swallow_once():
  try:
    while True:
      pass
  except BaseException:
    return 1.0


def _loop():
  while True:
    pass


def _print():
  for file in sys.stdout, sys.stderr:
    print('noise', file=file, flush=True)


def _raise():
  raise ValueError


def _wait_in_vain():
  raise TimeoutError('the other side took 3 s')


MISBEHAVIOR = {
    'raise': _raise,
    'system_exit': lambda: exit(0),
    'exit': lambda: os._exit(0),
    'segfault': lambda: ctypes.string_at(0),
    'close_everything': lambda: os.closerange(0, 100),
    'loop': _loop,
    'swallow': _swallow,
    'swallow_once': _swallow_once,
    'regex': lambda: re.match(r'(a+)+$', 'a' * 100 + 'b'),
    'hang_in_c': _hang_in_c,
    'hang_with_signals_blocked': _hang_with_signals_blocked,
    'sleep': lambda: time.sleep(1000),
    'sleep_0.2': lambda: time.sleep(0.2) or 1,
    'print': _print,
    'hash': lambda: hash('gradlens') % 1000 / 1000,
    'on_cpu': lambda: os.environ['JAX_PLATFORMS'] == 'cpu',
    'none': lambda: None,
    'text': lambda: '1.0',
    'complex': lambda: 1j,
    'memory': lambda: len(bytearray(1 << 40)),
    'wait_in_vain': _wait_in_vain,
    'score': lambda: (0.5, 'half right'),
    'score_nan': lambda: (float('nan'), 'no number'),
    'score_of_three': lambda: (1.0, 'right', 'and more'),
    'score_of_parts': lambda: (1.0, 'right', (1.0, 1.0)),
    'score_of_one_part': lambda: (1.0, 'right', (0.5,)),
    'score_of_no_part': lambda: (1.0, 'right', (float('nan'),)),
    'score_of_large_part': lambda: (1.0, 'right', (7.0,)),
    'long_reason': lambda: (1.0, 'x' * 10**6),
}


def misbehave(completion, record):
  """Does what the completion says, which is a number if nothing else."""
  del record
  if completion in MISBEHAVIOR:
    return MISBEHAVIOR[completion]()
  if completion.startswith('pid:'):
    with open(completion.removeprefix('pid:'), 'w') as file:
      file.write(str(os.getpid()))
    return 1.0
  if completion.startswith('note:'):
    _, path, rest = completion.split(':', 2)
    with open(path, 'a') as file:
      file.write('x')
    return misbehave(rest, None)
  if completion.startswith('sleep_if:'):
    path = completion.removeprefix('sleep_if:')
    rest = f'note:{path}:sleep' if os.path.exists(path) else '1'
    return misbehave(rest, None)
  if completion.startswith('wait_for:'):
    while not os.path.exists(completion.removeprefix('wait_for:')):
      time.sleep(0.01)
    return 1.0
  return float(completion)


def busy(completion, record):
  """Uses as many seconds of CPU time as the completion says."""
  del record
  end = time.process_time() + float(completion)
  while time.process_time() < end:
    pass
  return 1.0
