"""What a verifier says of a completion."""

from collections.abc import Callable
from typing import NamedTuple

from gradlens.tasks.types import Record


class Score(NamedTuple):
  """A score and why it is that.

  Attributes:
    score: in [0, 1].
    reason: a few words, for people; '' where there is nothing to say.
  """

  score: float
  reason: str = ''


Verify = Callable[[str, Record], Score]

RIGHT = Score(1.0, 'right')
NO_ANSWER = Score(0.0, 'no answer found')


def wrong(answer: str, reason: str = 'another answer') -> Score:
  """Score 0, with the beginning of what was taken for the answer.

  >>> wrong('42')
  Score(score=0.0, reason="another answer: '42'")
  """
  return Score(0.0, f'{reason}: {answer[:80]!r}')
