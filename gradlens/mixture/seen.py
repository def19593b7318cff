"""Seen: what a step told of its tasks, as plain JSON."""

import math
from typing import Any, NamedTuple

import numpy as np


class Seen(NamedTuple):
  """What a mixture learns from; None stands for what is not known.

  Attributes:
    completions_K: how many completions were learned from.
    rewards_K: mean rewards.
    abs_advantages_K: mean |advantage| of the completions.
    grams: Gram matrix of the tasks' own normalized losses (intrinsic), `[K,
      K]`, under its name, 'naive' or 'unbiased'; None where it was not asked
      for, or the step did not measure gradients.
  """

  completions_K: list[int]
  rewards_K: list[float | None]
  abs_advantages_K: list[float | None]
  grams: dict[str, list[list[float | None]]] | None


def plain(values: Any) -> Any:
  """An array as nested lists, None for what is not finite."""
  if isinstance(values, list):
    return [plain(value) for value in values]
  if isinstance(values, np.ndarray):
    return plain(values.astype(np.float64).tolist())
  return values if math.isfinite(values) else None


def numbers(values: Any) -> np.ndarray:
  """The float64 array of `plain` values, NaN for None."""
  return np.array(values, np.float64)
