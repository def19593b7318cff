"""Degenerate groups: prompts whose completions are all as good.

Nothing is to be learned of such a prompt: none was better than another.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Asked = Sequence[tuple[str, Any]]  # task and record of every prompt
# (asked, rewards_NxG, parts_NxGxM): prompts whose completions are all as good
Equal = Callable[[Asked, np.ndarray, np.ndarray], np.ndarray]


def equal_rewards(
    asked: Asked, rewards_NxG: np.ndarray, parts_NxGxM: np.ndarray
) -> np.ndarray:
  """Prompts whose completions have one reward all."""
  del asked, parts_NxGxM
  return rewards_NxG.max(1) == rewards_NxG.min(1)


def equal_parts(names: Sequence[str], weights_KxM: np.ndarray) -> Equal:
  """Those of which every reward that has a weight is one for all."""
  of_task = dict(zip(names, weights_KxM > 0, strict=True))

  def equal(asked, rewards_NxG, parts_NxGxM):
    del rewards_NxG
    same_NxM = parts_NxGxM.max(1) == parts_NxGxM.min(1)
    for row, (name, _) in enumerate(asked):
      same_NxM[row] |= ~of_task[name]
    return same_NxM.all(1)

  return equal
