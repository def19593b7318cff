"""Feed: what each step of a run learns from, drawn by its mixture.

Prompts whose completions all have one reward teach nothing, where advantages
have the group's baseline. They are replaced by others of the same task, so that
quotas stay as they are (dynamic sampling: Yu et al., DAPO, 2025, arXiv
2503.14476, here for each task by itself).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gradlens import hosts
from gradlens.blocks import whole_gram
from gradlens.experience import Answer, Found, Sampled
from gradlens.experience.places import (
    arrange,
    drawn,
    mean_of_prompts,
    places,
    put,
)
from gradlens.mixture import Draw, Mixture, Seen, plain
from gradlens.step.train_step import Measured

_PARTS = 1, 2, 4, 8  # of a step's prompts, that a round has room for
_ROUNDS = 2**32 - 1  # rounds have keys that are no prompt's


class Begun(NamedTuple):
  """A batch that devices are at work on.

  Attributes:
    draw: its prompts.
    key: of its completions.
    found: waits for these, and scores them.
  """

  draw: Draw
  key: jax.Array
  found: Callable[[], Found]


class Feed:
  """Batches for one step after the other, and what is to be saved of that.

  A mixture that learns is a step behind: what step t - 1 measured is read once
  step t is under way, and has a part in the draw for step t + 1. Devices never
  wait for it.

  Args:
    mixture: says which prompts.
    answer: samples and scores.
    names: of the tasks.
    state: of the mixture, from `Mixture.init`, or what was saved.
    num_splits: S.
    refill_rounds: how often prompts with equal rewards are replaced.
  """

  def __init__(
      self, mixture: Mixture, answer: Answer, names: Sequence[str],
      state: dict[str, Any], *, num_splits: int, refill_rounds: int,
  ) -> None:
    self._mixture, self._answer, self._names = mixture, answer, names
    self._num_splits, self._refill_rounds = num_splits, refill_rounds
    state = dict(state)
    pending = state.pop('pending', None)
    self._pending = None if pending is None else Seen(**pending)
    self._state = state

  @property
  def step(self) -> int:
    """How many steps were drawn."""
    return self._state['step']

  def sample(self, params: Any, key: jax.Array) -> Sampled:
    """The next step's batch."""
    return self.finish(self.begin(params, key), params)

  def begin(self, params: Any, key: jax.Array) -> Begun:
    """Draws the next step's prompts, and has devices complete them."""
    draw, self._state = self._mixture.draw(self._state)
    asked = self._asked(draw.records)
    return Begun(draw, key, self._answer(params, asked, key, len(asked)))

  def finish(self, begun: Begun, params: Any) -> Sampled:
    """The batch, once it is scored; before another one is begun.

    Args:
      begun: of `begin`.
      params: of the same policy; read where prompts are replaced only.
    """
    draw, key, found = begun
    asked, found = self._asked(draw.records), found()
    index_KxB, filled_KxB = places(
        draw.quotas_K, self._mixture.max_prompts, self._num_splits
    )
    first = drawn(found, index_KxB, filled_KxB)
    failures_3xK = _failures(found, draw.quotas_K)
    refilled_K = np.zeros(len(self._names), int)
    for number in range(self._refill_rounds):
      equal_N = found.equal_N[: len(asked)]
      if not equal_N.any():
        break
      with hosts.on_cpu():
        own_key = jax.random.fold_in(key, _ROUNDS - number)
      draw, counts_K, more = self._replaced(draw, equal_N, params, own_key)
      if more is None:
        break
      found = put(found, more, _where(equal_N, draw.quotas_K, counts_K, found))
      failures_3xK = failures_3xK + _failures(more, counts_K)
      refilled_K = refilled_K + counts_K
    batch = arrange(found, index_KxB, filled_KxB, self._num_splits)
    left_N = found.equal_N[: len(asked)] & (self._refill_rounds > 0)
    last = drawn(found, index_KxB, filled_KxB)
    return Sampled(
        batch, filled_KxB, first, last.lengths_KxBxG, last.equal_KxB,
        *failures_3xK, refilled_K, _per_task(left_N, draw.quotas_K),
        found.seconds,
    )

  def _asked(self, records: Sequence[Sequence[Any]]) -> list[tuple[str, Any]]:
    return [
        (name, record)
        for name, own in zip(self._names, records, strict=True)
        for record in own
    ]

  def _replaced(
      self, draw: Draw, equal_N: np.ndarray, params: Any, key: jax.Array
  ) -> tuple[Draw, np.ndarray, Found | None]:
    """A further prompt for each of these; none where tasks have no others."""
    records, draw, self._state = self._mixture.further(
        draw, self._state, _per_task(equal_N, draw.quotas_K).tolist()
    )
    asked = self._asked(records)
    if not asked:
      return draw, np.zeros(len(records), int), None
    # Few numbers of prompts, since each is compiled once.
    rooms = (-(-len(equal_N) // part) for part in _PARTS)
    room = min(room for room in rooms if room >= len(asked))
    counts_K = np.array([len(own) for own in records])
    return draw, counts_K, self._answer(params, asked, key, room)()

  def learn(self, sampled: Sampled, measured: Measured) -> None:
    """Has the mixture learn, from the step before; this one comes next."""
    if self._mixture.kind.needs == 'nothing':
      return
    if self._pending is not None:
      self._state = self._mixture.learn(self._state, self._seen())
    self._pending = sampled, measured

  def _seen(self) -> Seen:
    if isinstance(self._pending, Seen):
      return self._pending
    return observe(
        *self._pending, self._num_splits, self._mixture.kind.needs
    )

  def state(self) -> dict[str, Any]:
    """All of it as plain JSON, for a checkpoint."""
    if self._pending is None:
      return self._state
    return self._state | {'pending': self._seen()._asdict()}


def _sums(values_N: np.ndarray, quotas_K: np.ndarray) -> np.ndarray:
  """Sums over the prompts of each task."""
  task_N = np.repeat(np.arange(len(quotas_K)), quotas_K)
  return np.bincount(task_N, values_N[: len(task_N)], len(quotas_K))


def _per_task(values_N: np.ndarray, quotas_K: np.ndarray) -> np.ndarray:
  """How many of the prompts of each task."""
  return _sums(values_N, quotas_K).astype(int)


def _failures(found: Found, counts_K: np.ndarray) -> np.ndarray:
  """Errors, time-outs and seconds of each task's verifier: `[3, K]`."""
  return np.array([
      _sums(a.sum(1), counts_K) for a in (
          found.errors_NxG, found.timeouts_NxG, found.verify_seconds_NxG
      )
  ])


def _where(
    equal_N: np.ndarray, quotas_K: np.ndarray, counts_K: np.ndarray,
    found: Found,
) -> np.ndarray:
  """Which further prompt each prompt is replaced by; -1 is none."""
  index_N = np.full(len(found.rewards_NxG), -1)
  ends_K, start = np.cumsum(quotas_K), 0
  for end, quota, count in zip(ends_K, quotas_K, counts_K, strict=True):
    own = np.flatnonzero(equal_N[end - quota: end])[:count] + end - quota
    index_N[own] = start + np.arange(count)
    start += count
  return index_N


def observe(
    sampled: Sampled, measured: Measured, num_splits: int, needs: str
) -> Seen:
  """What a mixture learns from.

  Rewards and |advantage| are those of the prompts that were drawn: of those
  that took the place of others it is known only that they are no such ones.
  """
  filled_KxB, drawn_KxBxG = sampled.filled_KxB, sampled.drawn.rewards_KxBxG
  quotas_K, g = filled_KxB.sum(1), drawn_KxBxG.shape[2]

  def mean(values_KxB):
    return mean_of_prompts(values_KxB, filled_KxB)

  advantages_K = mean(np.abs(measured.advantages_KxBxG).mean(2))
  before_K, after_K = mean(~sampled.drawn.equal_KxB), mean(~sampled.equal_KxB)
  advantages_K = advantages_K * np.divide(
      before_K, after_K, where=after_K > 0, out=np.ones(len(after_K))
  )
  grams = None
  if needs in ('naive', 'unbiased') and measured.grams is not None:
    grams = _intrinsic(measured, num_splits, needs, quotas_K > 0)
  return Seen(
      (quotas_K * g).tolist(), plain(mean(drawn_KxBxG.mean(2))),
      plain(advantages_K), grams,
  )


def _intrinsic(
    measured: Measured, num_splits: int, kind: str, drawn_K: np.ndarray
) -> dict[str, list]:
  """The Gram matrix of the tasks' own normalized losses, of one kind.

  Of a task that was not drawn nothing is known, whatever its share.
  """
  # Not `task_gram`: on a device it would wait for the step that is under way.
  shares_K = np.where(drawn_K, np.asarray(measured.shares_K, np.float64), 0.0)
  gram_RxR = whole_gram(
      jax.tree.map(lambda g: np.asarray(g, np.float64), measured.grams)
  )
  k = len(shares_K)
  grid = gram_RxR.reshape(k, num_splits, k, num_splits)
  gram_KxK = grid.sum((1, 3))
  if kind == 'unbiased':
    own_KxSxS = np.einsum('ksku->ksu', grid)
    others_K = own_KxSxS.sum((1, 2)) - np.einsum('kss->k', own_KxSxS)
    np.fill_diagonal(gram_KxK, num_splits / (num_splits - 1) * others_K)
  scale_KxK = np.outer(shares_K, shares_K)
  return {kind: plain(np.divide(
      gram_KxK, scale_KxK, where=scale_KxK > 0, out=np.full((k, k), np.nan)
  ))}
