"""Record: what a run tells while it goes on."""

import collections
from collections.abc import Mapping, Sequence
import functools
import logging
import time
from typing import Any

import optax
from tqdm import tqdm

from gradlens import hosts
from gradlens.experience import Sampled
from gradlens.step.train_step import Measured
from gradlens.workdir import metrics

_log = logging.getLogger(__name__)


class Progress:
  """A line now and then: rate, time left, and the tasks' numbers."""

  def __init__(self, first: int, total: int, seconds: float, shown: str):
    self._first, self._total, self._seconds = first, total, seconds
    self._tag = shown
    self._start, self._shown = time.monotonic(), -float('inf')

  def __call__(self, step: int, scalars: metrics.Scalars, names: Sequence[str]):
    now = time.monotonic()
    if now - self._shown < self._seconds and step < self._total:
      return
    self._shown = now
    meter = tqdm.format_meter(
        step, self._total, now - self._start, initial=self._first,
        unit=' step', bar_format='step {n_fmt}/{total_fmt}, {rate_fmt}{postfix}'
        ', {elapsed} passed, {remaining} left',
    ).replace('/ step', '/step')
    parts = []
    for name in names:
      part = f'{name} {scalars[f"{self._tag}/{name}"]:.2f}'
      for kind in ('unbiased', 'naive'):
        tag = f'norm_sq/{kind}/{name}'
        if tag in scalars:
          part += f' ({scalars[tag]:.2g})'
          break
      parts.append(part)
    _log.info('%s | %s (squared norm): %s', meter, self._tag, ', '.join(parts))


class Writers:
  """Several metric writers as one."""

  def __init__(self, writers: Sequence[Any]):
    self._writers = writers

  def scalars(self, step: int, scalars: metrics.Scalars) -> None:
    for writer in self._writers:
      writer.write_scalars(step, scalars)

  def texts(self, step: int, texts: dict[str, str]) -> None:
    for writer in self._writers:
      writer.write_texts(step, texts)

  def flush(self) -> None:
    for writer in self._writers:
      writer.flush()


class Gains:
  """Learning gains of the tasks, from their rewards of the latest steps.

  Args:
    names: of the tasks.
    window: s, steps before and after the one that the gain is of.
    rewards: of every task, at the steps so far.
  """

  def __init__(
      self, names: Sequence[str], window: int,
      rewards: Mapping[str, Sequence[float]],
  ):
    self._window = window
    self._rewards = {
        name: collections.deque(rewards.get(name, ()), maxlen=2 * window + 1)
        for name in names
    }

  def __call__(self, scalars: metrics.Scalars) -> metrics.Scalars:
    """The gains of s steps ago, with one more step's rewards."""
    gains = {}
    for name, rewards in self._rewards.items():
      rewards.append(scalars[f'reward/{name}'])
      if len(rewards) == rewards.maxlen:
        before, after = (
            metrics.mean_of_finite(part) for part in (
                list(rewards)[: self._window], list(rewards)[-self._window:]
            )
        )
        gains[f'learning_gain/{name}'] = after - before
    return gains


class Recorder:
  """Writes a step's metrics once the next step is under way.

  Downloading them earlier would keep the device waiting.
  """

  def __init__(
      self, out: Writers, progress: Progress, gains: Gains,
      names: Sequence[str], rewards: Sequence[Sequence[str]], num_splits: int,
      schedule: optax.Schedule, num_mini_batches: int = 1, lag: int = 0,
  ):
    self._out, self._progress, self._gains = out, progress, gains
    self._names, self._schedule = names, schedule
    self._of_step = functools.partial(
        metrics.of_step, names=names, rewards=rewards, num_splits=num_splits,
        num_mini_batches=num_mini_batches,
    )
    self._lag, self._pending = lag, None
    self.latest: metrics.Scalars = {}  # what was written last

  def push(
      self, step: int, sampled: Sampled, measured: Measured, start: float
  ) -> None:
    self.flush()
    # Not before: writing the last step's metrics may wait for this step.
    seconds = time.monotonic() - start
    self._pending = step, sampled, measured, seconds

  def flush(self) -> None:
    if self._pending is None:
      return
    step, sampled, measured, seconds = self._pending
    self._pending = None
    with hosts.on_cpu():
      scalars = {
          **self._of_step(sampled, measured),
          'learning_rate': float(self._schedule(step - 1)),
          # The first policy samples for the first steps of all.
          'policy_lag': float(min(self._lag, step - 1)),
          'seconds/step': seconds,
      }
    scalars |= self._gains(scalars)
    self.latest = scalars
    self._out.scalars(step, scalars)
    self._progress(step, scalars, self._names)
