"""The code verifier: what a program must do to be right, and cannot do."""

import os
import pathlib

from absl.testing import absltest, parameterized
import hostile
import pytest
from sandboxed import LIMITS, SandboxTestCase

from gradlens import tasks
from gradlens.tasks import sandbox, verifiers
from gradlens.tasks.verifiers import code

ADD = 'a, b = map(int, input().split())\nprint(a + b)\n'
SUMS = [dict(stdin='3 8\n', stdout='11\n'), dict(stdin='1 -1', stdout='0')]
ASSERTS = ['assert add(3, 8) == 11', 'assert [0] == [add(1, -1)]',
           'import math\nassert math.isclose(add(0.1, 0.2), 0.3)',
           'assert not add(0, 0)']


def score(completion, tests, spec='code', limits=LIMITS):
  verify = verifiers.confined(verifiers.parse(spec), limits)
  return verify(completion, tasks.Record('', '', {'tests': tests}))


class ProgramTest(parameterized.TestCase):

  @parameterized.parameters(
      ('print(1)', 'print(1)'),
      ('```python\n1\n```', '1\n'), ('```\n1\n```', '1\n'),
      ('``` Python \n1\n```', '1\n'), ('a\n```py\n1\n```\nb', '1\n'),
      ('```python\n1\n```\nor\n```python3\n2\n```', '2\n'),
      ('```python\n1\n```\n```text\n2\n```', '1\n'),
      ('- so:\n  ```python\n1\n  ```', '1\n'),
      ('```text\n1\n```', None), ('```python\n1', None),
      ('```python\n1\n```\n```python\n2', None), ('', None), (' \n', None),
  )
  def test_program(self, completion, expected):
    self.assertEqual(code.program_of(completion), expected)

  @parameterized.parameters(
      ([], 'without tests'), (['f(1)'], 'asserts nothing'), (['x ='], 'Python'),
      ([{'stdin': '1'}], 'neither'), ([{'stdin': 1, 'stdout': 2}], 'neither'),
      ([3], 'neither'),
  )
  def test_bad_tests(self, tests, message):
    with self.assertRaisesRegex(ValueError, message):
      code.read_tests(tests)

  @parameterized.parameters(
      '(', 'def f(:', 'x' * 70_000, '\x00', '\ud800', '(' * 10_000, '# 1', '',
      '```python\n```', 'print("a\nb")', '9' * 10_000, '-' * 50_000 + '1',
  )
  def test_never_runs_what_is_no_program(self, completion):
    # An unlimited list of failures to start would be an error, not a score.
    limits = sandbox.Limits(sandbox=False, wall_seconds=0.0)
    self.assertEqual(score(completion, SUMS, limits=limits).score, 0)


class CodeTest(SandboxTestCase):

  @parameterized.parameters(
      ADD, f'Like so:\n```python\n{ADD}```\nIt adds.',
      # Blanks at ends of lines and of the output.
      ADD.replace('a + b', "a + b, ' ', end='\\n\\n'"),
      'import sys\nprint(sum(map(int, sys.stdin.read().split())))',
      'import sys\na, b = open(0).read().split()\n'
      'sys.stdout.write(str(int(a) + int(b)))',
      "def main():\n  print(sum(map(int, input().split())))\n"
      "if __name__ == '__main__':\n  main()\n",
      'import threading\ndef main():\n  print(sum(map(int, input().split())))\n'
      'threading.Thread(target=main).start()',
      ADD + 'import sys\nsys.exit()', ADD + 'exit(0)',
      'import dataclasses\n@dataclasses.dataclass\nclass P:\n  x: int\n' + ADD,
      'import sys\nsys.setrecursionlimit(10**6)\n'
      'def f(n): return n and 1 + f(n - 1)\nf(20000)\n' + ADD,
  )
  def test_right(self, program):
    self.assertEqual(score(program, SUMS).score, 1, score(program, SUMS))

  @parameterized.parameters(
      ('print(11)', 'test 2: another output'),
      ('print(0)', 'test 1: another output'),
      ('print()', 'another output'), ('pass', 'another output'),
      (ADD + 'print()\nprint(1)', 'another output'),
      (ADD + '1 / 0', 'exit code 1'), (ADD + 'exit(3)', 'exit code 3'),
      (ADD + 'import os\nos.abort()', 'signal SIGABRT'),
      (ADD + 'raise KeyboardInterrupt', 'signal SIGINT'),
      ('print("x" * 100_000)', 'too much output'),
      ('input()\ninput()', 'exit code 1'),
  )
  def test_wrong(self, program, reason):
    result = score(program, SUMS)
    self.assertEqual(result.score, 0)
    self.assertIn(reason, result.reason)

  def test_share_of_tests(self):
    self.assertEqual(score('print(11)', SUMS, 'code?partial=true').score, 0.5)
    self.assertEqual(score(ADD, SUMS, 'code?partial=true').score, 1)
    self.assertEqual(score('(', SUMS, 'code?partial=true').score, 0)

  @parameterized.parameters(
      'def add(a, b): return a + b', 'add = lambda a, b: a + b',
      'import operator\nadd = operator.add',
      # What it prints is of no interest.
      'print("noise")\ndef add(a, b):\n  print(a)\n  return a + b',
  )
  def test_assertions_hold(self, program):
    self.assertEqual(score(program, ASSERTS).score, 1, score(program, ASSERTS))

  @parameterized.parameters(
      ('def add(a, b): return a - b', 'another value'),
      ('def add(a, b): return str(a + b)', 'another value'),
      ('def sub(a, b): return a - b', 'exit code 1'),
      ('def add(a, b): raise SystemExit', 'cannot be compared'),
      ('def add(a, b): return add(a, b)', 'exit code 1'),
      ('def add(a, b): return object()', 'cannot be compared'),
      ('add = 11', 'exit code 1'),
  )
  def test_assertions_fail(self, program, reason):
    result = score(program, ASSERTS)
    self.assertEqual(result.score, 0)
    self.assertIn(reason, result.reason)

  @parameterized.parameters(
      '[1, 2.5, "x", None, True]', '(1, (2, [3]))', '{1: {2: (3,)}, "a": []}',
      '{1, 2, (3, 4)}', '{}', '[]', '()', '"\\ud800\\n"', '-1', '10**40',
      '[[], [[]]]', '1e300', '["list", [1]]', '["dict", []]',
  )
  def test_values_of_every_kind(self, value):
    asserts = [f'assert give() == {value}']
    self.assertEqual(score(f'def give(): return {value}', asserts).score, 1)
    # Beside it there is nothing that is equal.
    self.assertEqual(score(f'def give(): return [{value}]', asserts).score, 0)

  def test_values_of_subclasses(self):
    program = ('from collections import *\nP = namedtuple("P", "x y")\n'
               'def give(): return [Counter("aab"), P(1, 2), deque([1])]')
    asserts = ['assert give()[:2] == [{"a": 2, "b": 1}, (1, 2)]']
    self.assertEqual(score(program, asserts).score, 1)
    asserts = ['assert give()[2] == [1]']
    self.assertEqual(score(program, asserts).score, 0)

  @parameterized.parameters(
      # Equal to everything; or to anything, by its kind.
      'class A:\n  __eq__ = lambda *a: True\ndef add(*a): return A()',
      'class A(int):\n  __eq__ = lambda *a: True\ndef add(*a): return A()',
      'class A(list):\n  __eq__ = lambda *a: True\ndef add(*a): return A()',
      # An early end, and ends that look like success.
      'import sys\nsys.exit(0)', 'import os\nos._exit(0)', 'quit()',
      'raise SystemExit', 'def add(*a): exit(0)',
      'import atexit, os\natexit.register(os._exit, 0)\n1 / 0',
      # What it is asked for, and by whom.
      'import sys\ndef add(*a): return sys._getframe(1).f_locals',
      'import gc\ndef add(*a): return gc.get_objects()[0]',
      'import builtins\nbuiltins.eval = lambda *a: 11',
      'import builtins\nbuiltins.bool = lambda *a: True',
      'import json\njson.dump = lambda v, file: file.write("11")',
      'import sys\nsys.modules["__main__"].plain = lambda v: 11',
      # What is printed is not what is compared.
      'print("[0, 11]")\nprint("all tests passed")\ndef add(*a): pass',
      'import os\nfor fd in range(20):\n  try: os.write(fd, b"11")\n'
      '  except OSError: pass\nos._exit(0)',
      'import os\nos.write(1, b\'["11", ""]\\n\' * 9)\n'
      'os.kill(os.getppid(), 9)',
      # The assertions, or the machinery, undone.
      '__debug__', 'import unittest\nadd = unittest.mock.MagicMock()',
      'from unittest.mock import MagicMock as add',
      'import signal, os\nos.kill(0, signal.SIGKILL)',
      'import os\nos.kill(os.getppid(), 9)', 'import os\nos.kill(-1, 9)',
      'import os\nos.execv("/usr/bin/true", ["true"])',
      'import sys\nsys.path.insert(0, "/tmp")\nopen("math.py", "w").write("")',
      'import sys\nsys.settrace(lambda *a: 1 / 0)\ndef add(*a): return 11',
      'import sys\nsys.excepthook = lambda *a: print(11)\n1 / 0',
      'def add(*a): return __import__("os").environ',
      'class M(type):\n  __call__ = lambda *a: 11\n'
      'class add(metaclass=M): pass',
  )
  def test_cheats(self, program):
    for asserts in (ASSERTS, ASSERTS[:2], ASSERTS[2:]):
      result = score(program, asserts)
      self.assertEqual(result.score, 0, result.reason)

  def test_expected_output_is_not_in_the_sandbox(self):
    # It prints all that the sandbox knows of it, memory included.
    program = """
import gc, os, sys
texts = [open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc')
         if p.isdigit()]
frame = sys._getframe()
while frame:
  texts += [repr(frame.f_locals), repr(frame.f_globals)]
  frame = frame.f_back
texts += [repr(o) for o in gc.get_objects() if isinstance(o, (dict, list))]
for line in open(f'/proc/{os.getppid()}/maps'):
  start, end = (int(x, 16) for x in line.split()[0].split('-'))
  try:
    with open(f'/proc/{os.getppid()}/mem', 'rb') as memory:
      memory.seek(start)
      texts.append(memory.read(end - start).decode('latin1'))
  except (OSError, ValueError, OverflowError):
    pass
everything = chr(10).join(texts)
# Put together only now, and by no compiler, so as not to find themselves.
secret, asked = ''.join(['a1b2', 'c3d4']), ''.join(['e5f6', '0718'])
print(secret in everything, asked in everything)
"""
    tests = [dict(stdin='e5f60718', stdout='False True'),
             dict(stdin='', stdout='a1b2c3d4')]
    result = score(program, tests)
    # The first test is right: what is asked is known, what is expected not.
    self.assertEqual(
        result.reason, '1 of 2 tests passed; test 2: another output')

  @pytest.mark.slow
  def test_hostile_completions(self):
    for name, completion in hostile.COMPLETIONS.items():
      for tests in (SUMS, ASSERTS):
        result = score(completion, tests)
        self.assertEqual(result.score, 0, (name, result.reason))
    self.assertFalse(pathlib.Path('escaped').exists())

  @pytest.mark.slow
  def test_junk(self):
    for completion in hostile.junk(1000):
      self.assertEqual(score(completion, SUMS).score, 0, completion)

  def test_too_slow_is_wrong(self):
    limits = tasks.Limits(cpu_seconds=1.0, wall_seconds=300.0)
    result = score('while True: pass', SUMS, limits=limits)
    self.assertEqual(result.score, 0)
    self.assertIn('test 1: out of CPU time', result.reason)

  @pytest.mark.slow
  def test_in_the_guard(self):
    record = tasks.Record('', '', {'tests': SUMS})
    task = tasks.Task('code', [], [], verifiers.parse('code'))
    limits = tasks.Limits(wall_seconds=8.0)
    programs = [ADD, 'print(1)', 'import time\ntime.sleep(1000)',
                'import os\nos.kill(1, 9)', ADD]
    with tasks.Verifier(
        tasks.confine([task], limits), cpu_seconds=20.0, wall_seconds=300.0,
    ) as guard, self.assertLogs(level='WARNING') as logs:
      results = guard.score([('code', p, record) for p in programs])
    self.assertEqual(
        [(r.score, r.status) for r in results],
        [(1, 'ok'), (0, 'ok'), (0, 'timeout'), (0, 'ok'), (1, 'ok')])
    # Elapsed time is no property of a program, and is said out loud.
    self.assertLen(logs.output, 1)
    self.assertIn('a program took 8.0 s', logs.output[0])

  def test_a_record_without_tests_is_an_error(self):
    task = tasks.Task('code', [], [], verifiers.parse('code'))
    records = [tasks.Record('', '', entry) for entry in (
        {}, {'tests': []}, {'tests': None}, {'tests': [{}]})]
    with tasks.Verifier([task], wall_seconds=300.0) as guard:
      results = guard.score([('code', ADD, record) for record in records])
    self.assertEqual(results, [tasks.Result(0.0, 'error')] * 4)

  def test_a_sandbox_that_is_gone_is_an_error(self):
    with absltest.mock.patch.dict(os.environ, PATH=''):
      with self.assertRaisesRegex(RuntimeError, 'no bwrap'):
        score(ADD, SUMS)


if __name__ == '__main__':
  absltest.main()
