"""Ahead: which policy samples the batch of a step, and when it is scored.

Without a lag a step learns from what its own policy has sampled. With a lag of
one, the batch of step t + 1 is sampled by the policy that step t starts from:
devices are given that work first, then the update, and while they are at it the
completions are read and verified. Nothing of it needs a thread, so that all
hosts ask their devices for the same things in the same order.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from gradlens import hosts, models
from gradlens.experience import Batch, Drawn, Sampled
from gradlens.feed import Begun, Feed
from gradlens.step.train_step import Measured, TrainState
from gradlens.tasks import Late

# (state, batch) -> (state, measured); the state it is given is written over.
Step = Callable[[TrainState, Batch], tuple[TrainState, Measured]]
Turn = tuple[Sampled, TrainState, Measured]

_COMPLETIONS = 'tokens_KxBxGxC', 'mask_KxBxGxC', 'logprobs_KxBxGxC'


class Turns:
  """Sampling and update of one step after the other.

  Args:
    feed: what steps learn from.
    late: is told which step's completions are scored next.
    mesh: of the devices; None is the first one.
    end: the number of steps.
    lag: by how many steps the policy that samples is behind, 0 or 1.
    overlap: whether an update is computed while the next batch is scored. What
      is learned is the same.
    refills: whether prompts are replaced. Their policy is then kept while it is
      updated: one more copy of what is trained.
    meanwhile: is called when devices are at an update.
  """

  def __init__(
      self, feed: Feed, late: Late, mesh: Mesh | None, *, end: int, lag: int,
      overlap: bool, refills: bool, meanwhile: Callable[[], None],
  ) -> None:
    self._feed, self._late, self._end = feed, late, end
    self._meanwhile = meanwhile
    self._key: tuple[np.ndarray, Any] | None = None  # that of all states
    self._turn = {
        (0, False): self._at_once, (0, True): self._at_once,
        (1, False): self._in_turn, (1, True): self._side_by_side,
    }[lag, overlap]
    self._keep = _copied if refills else _as_it_is
    self._place = _as_it_is
    if lag and mesh is not None:
      self._place = functools.partial(_placed, mesh=mesh)
    self._next: list[Sampled] = []  # one at most

  def __call__(self, state: TrainState, step: int, train_step: Step) -> Turn:
    """Step number `step`, counted from 0: its batch, and what came of it."""
    sampled, state, measured = self._turn(state, step, train_step)
    self._feed.learn(sampled, measured)
    return sampled, state, measured

  def _at_once(self, state: TrainState, step: int, train_step: Step) -> Turn:
    sampled = self._sampled(state, step)
    return sampled, *self._update(state, sampled, train_step)

  def _in_turn(self, state: TrainState, step: int, train_step: Step) -> Turn:
    sampled = self._taken(state, step)
    if step + 1 < self._end:
      self._next = [self._sampled(state, step + 1)]
    return sampled, *self._update(state, sampled, train_step)

  def _side_by_side(
      self, state: TrainState, step: int, train_step: Step
  ) -> Turn:
    sampled = self._taken(state, step)
    if step + 1 == self._end:
      return sampled, *self._update(state, sampled, train_step)
    begun, kept = self._begin(state, step + 1), self._keep(state.params)
    state, measured = self._update(state, sampled, train_step)
    self._next = [self._finish(begun, models.join(kept, state.frozen))]
    return sampled, state, measured

  def _update(
      self, state: TrainState, sampled: Sampled, train_step: Step
  ) -> tuple[TrainState, Measured]:
    updated = train_step(state, sampled.batch)
    self._meanwhile()
    return updated

  def _taken(self, state: TrainState, step: int) -> Sampled:
    """What was sampled ahead; the first step of all has to sample."""
    if not self._next:
      return self._sampled(state, step)
    return self._next.pop()

  def _sampled(self, state: TrainState, step: int) -> Sampled:
    return self._finish(self._begin(state, step), state.policy)

  def _begin(self, state: TrainState, step: int) -> Begun:
    self._late.begin(f'step {step}')
    if self._key is None:
      # A later state's is there only when its step is done.
      data = np.asarray(jax.random.key_data(state.key))
      self._key = data, jax.random.key_impl(state.key)
    data, kind = self._key
    with hosts.on_cpu():
      key = jax.random.wrap_key_data(data, impl=kind)
      key = jax.random.fold_in(key, step)
    return self._feed.begin(state.policy, key)

  def _finish(self, begun: Begun, policy: Any) -> Sampled:
    return self._place(self._feed.finish(begun, policy))

  def sampled_ahead(self) -> dict[str, Any]:
    """For a checkpoint, since its policy is gone; empty if there is nothing."""
    return _stored(self._next[0]) if self._next else {}

  def restore(self, stored: Mapping[str, Any]) -> None:
    """Goes on with what was sampled ahead; see `sampled_ahead`."""
    self._next = [self._place(_loaded(stored))]


def _copied(params: Any) -> Any:
  return jax.tree.map(jnp.copy, params)


def _as_it_is(part: Any) -> Any:
  return part


def _placed(sampled: Sampled, mesh: Mesh) -> Sampled:
  """With completions over the data axes.

  Where a batch lies is a part of the step's program, and so of its rounding: it
  must be the same for one that was just sampled and for one that was saved.
  """
  own = NamedSharding(mesh, PartitionSpec(models.DATA))

  def place(a):
    flat = a.reshape(-1, *a.shape[2:])
    if isinstance(a, jax.Array):
      return jax.device_put(flat, own).reshape(a.shape)
    return hosts.spread(flat, own).reshape(a.shape)

  batch = sampled.batch
  return sampled._replace(batch=batch._replace(
      **{name: place(getattr(batch, name)) for name in _COMPLETIONS}
  ))


def _stored(sampled: Sampled) -> dict[str, Any]:
  """As numpy arrays, in dictionaries, on all hosts."""
  whole = hosts.whole(sampled)
  return whole._asdict() | dict(
      batch=whole.batch._asdict(), drawn=whole.drawn._asdict()
  )


def _loaded(stored: Mapping[str, Any]) -> Sampled:
  seconds = {name: float(s) for name, s in stored['seconds'].items()}
  return Sampled(**stored | dict(
      batch=Batch(**stored['batch']), drawn=Drawn(**stored['drawn']),
      seconds=seconds,
  ))
