"""The code verifier: unit tests, run in the sandbox."""

import ast
from collections.abc import Sequence
import dataclasses
import json
import re
from typing import Any
import warnings

from gradlens.tasks import sandbox
from gradlens.tasks.types import Record
from gradlens.tasks.verifiers import needs
from gradlens.tasks.verifiers.score import NO_ANSWER, Score

_MAX_PROGRAM = 64 << 10
_BLOCK = re.compile(r'^[ \t]*```[ \t]*(\w*)[ \t]*\n(.*?)^[ \t]*```[ \t]*$',
                    re.DOTALL | re.MULTILINE)
_LANGUAGES = ('', 'python', 'py', 'python3')
# A program may print this much more than is expected.
_MORE_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Test:
  """What is asked of a program, and what is expected of it.

  Attributes:
    asked: for `sandbox.run`.
    expected: lines of standard output, or the value of the expression.
  """

  asked: dict[str, str]
  expected: Any


@dataclasses.dataclass(frozen=True)
class Code:
  """All unit tests pass.

  The program is the completion's last block fenced by three backticks (of
  Python, or of no named language), or all of a completion without a fence.
  Tests are dicts of 'stdin' and the 'stdout' expected, whose lines are compared
  without the blanks at their ends; or Python's assert statements. The program
  never sees what is expected: of `assert EXPRESSION == LITERAL` the expression
  is evaluated after the program, and its value is compared outside. Of any
  other assertion the program's process says whether it holds.

  Attributes:
    partial: whether the score is the share of tests passed.
    limits: of the sandbox.
  """

  partial: bool = False
  limits: sandbox.Limits = sandbox.Limits()

  def __call__(self, completion: str, record: Record) -> Score:
    tests = read_tests(record.entry['tests'])
    program = program_of(completion)
    if program is None:
      return NO_ANSWER
    complaint = _complaint(program)
    if complaint:
      return Score(0.0, complaint)
    outputs = sandbox.run(
        program, [test.asked for test in tests], self.limits,
        # The names of types stand in a value, and an escape is six characters.
        _MORE_BYTES + 16 * max(len(repr(test.expected)) for test in tests),
    )
    failures = [_failure(*pair) for pair in zip(tests, outputs, strict=False)]
    failures += ['the program ended the sandbox'] * (len(tests) - len(failures))
    failed = {i: f for i, f in enumerate(failures, start=1) if f}
    passed = len(tests) - len(failed)
    if not failed:
      return Score(1.0, f'all {passed} tests passed')
    first, how = next(iter(failed.items()))
    score = passed / len(tests) if self.partial else 0.0
    return Score(
        score, f'{passed} of {len(tests)} tests passed; test {first}: {how}'
    )

  def check(self, record: Record) -> None:
    needs.fields(record, 'tests')
    read_tests(record.entry['tests'])


def program_of(completion: str) -> str | None:
  r"""The program in a completion; None if a fence is left open.

  >>> program_of('Like this:\n```python\nprint(1)\n```\nDone.')
  'print(1)\n'
  >>> program_of('print(1)')
  'print(1)'
  """
  if '```' not in completion:
    return completion if completion.strip() else None
  blocks = [
      code for language, code in _BLOCK.findall(completion)
      if language.lower() in _LANGUAGES
  ]
  return blocks[-1] if blocks and completion.count('```') % 2 == 0 else None


def _complaint(program: str) -> str:
  """Why a program cannot run; '' if it may."""
  if len(program) > _MAX_PROGRAM:
    return f'a program of more than {_MAX_PROGRAM} characters'
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Of the program's escape sequences.
      tree = ast.parse(program)
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    return f'no Python: {type(error).__name__}'
  return '' if tree.body else 'an empty program'


def read_tests(tests: Sequence[Any]) -> list[Test]:
  """Reads a record's tests.

  Raises:
    ValueError: there are none, or one is of neither form.
  """
  found = []
  for test in tests:
    match test:
      case {'stdin': str(stdin), 'stdout': str(stdout)}:
        found.append(Test(dict(stdin=stdin), _lines(stdout)))
      case str():
        found += _assertions(test)
      case _:
        raise ValueError(
            f'test {test!r} is neither a dict of the texts stdin and stdout nor'
            ' an assert statement'
        )
  if not found:
    raise ValueError('a record without tests; drop it, or give it one')
  return found


def _assertions(source: str) -> list[Test]:
  """One test for each assert statement, after the others before it."""
  try:
    body = ast.parse(source).body
  except SyntaxError as error:
    raise ValueError(f'test {source!r} is no Python: {error}') from error
  found, setup = [], []
  for node in body:
    if isinstance(node, ast.Assert):
      expression, expected = _sides(node.test)
      found.append(Test(dict(
          stdin='', setup='\n'.join(setup), expression=expression,
      ), expected))
    else:
      setup.append(ast.unparse(node))
  if not found:
    raise ValueError(f'test {source!r} asserts nothing')
  return found


def _sides(test: ast.expr) -> tuple[str, Any]:
  """What the program evaluates, and the value that it must have."""
  if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(
      test.ops[0], ast.Eq):
    for ask, tell in ((test.left, test.comparators[0]),
                      (test.comparators[0], test.left)):
      try:
        return ast.unparse(ask), ast.literal_eval(tell)
      except ValueError:
        continue
  return f'bool({ast.unparse(test)})', True


def _failure(test: Test, output: sandbox.Output) -> str:
  if output.ending:
    return output.ending
  if 'expression' not in test.asked:
    same = _lines(output.text) == test.expected
    return '' if same else 'another output'
  try:
    same = decoded(json.loads(output.text)) == test.expected
  except (ValueError, TypeError, RecursionError):
    return 'a value that cannot be compared'
  return '' if same else 'another value'


def decoded(value: Any) -> Any:
  """A value as `confined.plain` wrote it.

  >>> decoded(['dict', [[1, ['tuple', [2, 3]]]]])
  {1: (2, 3)}
  """
  kinds = dict(list=list, tuple=tuple, set=set, frozenset=frozenset)
  match value:
    case [str(kind), list(items)] if kind in kinds:
      return kinds[kind](map(decoded, items))
    case ['dict', list(items)]:
      return {decoded(k): decoded(v) for k, v in items}
    case list() | dict():
      raise ValueError(f'{value!r} is not a plain value')
  return value


def _lines(text: str) -> list[str]:
  return [line.rstrip() for line in text.rstrip().split('\n')]
