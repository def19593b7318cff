"""The guard: what a verifier may do without harm to anything but its item."""

import multiprocessing.connection as mpc
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
import pytest

from gradlens import tasks
from gradlens.tasks import verifier as verifier_lib

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
    'memory': ERROR, 'score': tasks.Result(0.5, 'ok', 'half right'),
    'score_nan': ERROR, 'score_of_three': ERROR,
    # It names one reward.
    'score_of_parts': ERROR,
    'score_of_one_part': tasks.Result(1.0, 'ok', 'right', (0.5,)),
    'score_of_no_part': ERROR,
    'score_of_large_part': tasks.Result(1.0, 'ok', 'right', (1.0,)),
    'long_reason': tasks.Result(1.0, 'ok', 'x' * 500),
}
DEADLY = {
    'exit': ERROR, 'segfault': ERROR, 'close_everything': ERROR,
    'swallow': TIMEOUT,
}


class Clock:
  """The guard's clock: 1000 s for every item that has noted that it began.

  They pass when there is nothing to read but the item's result. The load of the
  machine, which another clock would measure too, counts for none.
  """

  def __init__(self, path):
    self._path, self.passed = pathlib.Path(path), 0

  def __enter__(self):
    self._patches = mock.patch.multiple(verifier_lib, time=self, mpc=self)
    self._patches.start()

  def __exit__(self, *unused):
    self._patches.stop()

  def monotonic(self):
    return 1000.0 * self.passed

  def _noted(self):
    return self._path.stat().st_size if self._path.exists() else 0

  def wait(self, connections, seconds):
    noted = self._noted()  # Results of items before it are there by now.
    ready = mpc.wait(connections, min(seconds, 0.05))
    if not ready and noted > self.passed:
      self.passed = noted
    return ready


def items(*completions):
  return [('bad', text, None) for text in completions]


def guard(**limits):
  limits = {'cpu_seconds': 0.2, 'wall_seconds': 300.0} | limits
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
    with guard() as verifier:
      with self.assertLogs(level='WARNING') as logs:
        results = verifier.score(items('0.5', text, '1'))
    self.assertEqual(results, [tasks.Result(0.5, 'ok'), expected, OK])
    self.assertLen(logs.output, 1)
    self.assertIn(repr(text), logs.output[0])

  @parameterized.parameters('hang_with_signals_blocked', 'sleep')
  def test_elapsed_time_ends_what_no_other_limit_does(self, text):
    path = self._file()
    text = f'note:{path}:{text}'
    with guard() as verifier, Clock(path):
      with self.assertLogs(level='WARNING') as logs:
        results = verifier.score(items('0.5', text, '1'))
    self.assertEqual(results, [tasks.Result(0.5, 'ok'), TIMEOUT, OK])
    self.assertLen(logs.output, 1)
    self.assertIn('it took 300.0 s', logs.output[0])
    self.assertIn(repr(text), logs.output[0])

  def test_death_after_death(self):
    with guard() as verifier:
      with self.assertLogs(level='WARNING') as logs:
        results = verifier.score(items('exit', 'exit', '1', 'exit'))
      again = verifier.score(items('1'))
    self.assertEqual(results, [ERROR, ERROR, OK, ERROR])
    self.assertEqual(again, [OK])
    self.assertLen(logs.output, 3)

  @pytest.mark.slow
  @parameterized.parameters(2, 3)
  def test_results_do_not_depend_on_the_number_of_workers(self, num_workers):
    # Three shares and more, with deaths in all of them.
    texts = [str(i % 7 / 7) for i in range(60)]
    for place, text in ((3, 'exit'), (15, 'loop'), (16, 'segfault'),
                        (17, 'raise'), (40, 'close_everything'), (59, 'exit')):
      texts[place] = text
    results = []
    for number in (1, num_workers):
      with guard(num_workers=number) as verifier:
        with self.assertLogs(level='WARNING') as logs:
          results.append(verifier.score(items(*texts)))
        results.append(verifier.score(items(*texts[4:15] * 9)))
      self.assertLen(logs.output, 4)
    self.assertEqual(results[:2], results[2:])
    self.assertEqual([r.score for r in results[0][4:15]],
                     [i % 7 / 7 for i in range(4, 15)])

  def test_workers_share_the_work(self):
    with guard(num_workers=2) as verifier:
      with tempfile.TemporaryDirectory() as folder:
        pids = set()
        # A worker that is slow to start leaves its share to the other.
        for _ in range(600):
          if len(pids) == 2:
            break
          time.sleep(0.1)
          paths = [f'{folder}/{i}' for i in range(40)]
          verifier.score(items(*(f'pid:{path}' for path in paths)))
          pids = {pathlib.Path(path).read_text() for path in paths}
    self.assertLen(pids, 2)
    for pid in pids:
      self.assertFalse(running(int(pid)))

  def test_a_slow_item_keeps_nobody_waiting(self):
    with tempfile.TemporaryDirectory() as folder, guard(
        num_workers=2) as verifier, self.assertNoLogs(level='WARNING'):
      paths = [f'{folder}/{i}' for i in range(100)]
      # It ends when the last of the others has been done.
      results = verifier.score(items(
          f'wait_for:{paths[-1]}', *(f'pid:{path}' for path in paths)))
      pids = [pathlib.Path(path).read_text() for path in paths]
    self.assertEqual(results, [OK] * 101)
    # The other worker did all but the 15 that were given out with the slow one.
    self.assertLen(set(pids[15:]), 1)

  def test_time_out_that_a_verifier_reports_itself(self):
    with guard() as verifier, self.assertLogs(level='WARNING') as logs:
      results = verifier.score(items('1', 'wait_in_vain', '1'))
    self.assertEqual([r.status for r in results], ['ok', 'timeout', 'ok'])
    self.assertIn('the other side took 3 s', results[1].reason)
    self.assertIn('the other side took 3 s', logs.output[0])

  @pytest.mark.slow
  def test_what_was_late_is_late_again_there_and_nowhere_else(self):
    # While the file is there it waits, as on a busy machine; else it is right.
    path = self._file()
    batch = [('bad', text, tasks.Record('prompt', '', {})) for text in (
        '1', f'sleep_if:{path}', 'loop', f'sleep_if:{path}')]
    idle = ['ok', 'ok', 'timeout', 'ok']
    busy = ['ok', 'timeout', 'timeout', 'timeout']

    def scored(verifier):
      return [result.status for result in verifier.score(batch)]

    with tempfile.TemporaryDirectory() as folder:
      late = tasks.Late(f'{folder}/late', 0)
      with guard(late=late) as verifier, Clock(path):
        late.begin('step 3')
        self.assertEqual(scored(verifier), idle)
        pathlib.Path(path).touch()
        self.assertEqual(scored(verifier), busy)
        pathlib.Path(path).unlink()
        for part in ('step 8', 'evaluation 3'):
          late.begin(part)
          self.assertEqual(scored(verifier), idle)
      # It is resumed, on a machine that is idle.
      for host, second in ((0, busy), (1, idle)):
        late = tasks.Late(f'{folder}/late', host)
        with guard(late=late) as verifier:
          for part, results in (
              ('step 2', [idle, idle]), ('step 3', [idle, second, idle]),
              ('evaluation 3', [idle, idle])):
            late.begin(part)
            for expected in results:
              self.assertEqual(scored(verifier), expected)

  def test_where_time_ran_out(self):
    item = ('bad', '1', tasks.Record('prompt', '', {}))
    others = [('worse', *item[1:]), ('bad', '2', item[2]),
              ('bad', '1', tasks.Record('another', '', {}))]
    with tempfile.TemporaryDirectory() as folder:
      late = tasks.Late(f'{folder}/late', 0)
      late.begin('step 3')
      late.add(late.places([item, item])[:1])
      again = tasks.Late(f'{folder}/late', 0)
      again.begin('step 3')
      self.assertEqual(
          [p in again for p in again.places([item, item])], [True, False])
      for other in others:
        again.begin('step 3')
        self.assertNotIn(again.places([other])[0], again)

  def test_worker_that_cannot_start(self):
    with mock.patch.object(sys, 'executable', '/bin/false'):
      with guard(num_workers=2) as verifier:
        with self.assertRaisesRegex(RuntimeError, 'died at its start.*code 1'):
          verifier.score(items('1'))

  def test_hang_in_c_needs_no_wall_clock(self):
    # CPU time is the limit that strikes alike in every run.
    with guard() as verifier:
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

  def test_seconds(self):
    path = self._file()
    with guard() as verifier:
      slow, quick = verifier.score(items('sleep_0.2', '1'))
    self.assertEqual([slow, quick], [OK, OK])
    # They are each item's own, and what is waited for counts.
    self.assertBetween(slow.seconds, 0.2, 300)
    self.assertGreater(quick.seconds, 0)
    with Clock(path), guard() as verifier:
      gone, after = verifier.score(items(f'note:{path}:sleep', '1'))
    self.assertEqual([gone, after], [TIMEOUT, OK])
    self.assertEqual(gone.seconds, 1000)

  def test_time_between_batches_is_free(self):
    clock = Clock(self._file())
    with clock, guard() as verifier, self.assertNoLogs(level='WARNING'):
      verifier.score(items('1'))
      clock.passed += 1  # 1000 s, where an item has 300.
      # It has time to use up its CPU time.
      self.assertEqual(verifier.score(items('loop', '1')), [TIMEOUT, OK])

  def test_the_alarm_of_an_orphan_is_off_between_items(self):
    # In a process of its own, which the timer limits.
    code = f"""
import signal, sys
sys.path[:] = {sys.path!r}
from gradlens.tasks import worker
def left(*unused):
  return signal.getitimer(signal.ITIMER_REAL)[0] / 1000
timer = worker.Timer(10.0, 300.0)
print(worker.score(left, '', None, timer)[0], left())
"""
    out = subprocess.run(
        [sys.executable, '-c', code], check=True, text=True,
        stdout=subprocess.PIPE).stdout
    during, after = map(float, out.split())
    self.assertBetween(during, 0.0, 0.6)  # 2 x 300 s
    self.assertGreater(during, 0.0)
    self.assertEqual(after, 0.0)

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
    deadline = time.monotonic() + 120
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
