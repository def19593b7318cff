"""Two tasks that every peer of `benchmarks.grpo` trains on; plain Python.

A completion earns by how many of its characters are digits, or small letters: a
random model gets some of it, so that there is something to learn from step one.
"""

from collections.abc import Sequence
import dataclasses
import json
import random
import statistics
import time

CHARACTERS = [chr(i) for i in range(32, 127)]
PAD, END, UNKNOWN = 0, 1, 2
FIRST = 3  # token of the first character
VOCABULARY = FIRST + len(CHARACTERS)
LONGEST_PROMPT = 8


@dataclasses.dataclass(frozen=True)
class Shape:
  """A model and a step, the same for all.

  Attributes:
    width: of the model; its feed-forward is 4 times as wide, and it has 4
      heads with 2 heads of keys.
    layers: of the model.
    prompts: of a step, half of each task.
    completions: of each prompt.
    new: tokens of each completion.
    steps: of a run.
  """

  width: int
  layers: int
  prompts: int
  completions: int
  new: int
  steps: int


def read_shape(text: str) -> Shape:
  """The inverse of `json.dumps(dataclasses.asdict(shape))`."""
  return Shape(**json.loads(text))


def prompts(count: int) -> list[tuple[str, str]]:
  """Task and prompt, one of each task in turn."""
  draw = random.Random(0)
  found = []
  for _ in range(-(-count // 2)):
    found.append(('add', f'{draw.randint(0, 9)}+{draw.randint(0, 9)}='))
    found.append(('echo', f'echo {draw.randint(0, 9)}:'))
  return found[:count]


class Rewards:
  """What completions earn; it knows when it was asked."""

  def __init__(self, new: int):
    self._new = new
    self.asked = []

  def __call__(
      self, tasks: Sequence[str], completions: Sequence[str]
  ) -> list[float]:
    """Shares of all characters there might have been."""
    self.asked.append(time.perf_counter())
    return [
        sum(c.isdigit() if task == 'add' else c.islower() for c in text)
        / self._new
        for task, text in zip(tasks, completions, strict=True)
    ]

  def step_seconds(self) -> float:
    """Median of the times from one question to the next, after warm-up."""
    pairs = zip(self.asked[3:], self.asked[4:], strict=False)
    return statistics.median(after - before for before, after in pairs)
