"""Rounds: what is compared takes turns, so that all meet the same machine."""

from collections.abc import Callable, Sequence
import statistics
import time
from typing import Any

Run = Callable[[], Any]


def interleave(runs: dict[str, Run], repeats: int) -> dict[str, list[float]]:
  """Seconds of each, round by round."""
  seconds = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def median_ratio(own: Sequence[float], base: Sequence[float]) -> float:
  """Of neighbors, each to the base of its round."""
  return statistics.median(a / b for a, b in zip(own, base, strict=True))
