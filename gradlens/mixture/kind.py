"""What a kind of mixture is: shares of the tasks, and how they are learned."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gradlens.mixture.seen import Seen

State = dict[str, Any]  # plain JSON


class Kind(NamedTuple):
  """Shares of the tasks as a function of a state.

  Attributes:
    init: the first state: plain JSON, as all that follow.
    learn: `(state, seen) -> state`, once for every step, in order.
    shares: `(state) -> [K]`, 0 or more, of any sum above 0.
    needs: what must be measured: 'nothing', 'rewards', or Gram matrices,
      'naive' or 'unbiased'.
  """

  init: Callable[[], State]
  learn: Callable[[State, Seen], State]
  shares: Callable[[State], np.ndarray]
  needs: str


def softmax(scores_K: np.ndarray, temperature: float) -> np.ndarray:
  """Shares in proportion to exp(score / temperature)."""
  scores_K = np.asarray(scores_K, np.float64) / temperature
  powers_K = np.exp(scores_K - scores_K.max())
  # None is 0: a task that is drawn no more would not be seen again.
  return np.maximum(powers_K / powers_K.sum(), 1e-12)


def above_zero(name: str, value: float) -> None:
  """Refuses an argument that is not.

  Raises:
    ValueError: it is 0, below, or no number.
  """
  if not value > 0:
    raise ValueError(f'{name}={value} must be above 0')
