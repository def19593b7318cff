r"""The math verifier: math-verify, which compares by sympy.

What sympy would compute in one call of C, such as 9^{9^9}, no timer can
interrupt: only the kernel ends it, together with the process. Such answers are
refused before they are parsed.
"""

import dataclasses
import functools
import logging
import math
import re
from typing import Any

from gradlens.tasks.types import Record
from gradlens.tasks.verifiers import needs
from gradlens.tasks.verifiers.extract import answer_of
from gradlens.tasks.verifiers.score import NO_ANSWER, RIGHT, Score, wrong

_MAX_LENGTH = 500
_MAX_DEPTH = 20
# The product of all exponents of numbers and brackets, or of all numbers beside
# a factorial.
_MAX_POWER = 10_000
_MAX_POLYNOMIAL = 100  # the same, where there are letters to be written out
_MAX_DIGITS = 100

_OPEN, _CLOSE = '([{', ')]}'
# A power of a number or of a bracket; one of a letter is never computed.
_POWER = re.compile(r'[\d)}\]]\s*(?:\^|\*\*)\s*')
_BINDS_FIRST = re.compile(r'\s*(?:\^|\*\*|!)?')
_NUMBER = re.compile(r'(\d+)(?:\.(\d+))?')
_DIGITS = re.compile(r'\d[\d,._ ]*')
_COMMAND = re.compile(r'\\[a-zA-Z]+')
_LETTER = re.compile('[a-zA-Z]')
_TWICE = re.compile(r'![^()\[\]{}]*[)\]}]\s*!|!\s*!')
_LARGE = re.compile(r'\\(?:d?binom|sum|prod|lim|int|def)(?![a-zA-Z])')


@dataclasses.dataclass(frozen=True)
class Math:
  r"""The answer is mathematically equal to the reference.

  Both are read by math-verify, as if they stood in ``\boxed{}``; what it
  cannot read is compared as text.

  Attributes:
    last_line: see `extract.answer_of`.
  """

  last_line: bool = False

  def __call__(self, completion: str, record: Record) -> Score:
    answer = answer_of(completion, self.last_line)
    if answer is None:
      return NO_ANSWER
    if answer.strip('$ ') == record.answer.strip('$ '):
      return RIGHT
    too_large = excess(answer)
    if too_large:
      return wrong(answer, f'{too_large} is not compared')
    gold, target = _read(record.answer), _read(answer)
    if any(_is_false(part) for part in target):
      return wrong(answer, 'an equation that does not hold')
    return RIGHT if _equal(gold, target) else wrong(answer)

  def check(self, record: Record) -> None:
    needs.answer(record)


def excess(answer: str) -> str:
  """What of an answer could take for ever to compute; '' if nothing.

  >>> excess('2^{10} + x^2')
  ''
  >>> excess('9^{9^9}')
  'a power of a power'
  """
  depth = most = 0
  for character in answer:
    depth += (character in _OPEN) - (character in _CLOSE)
    most = max(most, depth)
  exponents = [_exponent(answer[m.end():]) for m in _POWER.finditer(answer)]
  power = math.prod(map(_size, exponents))
  numbers = [len(re.sub(r'\D', '', n)) for n in _DIGITS.findall(answer)]
  causes = {
      'a text so long': len(answer) > _MAX_LENGTH,
      'nesting so deep': most > _MAX_DEPTH,
      'a character that is no text': not answer.isprintable(),
      # The library adds them, as it does 3 and 1/2 in a mixed number.
      'two numbers side by side': re.search(r'\d\s+\d', answer) is not None,
      'a power of a power': any(re.search(r'\^|\*\*|!', e) for e in exponents),
      'a power so high': power > _MAX_POWER,
      'a power of a polynomial so high': (
          power > _MAX_POLYNOMIAL
          and _LETTER.search(_COMMAND.sub('', answer)) is not None
      ),
      'a number so long': max(numbers, default=0) > _MAX_DIGITS,
      'a factorial so high': (
          '!' in answer and _size(answer) > _MAX_POWER
      ) or _TWICE.search(answer) is not None,
      'a sum, product, limit or integral': _LARGE.search(answer) is not None,
  }
  return next((cause for cause, found in causes.items() if found), '')


def _exponent(text: str) -> str:
  """The bracket, number or word at the start, and an operator that follows."""
  if text.startswith('\\'):
    return text  # An argument or two follow a command; this is not less.
  group = re.match(r'[-+]?\w*', text)[0]
  depth = 0
  for i, character in enumerate(text):
    depth += (character in _OPEN) - (character in _CLOSE)
    if depth <= 0:
      group = text[:i + 1] if i else group
      break
  return group + _BINDS_FIRST.match(text, len(group))[0]


def _size(exponent: str) -> int:
  """A bound on what the numbers of an exponent make, multiplied or divided."""
  return math.prod(
      max(int(whole[:9]), 1) * 10 ** (len(part) + len(whole[9:]))
      for whole, part in _NUMBER.findall(exponent)
  )


def _read(text: str) -> list[Any]:
  """What math-verify reads in an answer: in sympy's terms, and as text."""
  library = _library()
  # Only all of it: the last number of a text that it cannot read is no answer.
  whole = library.LatexExtractionConfig(
      boxed_match_priority=0, try_extract_without_anchor=False
  )
  text = text.strip('$ ')
  return library.parse(f'\\boxed{{{text}}}', [whole], parsing_timeout=None)


def _equal(gold: list[Any], target: list[Any]) -> bool:
  # Its own time-out would use the alarm that ends a forgotten worker.
  return _library().verify(gold, target, timeout_seconds=None)


def _is_false(part: Any) -> bool:
  """Whether it holds an equation of unequal numbers.

  The library compares the right-hand side only.
  """
  import sympy  # Late, since few runs have use for it.

  return isinstance(part, sympy.Basic) and any(
      not equation.free_symbols and not _equal([equation.lhs], [equation.rhs])
      for equation in part.atoms(sympy.Equality)
  )


@functools.cache
def _library() -> Any:
  try:
    import math_verify
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the verifier 'math' needs math-verify: pip install 'gradlens[train]'"
    ) from error
  # It warns that it has no time-out, which the caller's limits replace.
  logging.getLogger('math_verify').setLevel(logging.ERROR)
  return math_verify
