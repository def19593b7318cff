"""The Countdown verifier: an expression over given numbers, never executed."""

import ast
from collections import Counter
from collections.abc import Callable
import dataclasses
from fractions import Fraction
import operator
import re

from gradlens.tasks.types import Record
from gradlens.tasks.verifiers import needs
from gradlens.tasks.verifiers.extract import answer_of
from gradlens.tasks.verifiers.score import NO_ANSWER, RIGHT, Score, wrong

# Six numbers of a few digits, with brackets and blanks to spare.
_MAX_LENGTH = 300
_ALLOWED = re.compile(r'[0-9+\-*/() ]+', re.ASCII)
_SIGNS = (
    (r'\\times|\\cdot|[×·⋅]', '*'), (r'\\div|÷', '/'), ('−', '-'),
    (r'\\left|\\right|\$', ''), (r'\\d?frac\{(\d+)\}\{(\d+)\}', r'(\1/\2)'),
    (r'\s+', ' '),
)
_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclasses.dataclass(frozen=True)
class Countdown:
  """The answer is an expression that makes the target out of the numbers.

  As in the task of TinyZero (Pan et al., 2025), every given number is used
  exactly once. There are + - * / and brackets, nothing else: the answer is
  parsed, its tree is read, and arithmetic is exact. It may end in `= target`.

  Attributes:
    last_line: see `extract.answer_of`.
  """

  last_line: bool = False

  def __call__(self, completion: str, record: Record) -> Score:
    target = int(record.entry['target'])
    given = Counter(int(n) for n in record.entry['numbers'])
    answer = answer_of(completion, self.last_line)
    if answer is None:
      return NO_ANSWER
    text = answer
    for pattern, sign in _SIGNS:
      text = re.sub(pattern, sign, text)
    text, equals, result = text.partition('=')
    if equals and result.strip() != str(target):
      return wrong(answer, 'it does not end in the target')
    tree = _parse(text.strip())
    if tree is None:
      return wrong(answer, 'not an expression of + - * / and brackets')
    if Counter(_numbers(tree)) != given:
      return wrong(answer, 'it does not use each number once')
    try:
      value = _value(tree)
    except ZeroDivisionError:
      return wrong(answer, 'it divides by 0')
    return RIGHT if value == target else wrong(answer, f'it makes {value}')

  def check(self, record: Record) -> None:
    needs.fields(record, 'numbers', 'target')


def _parse(text: str) -> ast.expr | None:
  """The tree of an expression, or None of any other text."""
  if len(text) > _MAX_LENGTH or not _ALLOWED.fullmatch(text):
    return None
  try:
    tree = ast.parse(text, mode='eval').body
  except (SyntaxError, RecursionError, MemoryError):
    return None
  return tree if _allowed(tree) else None


def _allowed(node: ast.expr) -> bool:
  match node:
    case ast.Constant():
      return type(node.value) is int
    case ast.BinOp():
      return type(node.op) in _OPERATORS and all(
          map(_allowed, (node.left, node.right))
      )
  return False


def _numbers(tree: ast.expr) -> list[int]:
  return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]


def _value(node: ast.expr) -> Fraction:
  if isinstance(node, ast.Constant):
    return Fraction(node.value)
  return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
