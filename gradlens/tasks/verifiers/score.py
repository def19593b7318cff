"""What a verifier says of a completion."""

from typing import NamedTuple, Protocol

from gradlens.tasks.types import Record


class Score(NamedTuple):
  """A score and why it is that.

  Attributes:
    score: in [0, 1].
    reason: a few words, for people; '' where there is nothing to say.
    parts: rewards that the score is the weighted sum of, in [0, 1]; empty
      where it is one reward. Their names are those of `verifiers.rewards`.
  """

  score: float
  reason: str = ''
  parts: tuple[float, ...] = ()


class Verify(Protocol):
  """A verifier that a string names. It can be pickled."""

  def __call__(self, completion: str, record: Record) -> Score:
    """Scores a completion."""

  def check(self, record: Record) -> None:
    """Refuses a record of which it could find no completion right.

    Raises:
      ValueError: what is missing, in one sentence about `it`, the record.
    """


RIGHT = Score(1.0, 'right')
NO_ANSWER = Score(0.0, 'no answer found')


def wrong(answer: str, reason: str = 'another answer') -> Score:
  """Score 0, with the beginning of what was taken for the answer.

  >>> wrong('42')
  Score(score=0.0, reason="another answer: '42'", parts=())
  """
  return Score(0.0, f'{reason}: {answer[:80]!r}')
