"""The numeric verifier: a number, within a tolerance."""

import dataclasses
import math
import re
from typing import NamedTuple

from gradlens.tasks.types import Record
from gradlens.tasks.verifiers import needs
from gradlens.tasks.verifiers.extract import answer_of
from gradlens.tasks.verifiers.score import NO_ANSWER, RIGHT, Score, wrong

_SCALES = {
    'hundred': 1e2, 'thousand': 1e3, 'k': 1e3, 'million': 1e6, 'mn': 1e6,
    'billion': 1e9, 'bn': 1e9, 'trillion': 1e12,
}
_DIGITS = r'(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?'
# The digits of a number: 1,234.5 or .5 or 2e-3; a fraction of two of them.
_NUMBER = re.compile(
    rf'(?P<sign>[-+]?)\s*(?P<over>{_DIGITS}(?:[eE][-+]?[0-9]{{1,3}})?)'
    rf'(?:\s*/\s*(?P<under>{_DIGITS}))?'
)
# What may stand around it: a currency before, and a few words after.
_BEFORE = re.compile(r'(?:US|USD|EUR|GBP)?\s*[$€£¥]?\s*')
_AFTER = re.compile(
    r"\s*(?P<percent>%|percent\b)?\s*"
    r"(?P<unit>[A-Za-z$€£°][A-Za-z/ .'°²³$]{0,30})?"
)
_LATEX = (
    (re.compile(r'\\d?t?frac\{([^{}]*)\}\{([^{}]*)\}'), r'\1/\2'),
    (re.compile(r'\\(?:text|textbf|mathrm|mbox)\{([^{}]*)\}'), r' \1'),
    (re.compile(r'\\([%$#])'), r'\1'),
    (re.compile(r'\{,\}'), ','),
    (re.compile(r'\\[,;! ()\[\]]|~'), ' '),
    (re.compile('[\N{MINUS SIGN}\N{EN DASH}]'), '-'),
)


class Number(NamedTuple):
  """A number as it was written.

  Attributes:
    value: with the percent sign, if any, taken into account.
    percent: whether it had one.
    scale: of a word like 'million'; 1 without one.
  """

  value: float
  percent: bool
  scale: float


def read(text: str) -> Number | None:
  """Reads the one number that a text gives, with its unit.

  >>> read('$1,234.50').value, read('(12.5)').value, read('14.5%').value
  (1234.5, -12.5, 0.145)
  >>> read('3 or 4') is read('nan') is read('0x10') is None
  True
  """
  for pattern, replacement in _LATEX:
    text = pattern.sub(replacement, text)
  text = text.strip().strip('$').strip()
  # Brackets are how accountants write a minus.
  negative = re.fullmatch(r'(\$?)\s*\(([^()]*)\)\s*(%?)', text)
  if negative:
    text = ''.join(negative.groups())
  sign, text = (-1, text[1:]) if text[:1] == '-' else (1, text)
  start = _BEFORE.match(text).end()
  number = _NUMBER.match(text, start)
  rest = _AFTER.fullmatch(text, number.end()) if number else None
  if rest is None or not number['over'] or number['under'] == '':
    return None
  if number['sign'] and (sign < 0 or negative):
    return None
  value = float(number['over'].replace(',', ''))
  if number['under'] is not None:
    under = float(number['under'].replace(',', ''))
    value = value / under if under else math.inf
  sign = -1 if (sign < 0) != bool(negative) or number['sign'] == '-' else 1
  percent = rest['percent'] is not None
  words = re.findall('[a-z]+', rest['unit'].casefold()) if rest['unit'] else []
  scale = _SCALES.get(words[0], 1.0) if words else 1.0
  value = sign * value * (0.01 if percent else 1.0)
  return Number(value, percent, scale) if math.isfinite(value) else None


@dataclasses.dataclass(frozen=True)
class Numeric:
  """The answer is the reference's number.

  A percent sign divides by 100. A scale word ('million') counts if the
  reference has one too; otherwise the answer is right with it or without.
  Other units are passed over. A reference that is no number ('yes') is compared
  as a word.

  Attributes:
    tolerance: relative: |answer - reference| <= tolerance |reference|.
    absolute: the same, as a number; the larger one counts.
    percent: 'strict', or 'loose': an answer is right at 100 times and at a
      hundredth of the reference too, if one of both has a percent sign and the
      other has none.
    last_line: see `extract.answer_of`.
  """

  tolerance: float = 1e-6
  absolute: float = 0.0
  percent: str = 'strict'
  last_line: bool = False

  def __post_init__(self) -> None:
    for name, value in (
        ('tolerance', self.tolerance), ('absolute', self.absolute)
    ):
      if not 0 <= value < math.inf:
        raise ValueError(f'{name}={value} must be a number of 0 or more')
    if self.percent not in ('strict', 'loose'):
      raise ValueError(f"percent={self.percent!r} must be 'strict' or 'loose'")

  def __call__(self, completion: str, record: Record) -> Score:
    answer = answer_of(completion, self.last_line)
    if answer is None:
      return NO_ANSWER
    gold = read(record.answer)
    if gold is None:
      same = answer.strip('$ ').casefold() == record.answer.strip().casefold()
      return RIGHT if same else wrong(answer)
    number = read(answer)
    if number is None:
      return wrong(answer, 'not one number')
    right = any(
        math.isclose(v, g, rel_tol=0, abs_tol=self._allowed(g))
        for v, g in self._readings(number, gold)
    )
    return RIGHT if right else wrong(answer)

  def check(self, record: Record) -> None:
    needs.answer(record)

  def _allowed(self, gold: float) -> float:
    return max(self.tolerance * abs(gold), self.absolute)

  def _readings(
      self, number: Number, gold: Number
  ) -> list[tuple[float, float]]:
    """Pairs of an answer and a reference that may be meant."""
    pairs = [(number.value * number.scale, gold.value * gold.scale)]
    if 1 in (number.scale, gold.scale):
      pairs.append((number.value, gold.value))
    if self.percent == 'loose' and number.percent != gold.percent:
      pairs += [(v * f, g) for v, g in pairs for f in (100.0, 0.01)]
    return pairs
