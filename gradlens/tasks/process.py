"""A worker process of the guard around verifiers, seen from its parent."""

import multiprocessing.connection as mpc
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

_SCRIPT = pathlib.Path(__file__).with_name('worker.py')
START_SECONDS = 300.0  # Imports from a cold network disk.
_STOP_SECONDS = 5.0


class Worker:
  """One life of the worker process, and the connection to it."""

  def __init__(self, *setup: Any) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
      self._process = subprocess.Popen(
          # -P: the script's folder must not hide modules of the same names.
          [sys.executable, '-P', str(_SCRIPT), str(theirs.fileno())],
          pass_fds=[theirs.fileno()],
          stdin=subprocess.DEVNULL,
          stdout=subprocess.DEVNULL,
          # Equal sets must iterate alike in every run.
          env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONHASHSEED': '0'},
      )
    self.connection = mpc.Connection(ours.detach())
    self.ready = False
    try:
      self.send((sys.path, *setup))
    except ConnectionError:
      pass  # That it has died shows when its first message is read.

  def alive(self) -> bool:
    return self._process.poll() is None

  def send(self, message: Any) -> None:
    self.connection.send(message)

  def receive(self) -> Any:
    """The next message; the first one only says that it is ready."""
    message = self.connection.recv()
    if isinstance(message, str):
      raise RuntimeError(
          'the verifier worker cannot load what it was sent; verifiers and '
          f'records must be importable from a module:\n{message}'
      )
    self.ready = True
    return message

  def stop(self, seconds: float = _STOP_SECONDS) -> int:
    """Ends the process and returns its exit code, -n for signal n."""
    self.connection.close()
    try:
      return self._process.wait(seconds)
    except subprocess.TimeoutExpired:
      self._process.kill()
      return self._process.wait()
