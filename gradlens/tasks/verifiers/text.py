"""Verifiers that compare text: exact, choice and format."""

import dataclasses
import re

from gradlens.tasks.types import Record
from gradlens.tasks.verifiers import needs
from gradlens.tasks.verifiers.extract import answer_of
from gradlens.tasks.verifiers.score import NO_ANSWER, RIGHT, Score, wrong


@dataclasses.dataclass(frozen=True)
class Exact:
  """The answer is the reference, blanks aside.

  Attributes:
    ignore_case: whether 'Paris' is 'paris'.
    last_line: see `extract.answer_of`.
  """

  ignore_case: bool = False
  last_line: bool = False

  def __call__(self, completion: str, record: Record) -> Score:
    answer = answer_of(completion, self.last_line)
    if answer is None:
      return NO_ANSWER
    if self._plain(answer) == self._plain(record.answer):
      return RIGHT
    return wrong(answer)

  def check(self, record: Record) -> None:
    needs.answer(record)

  def _plain(self, text: str) -> str:
    text = ' '.join(text.split())
    return text.casefold() if self.ignore_case else text


_LETTER = re.compile(r'\(?([A-Za-z])(?:[).:]|$)\s*')
_TEXT = re.compile(r'\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}')


@dataclasses.dataclass(frozen=True)
class Choice:
  """The answer is the reference's letter, or the text of that choice.

  `B`, `(B)`, `B.`, `B) text` and `text` are the same answer; a letter beside
  the text of another choice is none. Choices are lettered from A on.

  Attributes:
    last_line: see `extract.answer_of`.
  """

  last_line: bool = False

  def __call__(self, completion: str, record: Record) -> Score:
    self.check(record)
    texts = [_folded(text) for text in record.entry['choices']]
    letters, gold = _letters(record), record.answer.strip().upper()
    answer = answer_of(completion, self.last_line)
    if answer is None:
      return NO_ANSWER
    text = _folded(_TEXT.sub(r'\1', answer).strip('$ '))
    chosen = _letter(text, dict(zip(letters, texts, strict=True)))
    if chosen is None and texts.count(text) == 1:
      chosen = letters[texts.index(text)]
    return RIGHT if chosen == gold else wrong(answer)

  def check(self, record: Record) -> None:
    needs.fields(record, 'choices')
    letters = _letters(record)
    if record.answer.strip().upper() not in letters:
      raise ValueError(
          f'the answer {record.answer!r} is none of the letters of the'
          f' {len(letters)} choices; it must be one of {", ".join(letters)}'
      )


def _letters(record: Record) -> list[str]:
  return [chr(ord('A') + i) for i in range(len(record.entry['choices']))]


def _folded(text: str) -> str:
  return ' '.join(str(text).casefold().split())


def _letter(text: str, choices: dict[str, str]) -> str | None:
  """The letter at the start of an answer that says nothing else."""
  match = _LETTER.match(text)
  if match is None:
    return None
  letter, rest = match[1].upper(), text[match.end():]
  return letter if rest in ('', choices.get(letter, '')) else None


@dataclasses.dataclass(frozen=True)
class Format:
  """The whole completion matches a regular expression.

  Attributes:
    pattern: of Python's `re`; write `(?s)` first if a dot may be a line's end.
  """

  pattern: str

  def __post_init__(self) -> None:
    try:
      re.compile(self.pattern)
    except re.error as error:
      raise ValueError(
          f'pattern {self.pattern!r} is no regular expression: {error}'
      ) from error

  def __call__(self, completion: str, record: Record) -> Score:
    del record
    if re.fullmatch(self.pattern, completion):
      return Score(1.0, 'of the right form')
    return Score(0.0, 'of another form')

  def check(self, record: Record) -> None:
    del record  # It reads nothing of one.
