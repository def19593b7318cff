"""The sandbox: programs that try to get out of it, or to take more."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import types
from unittest import mock

from absl.testing import absltest, parameterized
import pytest
from sandboxed import (
    LIMITS,
    SandboxTestCase,
    descendants,
    inhabitants,
    is_python,
)
import tiny_config

from gradlens import tasks, train
from gradlens.configs import default
from gradlens.setup import sampling, values
from gradlens.tasks import attempts, sandbox, seccomp, verifiers

# Calls `tried`, and says what came of it.
TRY = """
import ctypes, json, mmap, os, signal, socket, sys, threading, time

def tried(act, *args):
  try:
    return f'done: {act(*args)!r}'
  except BaseException as error:
    return type(error).__name__
"""


def run(body, stdin='', limits=LIMITS, output_bytes=100_000, **changes):
  limits = dataclasses.replace(limits, **changes)
  program = TRY + textwrap.dedent(body)
  return sandbox.run(program, [dict(stdin=stdin)], limits, output_bytes)


class EscapeTest(SandboxTestCase):

  def _said(self, body, stdin='', **changes):
    """What a program prints that ends well, as JSON."""
    (output,) = run(body, stdin, **changes)
    self.assertEqual(output.ending, '')
    return json.loads(output.text)

  def test_program_runs(self):
    said = self._said('print(json.dumps(input() + sys.argv[0]))', 'here ')
    self.assertEqual(said, 'here main.py')

  def test_writes_nothing_outside_of_tmp(self):
    with tempfile.TemporaryDirectory() as outside:
      folders = ['/', '/dev', '/dev/shm', '/etc', '/usr', '/usr/lib', '/home',
                 '/root', '/var/tmp', '/proc', '/proc/sys/kernel',
                 sys.base_prefix, os.getcwd(), outside, '/tmp/../..']
      said = self._said("""
          def write(folder):
            with open(os.path.join(folder, 'escaped'), 'w') as file:
              file.write('x')

          folders = json.loads(input())
          print(json.dumps([tried(write, f) for f in [*folders, '/tmp', '.']]))
      """, json.dumps(folders))
      self.assertEqual(said[-2:], ['done: None'] * 2)
      for folder, answer in zip(folders, said, strict=False):
        self.assertNotIn('done', answer, folder)
        self.assertFalse(os.path.exists(os.path.join(folder, 'escaped')))
      self.assertFalse(os.path.exists('/tmp/escaped'))

  def test_tmp_is_new_each_time(self):
    body = "print(json.dumps([os.listdir('/tmp'), tried(os.mkdir, 'a')]))"
    for _ in range(2):
      self.assertEqual(self._said(body), [[], 'done: None'])

  def test_reads_no_file_of_the_runner(self):
    with tempfile.NamedTemporaryFile('w') as secret, mock.patch.dict(
        os.environ, GRADLENS_SECRET='secret'):
      secret.write('secret')
      secret.flush()
      paths = [secret.name, __file__, sandbox.__file__, '/etc/passwd',
               '/etc/shadow', '/etc/hostname', os.path.expanduser('~/.bashrc'),
               f'/proc/{os.getpid()}/environ', f'/proc/1/root{secret.name}']
      said = self._said("""
          files = json.loads(input())
          environs = [f'/proc/{p}/environ' for p in os.listdir('/proc')
                      if p.isdigit()]
          def read(path):
            with open(path, 'rb') as file:
              return len(file.read())
          seen = [tried(read, path) for path in files]
          texts = []
          for path in environs:
            try:
              texts.append(open(path).read())
            except OSError:
              pass
          print(json.dumps([seen, dict(os.environ), texts]))
      """, json.dumps(paths))
    for path, answer in zip(paths, said[0], strict=True):
      self.assertNotIn('done', answer, path)
    self.assertIn('PYTHONHASHSEED', said[1])
    self.assertNotIn('SECRET', json.dumps(said))

  def test_imports_the_standard_library_and_nothing_else(self):
    # What is installed for the Python that runs programs: pip, say.
    python = os.path.realpath(sys.executable)
    installed = json.loads(subprocess.run(
        [python, '-c', 'import json, pkgutil, site; print(json.dumps([m.name'
         ' for m in pkgutil.iter_modules(site.getsitepackages())]))'],
        check=True, stdout=subprocess.PIPE).stdout)
    standard = ['collections', 'ctypes', 'decimal', 'heapq', 'json', 'math']
    said = self._said("""
        import importlib
        names = json.loads(input())
        print(json.dumps([
            [tried(importlib.import_module, name) for name in names],
            [path for path in sys.path if 'packages' in path]]))
    """, json.dumps(installed + standard))
    answers, folders = said
    for name, answer in zip(installed, answers, strict=False):
      self.assertEqual(answer, 'ModuleNotFoundError', name)
    for answer in answers[len(installed):]:
      self.assertIn('done: <module', answer)
    self.assertEmpty(folders)

  @parameterized.parameters('exit()', 'quit(0)', 'sys.exit(0)')
  def test_program_may_exit(self, body):
    (output,) = run(f"print('before')\n{body}\nprint('after')")
    self.assertEqual(output, ('before\n', ''))

  def test_reaches_no_network(self):
    # An abstract address is in no file system, and belongs to a network.
    name = f'\0gradlens-{os.getpid()}'
    with socket.create_server(('127.0.0.1', 0)) as server, socket.socket(
        socket.AF_UNIX) as local:
      local.bind(name)
      local.listen()
      for family, address in ((socket.AF_INET, server.getsockname()),
                              (socket.AF_UNIX, name)):
        with socket.socket(family) as client:
          client.connect(address)  # Anybody else can.
      said = self._said("""
          port, name = json.loads(input())
          def connect(family, address):
            with socket.socket(family) as client:
              client.settimeout(10)
              client.connect(address)
          print(json.dumps([
              tried(connect, socket.AF_INET, ('127.0.0.1', port)),
              tried(connect, socket.AF_UNIX, name),
              tried(connect, socket.AF_INET, ('192.0.2.1', 80)),
              [name for _, name in socket.if_nameindex()]]))
      """, json.dumps([server.getsockname()[1], name]))
    self.assertEqual(
        said, ['ConnectionRefusedError', 'ConnectionRefusedError', 'OSError',
               ['lo']])

  def test_has_no_rights(self):
    said = self._said("""
        status = dict(line.split(':', 1) for line in open('/proc/self/status'))
        CLONE_NEWUSER = 0x10000000
        libc = ctypes.CDLL(None)
        print(json.dumps([
            os.getuid(), os.getgroups(), status['CapEff'].strip(),
            status['CapPrm'].strip(), status['NoNewPrivs'].strip(),
            status['Seccomp'].strip(), libc.unshare(CLONE_NEWUSER),
            tried(os.setuid, 0), tried(os.chroot, '/tmp'),
            tried(os.mknod, '/tmp/disk', 0o60600, 0x801)]))
    """)
    uid, groups, effective, permitted, *rest = said
    self.assertGreater(uid, 0)
    self.assertNotIn(0, groups)
    self.assertEqual((int(effective, 16), int(permitted, 16)), (0, 0))
    # There is no such user here.
    self.assertEqual(
        rest, ['1', '2', -1, 'OSError', 'PermissionError', 'PermissionError'])

  def test_system_calls_that_are_refused(self):
    column = {'x86_64': 0, 'aarch64': 1}[os.uname().machine]
    numbers = [row[column] for row in seccomp._CALLS.values()]
    said = self._said("""
        libc = ctypes.CDLL(None, use_errno=True)
        def call(number):
          return libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno()
        numbers = json.loads(input())
        second = 0x40000000  # the same calls by another table, on x86_64
        print(json.dumps([[call(n) for n in numbers], call(second + 39)]))
    """, json.dumps(numbers))
    self.assertEqual(said, [[[-1, 1]] * len(numbers), [-1, 1]])

  def test_memory_is_limited(self):
    said = self._said("""
        def thread():
          got = []
          t = threading.Thread(target=lambda: got.append(
              tried(bytearray, 400 << 20)))
          t.start()
          t.join()
          return got[0]
        def many():
          kept = []
          while True:
            kept.append(bytearray(1 << 20))
        print(json.dumps([
            tried(lambda: len(bytearray(50 << 20))),
            tried(bytearray, 300 << 20), tried(mmap.mmap, -1, 300 << 20),
            tried(os.memfd_create, 'x'), tried(many), thread()]))
    """, memory_bytes=256 << 20)
    self.assertEqual(said, ['done: 52428800', 'MemoryError', 'OSError',
                            'PermissionError', 'MemoryError', 'MemoryError'])

  def test_processes_are_limited(self):
    said = self._said("""
        children = 0
        def multiply():
          global children
          while True:
            pid = os.fork()
            if not pid:
              time.sleep(1000)
            children += 1
        print(json.dumps([tried(multiply), children]))
    """, processes=8)
    self.assertEqual(said[0], 'BlockingIOError')
    # The sandbox's init and what runs the tests are two of them.
    self.assertEqual(said[1], 5)

  @pytest.mark.slow
  @parameterized.named_parameters(
      ('gives_up', 'while True: os.fork()', 'exit code 1'),
      ('goes_on', """
           while True:
             tried(os.fork)
       """, 'out of CPU time'),
      ('threads', """
           def more():
             while True:
               tried(threading.Thread(target=more).start)
           more()
       """, 'out of CPU time'),
  )
  def test_bomb(self, body, ending):
    (output,) = run(f"""
print(os.readlink('/proc/self/ns/pid'), flush=True)
{textwrap.dedent(body)}
""", cpu_seconds=1.0)
    self.assertEqual(output.ending, ending)
    # Several of them have printed what was in the buffer of the first.
    self.assert_gone(inhabitants(output.text.split('\n')[0]))

  def test_no_process_is_left(self):
    (output,) = run("""
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
          tried(signal.signal, number, signal.SIG_IGN)
        print(os.readlink('/proc/self/ns/pid'), flush=True)
        if not os.fork():
          os.setsid()  # In no group that anyone knows.
          if not os.fork():
            os.closerange(0, 100)
            while True:
              time.sleep(1000)
    """)
    self.assertEqual(output.ending, '')
    self.assertStartsWith(output.text, 'pid:[')
    self.assert_gone(inhabitants(output.text.strip()))

  def test_disk_is_limited(self):
    said = self._said("""
        def fill(name):
          with open(name, 'wb', buffering=0) as file:
            while True:
              if not file.write(bytes(1 << 16)):
                break
        first = tried(fill, 'first'), os.path.getsize('first')
        others = [tried(fill, f'other{i}') for i in range(9)]
        total = sum(os.path.getsize(name) for name in os.listdir())
        print(json.dumps([*first, others[-1], total]))
    """, file_bytes=2 << 20, tmp_bytes=8 << 20)
    self.assertEqual(said[:3], ['OSError', 2 << 20, 'OSError'])
    self.assertBetween(said[3], 7 << 20, 8 << 20)

  def test_file_is_limited(self):
    (output,) = run("open('x', 'wb').write(bytes(100 << 20))")
    self.assertEqual(output.ending, 'exit code 1')

  @parameterized.parameters(
      "while True: os.write(1, b'x' * 65536)",
      "os.fork()\nwhile True: os.write(1, b'x' * 65536)",
      "while True: print('\\u2028' * 10**6, end='')",
      "sys.stdout.write('\\0' * 10**6)",
  )
  def test_output_is_limited(self, body):
    (output,) = run(body, output_bytes=1000)
    self.assertEqual(output.ending, 'too much output')
    self.assertLessEqual(len(output.text), 1000)

  def test_errors_are_not_kept(self):
    (output,) = run("""
        for _ in range(100):
          os.write(2, b'x' * 65536)
        print('done')
    """)
    self.assertEqual(output, ('done\n', ''))

  def test_flood_past_what_runs_the_test(self):
    outputs = run("""
        with open(f'/proc/{os.getppid()}/fd/1', 'wb', buffering=0) as file:
          while True:
            file.write(b'x' * 65536)
    """, output_bytes=1000)
    # Refused, or the end of what runs the test.
    for output in outputs:
      self.assertEqual(output, ('', 'exit code 1'))

  @parameterized.parameters(
      'os.kill(os.getppid(), signal.SIGKILL)', 'os.kill(-1, signal.SIGKILL)',
  )
  def test_end_of_what_runs_the_test(self, body):
    self.assertEqual(run(body + '\ntime.sleep(1000)'), [])

  def test_no_signal_gets_out(self):
    # In groups of their own, so that a signal to all would reach them.
    with subprocess.Popen(['sleep', '1000']) as bystander:
      said = self._said("""
          pids = json.loads(input())
          print(json.dumps([tried(os.kill, p, signal.SIGKILL) for p in pids]))
      """, json.dumps([bystander.pid, os.getpid(), os.getppid()]))
      self.assertIsNone(bystander.poll())
      bystander.kill()
    self.assertEqual(said, ['ProcessLookupError'] * 3)

  @pytest.mark.slow
  @parameterized.parameters(
      'while True: pass',
      # Nothing that it can catch ends it.
      """
      for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        tried(signal.signal, number, signal.SIG_IGN)
      while True: pass
      """,
      'sum(range(10**15))',
  )
  def test_cpu_time_is_limited(self, body):
    (output,) = run(body, cpu_seconds=1.0)
    self.assertEqual(output.ending, 'out of CPU time')

  def test_cpu_time_is_of_all_tests_together(self):
    program = "import time\nwhile time.process_time() < 0.4: pass\nprint(1)"
    limits = dataclasses.replace(LIMITS, cpu_seconds=0.9)
    outputs = sandbox.run(program, [dict(stdin='')] * 4, limits, 1000)
    self.assertEqual([o.ending for o in outputs[:2]], ['', ''])
    self.assertEqual([o.ending for o in outputs[2:]], ['out of CPU time'] * 2)

  @parameterized.parameters(
      'time.sleep(1000)', 'os.kill(os.getpid(), signal.SIGSTOP)',
      'os.kill(os.getppid(), signal.SIGSTOP)',
      # Nobody reads it any more, and it waits all the same.
      'os.closerange(0, 100)\nwhile True: time.sleep(1000)',
  )
  def test_waiting_is_limited(self, body):
    start = time.monotonic()
    # Of the sandbox's own alarm, 5 s later, no such error would come.
    with self.assertRaisesRegex(TimeoutError, '2.0 s'):
      run(body, wall_seconds=2.0)
    self.assertGreaterEqual(time.monotonic() - start, 2)
    self.assert_gone(descendants(os.getpid()))

  def test_ends_with_a_runner_that_is_killed(self):
    runner = subprocess.Popen([sys.executable, '-c', textwrap.dedent(f"""
        import sys
        sys.path[:] = {sys.path!r}
        from gradlens.tasks import sandbox
        sandbox.run('import time\\ntime.sleep(1000)', [dict(stdin='')],
                    sandbox.Limits(wall_seconds=1000.0), 1000)
    """)])
    # What runs the tests, and a test. One that starts would end by itself,
    # since nobody reads what it prints.
    while sum(map(is_python, inside := descendants(runner.pid))) < 2:
      self.assertIsNone(runner.poll())
      time.sleep(0.05)
    runner.kill()
    runner.wait()
    self.assert_gone(inside)

  @pytest.mark.slow
  def test_without_a_sandbox_a_program_that_waits_ends_too(self):
    with tempfile.NamedTemporaryFile('r') as file:
      with self.assertRaises(TimeoutError):
        run(f'''
            with open({file.name!r}, 'w') as file:
              file.write(str(os.getpid()))
            time.sleep(1000)
        ''', sandbox=False, wall_seconds=10.0)
      self.assert_gone([int(file.read())])

  def test_without_a_sandbox_limits_hold_all_the_same(self):
    said = self._said("""
        print(json.dumps([tried(bytearray, 1 << 30), os.getcwd()]))
    """, sandbox=False)
    self.assertEqual(said[0], 'MemoryError')
    self.assertFalse(os.path.exists(said[1]))


class CheckTest(SandboxTestCase):

  def test_holds(self):
    attempts.check(LIMITS)

  @parameterized.parameters(
      (['--unshare-all'], ['--unshare-pid'], 'reaching the network'),
      (['--remount-ro', '/'], ['--chmod', '0777', '/'], 'writing into /'),
      (['--remount-ro', '/dev'], ['--chmod', '0777', '/'], 'writing into /dev'),
      (['--seccomp', '9'], [], 'sharing memory'),
  )
  def test_finds_a_hole_in_the_command(self, flags, instead, found):
    whole = sandbox._command

    def holed(limits, calls):
      command = whole(limits, calls)
      # The last bwrap of the command is the sandbox.
      flags[1:] = [str(calls)] * (flags[0] == '--seccomp') or flags[1:]
      at = max(
          i for i in range(len(command))
          if command[i:i + len(flags)] == flags)
      return command[:at] + instead + command[at + len(flags):]

    with mock.patch.object(sandbox, '_command', holed):
      with self.assertRaisesRegex(ValueError, f'does not hold.*{found}'):
        attempts.check(LIMITS)

  @parameterized.parameters(
      (dict(memory_bytes=1 << 30), 'more memory'),
      (dict(file_bytes=16 << 20), 'file longer'),
      (dict(tmp_bytes=128 << 20), 'filling the disk'),
      (dict(processes=50), 'more processes'),
  )
  def test_finds_a_limit_that_does_not_hold(self, changes, found):
    whole = sandbox.run

    def loose(program, given, limits, output_bytes):
      limits = dataclasses.replace(limits, **changes)
      return whole(program, given, limits, output_bytes)

    with mock.patch.object(sandbox, 'run', loose):
      with self.assertRaisesRegex(ValueError, f'does not hold.*{found}'):
        attempts.check(LIMITS)


class ConfineTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self._code = tasks.Task('code', [], [], verifiers.parse('code'))
    self._other = tasks.Task('other', [], [], verifiers.parse('exact'))

  def test_no_bwrap(self):
    with mock.patch.dict(os.environ, PATH=''):
      self.assertEqual(tasks.confine([self._other], LIMITS), [self._other])
      with self.assertRaisesRegex(
          ValueError, "task 'code' runs.*no bwrap.*apt-get install bubblewrap"
          '.*config.verifier.execute_code_without_a_sandbox=True'):
        tasks.confine([self._other, self._code], LIMITS)

  def test_no_sandbox_only_if_told_and_out_loud(self):
    limits = dataclasses.replace(LIMITS, sandbox=False)
    with mock.patch.dict(os.environ, PATH=''):
      with self.assertLogs(level='WARNING') as logs:
        _, code = tasks.confine([self._other, self._code], limits)
    self.assertEqual(code.verify.limits, limits)
    self.assertIn('WITHOUT A SANDBOX', logs.output[0])
    self.assertIn('code', logs.output[0])

  def test_of_a_config(self):
    config = default.get_config()
    config.verifier.update(cpu_seconds=3.0, wall_seconds=10.0, memory_mb=100)
    run = types.SimpleNamespace(tasks=[self._code])
    with mock.patch.dict(os.environ, PATH=''):
      with self.assertRaisesRegex(ValueError, 'there is no bwrap'):
        sampling.verifier(config, run)
    with mock.patch.object(attempts, 'check') as check:
      sampling.verifier(config, run)
    check.assert_called_once_with(tasks.Limits(
        cpu_seconds=3.0, wall_seconds=8.0, memory_bytes=100 << 20))
    config.verifier.execute_code_without_a_sandbox = True
    with mock.patch.object(attempts, 'check') as check:
      with self.assertLogs(level='WARNING'):
        sampling.verifier(config, run)
    check.assert_not_called()

  def test_a_run_that_is_refused_has_written_nothing(self):
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(
        tasks, 'confine', side_effect=ValueError('no sandbox')):
      with self.assertRaisesRegex(ValueError, 'no sandbox'):
        train.train(tiny_config.get_config(), f'{folder}/run')
      self.assertFalse(os.path.exists(f'{folder}/run'))

  @parameterized.parameters(
      ('num_workers', -1), ('memory_mb', 63), ('cpu_seconds', 0.0),
      ('cpu_seconds', -1.0), ('wall_seconds', 0.0), ('wall_seconds', -10.0),
      ('wall_seconds', float('nan')), ('wall_seconds', float('inf')),
  )
  def test_values_of_a_config(self, key, value):
    config = default.get_config()
    config.verifier[key] = value
    with self.assertRaisesRegex(ValueError, f'verifier.{key}={value} must be'):
      values.check_values(config)

  def test_a_machine_whose_calls_are_unknown(self):
    with mock.patch('platform.machine', lambda: 'vax'):
      with self.assertRaisesRegex(RuntimeError, "'vax' are not known"):
        seccomp.denied()


if __name__ == '__main__':
  absltest.main()
