"""The guard: what a verifier may do without harm to anything but its item."""

import os
import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import types
from unittest import mock

from absl.testing import absltest, parameterized
import bad_verifiers
from program import running

from gradlens import tasks

TASK = tasks.Task('bad', [], [], bad_verifiers.misbehave)
OK = tasks.Result(1.0, 'ok')
ERROR = tasks.Result(0.0, 'error')
TIMEOUT = tasks.Result(0.0, 'timeout')

EASY = {
    'raise': ERROR, 'system_exit': ERROR, 'none': ERROR, 'text': ERROR,
    'complex': ERROR, 'nan': ERROR, 'inf': ERROR, '-inf': ERROR,
    'print': ERROR, 'loop': TIMEOUT, 'swallow_once': TIMEOUT,
    'regex': TIMEOUT, '0.25': tasks.Result(0.25, 'ok'),
    # Clipped into [0, 1].
    '7': OK, '-7': tasks.Result(0.0, 'ok'),
}
DEADLY = {
    'exit': ERROR, 'segfault': ERROR, 'close_everything': ERROR,
    'swallow': TIMEOUT, 'hang_with_signals_blocked': TIMEOUT,
    'sleep': TIMEOUT,
}


def items(*completions):
  return [('bad', text, None) for text in completions]


def guard(**limits):
  limits = {'cpu_seconds': 0.2, 'wall_seconds': 30.0} | limits
  return tasks.Verifier([TASK], **limits)


def script(body):
  """Starts a program that uses the verifier; its `__main__` has no guard."""
  header = f"""
      import os, signal, sys, time
      sys.path[:] = {sys.path!r}
      import bad_verifiers
      from gradlens import tasks
      TASK = tasks.Task('bad', [], [], bad_verifiers.misbehave)
      print('main', flush=True)
      def items(*texts):
        return [('bad', text, None) for text in texts]
  """
  return subprocess.Popen(
      [sys.executable, '-X', 'dev', '-W', 'error', '-c',
       textwrap.dedent(header) + textwrap.dedent(body)],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      text=True, start_new_session=True,
  )


class VerifierTest(parameterized.TestCase):

  def test_each_item_has_its_own_result(self):
    # Every bad item stands between two good ones.
    texts = [text for bad in EASY for text in ('1', bad)] + ['1']
    with guard() as verifier, self.assertNoLogs(level='WARNING'):
      results = verifier.score(items(*texts))
    expected = [r for bad in EASY.values() for r in (OK, bad)] + [OK]
    self.assertEqual(results, expected)

  @parameterized.parameters(*DEADLY.items())
  def test_death_of_the_worker_costs_one_item(self, text, expected):
    with guard(wall_seconds=2.0) as verifier:
      with self.assertLogs(level='WARNING') as logs:
        results = verifier.score(items('0.5', text, '1'))
    self.assertEqual(results, [tasks.Result(0.5, 'ok'), expected, OK])
    self.assertLen(logs.output, 1)
    self.assertIn(repr(text), logs.output[0])

  def test_death_after_death(self):
    with guard() as verifier:
      with self.assertLogs(level='WARNING') as logs:
        results = verifier.score(items('exit', 'exit', '1', 'exit'))
      again = verifier.score(items('1'))
    self.assertEqual(results, [ERROR, ERROR, OK, ERROR])
    self.assertEqual(again, [OK])
    self.assertLen(logs.output, 3)

  def test_hang_in_c_needs_no_wall_clock(self):
    # CPU time is the limit that strikes alike in every run.
    with guard(wall_seconds=600.0) as verifier:
      with self.assertLogs(level='WARNING') as logs:
        results = verifier.score(items('hang_in_c'))
    self.assertEqual(results, [TIMEOUT])
    self.assertIn('CPU time', logs.output[0])

  def test_limit_is_per_item(self):
    # 3 s of CPU time in all, more than one item has, with what the kernel
    # adds: ceil(0.6) + 1 s.
    with tasks.Verifier(
        [tasks.Task('busy', [], [], bad_verifiers.busy)], cpu_seconds=0.6
    ) as verifier, self.assertNoLogs(level='WARNING'):
      results = verifier.score([('busy', '0.3', None)] * 10)
    self.assertEqual(results, [OK] * 10)

  def test_time_between_batches_is_free(self):
    with guard(wall_seconds=1.0) as verifier:
      with self.assertNoLogs(level='WARNING'):
        verifier.score(items('1'))
        time.sleep(2.5)  # An orphan has 2 s.
        self.assertEqual(verifier.score(items('1')), [OK])

  def test_same_scores_as_without_a_guard(self):
    loaded = [
        tasks.load(
            name, f'rg:{source}', pattern=r'(?s)(.*)', template='{0}',
            num_train=768, num_heldout=256, seed=0,
        )
        for name, source in (
            ('spell', 'spell_backward?max_word_len=4'),
            ('sum', 'chain_sum?max_digits=3'),
            ('palindrome', 'palindrome_generation'),
        )
    ]
    batch = [
        (task.name, record.answer[:cut] + junk, record)
        for cut, junk in ((None, ''), (2, ''), (None, '1'), (0, ''))
        for task in loaded for record in task.train[:50]
    ]
    with tasks.Verifier(loaded) as verifier:
      results = verifier.score(batch)
    verify = {task.name: task.verify for task in loaded}
    direct = [verify[name](text, record) for name, text, record in batch]
    self.assertEqual([r.score for r in results], direct)
    self.assertEqual({r.status for r in results}, {'ok'})
    # Not all alike, or the order of the results would go untested.
    self.assertGreater(len(set(direct)), 5)

  def test_worker_killed_between_batches(self):
    with guard() as verifier:
      pid = self._pid(verifier)
      os.kill(pid, signal.SIGKILL)
      while running(pid):
        time.sleep(0.01)
      with self.assertLogs(level='WARNING'):
        self.assertEqual(verifier.score(items('1', '1')), [OK, OK])

  def test_interrupted_batch_leaves_nothing_behind(self):
    class Interrupted(Exception):
      pass

    def interrupt(*unused):
      raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    self.addCleanup(signal.signal, signal.SIGALRM, before)
    with guard() as verifier:
      verifier.score(items('1'))
      signal.setitimer(signal.ITIMER_REAL, 0.5)
      with self.assertRaises(Interrupted):
        verifier.score(items('sleep', '0', '0'))
      with self.assertLogs(level='WARNING'):
        self.assertEqual(verifier.score(items('1')), [OK])

  def test_same_surroundings_in_every_run(self):
    results = []
    for platform in ('tpu', 'cuda'):
      environ = {'JAX_PLATFORMS': platform, 'PYTHONHASHSEED': 'random'}
      with mock.patch.dict(os.environ, environ), guard() as verifier:
        results.append(verifier.score(items('hash', 'on_cpu')))
    self.assertEqual(results[0], results[1])
    self.assertEqual(results[0][1], OK)

  def test_closes_for_good(self):
    with guard() as verifier:
      pid = self._pid(verifier)
    self.assertFalse(pathlib.Path(f'/proc/{pid}').exists())
    with self.assertRaisesRegex(RuntimeError, 'enter the verifier'):
      verifier.score(items('1'))

  def test_bad_input(self):
    with self.assertRaisesRegex(ValueError, "'bad', 'bad'.*share a name"):
      tasks.Verifier([TASK] * 2)
    with guard() as verifier:
      with self.assertRaisesRegex(ValueError, r"\['worse'\].*\['bad'\]"):
        verifier.score([('worse', '1', None)])
      self.assertEqual(verifier.score([]), [])

  def test_what_the_worker_cannot_load(self):
    module = types.ModuleType('module_of_a_notebook')
    exec('class Verify:\n  pass', module.__dict__)
    sys.modules[module.__name__] = module
    self.addCleanup(sys.modules.pop, module.__name__)
    task = tasks.Task('lost', [], [], module.Verify())
    with tasks.Verifier([task]) as verifier:
      with self.assertRaisesRegex(RuntimeError, 'module_of_a_notebook'):
        verifier.score([('lost', '1', None)])
    with guard() as verifier:
      with self.assertRaisesRegex(RuntimeError, 'module_of_a_notebook'):
        verifier.score([('bad', '1', module.Verify())])

  def test_verifier_of_a_dataset_is_pickled_without_its_data(self):
    task = tasks.load(
        'spell', 'rg:spell_backward', pattern='(.*)', template='{0}',
        num_train=768, num_heldout=256, seed=0,
    )
    self.assertLess(len(pickle.dumps(task.verify)), 200)

  def test_quiet_and_clean(self):
    program = script("""
        with tasks.Verifier([TASK]) as verifier:
          print([r.status for r in verifier.score(items('print', '1'))])
    """)
    out, err = program.communicate()
    # The program ran once, and neither a verifier nor the exit made a noise.
    self.assertEqual((out, err), ("main\n['error', 'ok']\n", ''))
    self.assertEqual(program.returncode, 0)

  @parameterized.parameters(signal.SIGINT, signal.SIGTERM)
  def test_signal_to_the_group_leaves_the_worker_alone(self, number):
    path = self._file()
    program = script(f"""
        got = []
        for number in (signal.SIGINT, signal.SIGTERM):
          signal.signal(number, lambda number, frame: got.append(number))
        with tasks.Verifier([TASK]) as verifier:
          verifier.score(items('pid:' + {path!r}))
          print('ready', flush=True)
          while not got:
            time.sleep(0.01)
          print([r.status for r in verifier.score(items('1', '1'))])
    """)
    for _ in range(2):
      program.stdout.readline()
    # In the group, or the test would pass without the worker's doing anything.
    self.assertEqual(
        os.getpgid(int(pathlib.Path(path).read_text())), program.pid)
    os.killpg(program.pid, number)
    out, err = program.communicate()
    self.assertEqual((out, err), ("['ok', 'ok']\n", ''))

  @parameterized.parameters('idle', 'hang_in_c', 'sleep')
  def test_ends_with_a_parent_that_is_killed(self, doing):
    path = self._file()
    program = script(f"""
        with tasks.Verifier(
            [TASK], cpu_seconds=0.2, wall_seconds=2.0
        ) as verifier:
          verifier.score(items('pid:' + {path!r}))
          print('ready', flush=True)
          if {doing!r} != 'idle':
            verifier.score(items({doing!r}))
          time.sleep(1000)
    """)
    for _ in range(2):
      program.stdout.readline()
    pid = int(pathlib.Path(path).read_text())
    self.assertTrue(running(pid))
    time.sleep(0.2)  # For the item to begin.
    program.kill()
    program.communicate()
    deadline = time.monotonic() + 20
    while running(pid) and time.monotonic() < deadline:
      time.sleep(0.05)
    self.assertFalse(running(pid))

  def _file(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    return f'{folder.name}/file'

  def _pid(self, verifier):
    path = self._file()
    self.assertEqual(verifier.score(items(f'pid:{path}')), [OK])
    return int(pathlib.Path(path).read_text())


if __name__ == '__main__':
  absltest.main()
