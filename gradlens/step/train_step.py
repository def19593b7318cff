"""The step: advantages, task losses, task gradients, Gram, weights, update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec
import optax

from gradlens import masked, models
from gradlens.experience import Batch
from gradlens.step import placement
from gradlens.step.objective import Objective
from gradlens.step.optimizer import Optimizer
from gradlens.step.policies import make_prepare
from gradlens.step.rows import Prompts, make_rows, micro_batches, mini_batches
from gradlens.step.task_gradients import (
    Gradient,
    decomposed,
    joint,
    make_losses,
)


class TrainState(NamedTuple):
  """All that a step changes, and what it needs beside a batch.

  Attributes:
    params: what is trained: all parameters, or adapters.
    opt_state: of the optimizer.
    key: of the run.
    frozen: the other parameters.
    reference: parameters of the policy that a KL term is about; empty where
      there is no such term, and where adapters are trained: it is the policy
      without them.
  """

  params: Any
  opt_state: Any
  key: jax.Array
  frozen: Any
  reference: Any

  @property
  def policy(self) -> Any:
    """All parameters."""
    return models.join(self.params, self.frozen)


class Measured(NamedTuple):
  """What a step saw in its first update.

  What is of rows' gradients is None in a plain step.

  Attributes:
    loss_R: each row's contribution to the loss.
    entropy_R: mean entropy of the policy at sampled tokens, in nats.
    sampler_gap_R: mean |log-probability of the sampler - of the trainer|.
    terms_R: means over tokens of what the terms of the objective say, by name,
      'clip_fraction' and 'kl' among them; over all updates of the step.
    shares_K: each task's share of the batch loss's weight.
    advantages_KxBxG: as used.
    grams: `{block: [..., R, R]}` of the rows' contributions.
    weights: of the tasks, `[K]` or per block.
    skipped_K: 1 for a task left out, for a gradient that was not finite.
    update_norm: length of the change of the parameters.
    inner_R: products of the rows' gradients with that change; None where no
      stacked gradients are.
  """

  loss_R: jax.Array
  entropy_R: jax.Array
  sampler_gap_R: jax.Array
  terms_R: dict[str, jax.Array]
  shares_K: jax.Array
  advantages_KxBxG: jax.Array
  grams: Any
  weights: Any
  skipped_K: Any
  update_norm: jax.Array
  inner_R: Any


# (state, prompts) -> (state, measured)
Update = Callable[[TrainState, Prompts], tuple[TrainState, Measured]]


def make_update(
    gradient_fn: Gradient, objective: Objective, *, num_splits: int,
    aggregate: str, normalize: str, num_micro_batches: int, mesh: Mesh | None,
) -> Update:
  """One update of the parameters, from the prompts it is given."""
  several = num_micro_batches if num_micro_batches > 1 else None

  def update(state: TrainState, prompts: Prompts):
    row, shares_K = make_rows(
        prompts, num_splits, aggregate=aggregate, normalize=normalize
    )
    if several:
      row = micro_batches(row, num_micro_batches)
    row = placement.constrain(row, mesh, placement.row_specs(row, several))
    values, updates, opt_state, correction = gradient_fn(
        state, row, objective.extras(prompts.batch.rewards_KxBxG)
    )
    params = optax.apply_updates(state.params, updates)

    loss_R, totals = values
    if several:
      totals = jax.tree.map(lambda leaf: leaf.sum(axis=0), totals)
    state = state._replace(params=params, opt_state=opt_state)
    state = placement.constrain(state, mesh, placement.state_specs(state))
    measured = Measured(
        loss_R,
        masked.divide(totals.entropy, totals.tokens),
        masked.divide(totals.sampler_gap, totals.tokens),
        {
            name: masked.divide(total, totals.tokens)
            for name, total in totals.terms.items()
        },
        shares_K,
        prompts.advantages_KxBxG, update_norm=optax.tree.norm(updates),
        **correction,
    )
    # For any host to read.
    everywhere = jax.tree.map(lambda leaf: PartitionSpec(), measured)
    return state, placement.constrain(measured, mesh, everywhere)

  return update


def repeated(
    update: Update, *, num_splits: int, num_mini_batches: int,
    inner_epochs: int,
) -> Update:
  """Several updates, each from a part of the prompts, all parts in turn."""
  if num_mini_batches == inner_epochs == 1:
    return update

  def updates(state: TrainState, prompts: Prompts):
    parts = mini_batches(prompts, num_splits, num_mini_batches)
    state, seen = jax.lax.scan(
        lambda state, unused: jax.lax.scan(update, state, parts), state,
        length=inner_epochs,
    )
    first = jax.tree.map(lambda leaf: leaf[0, 0], seen)
    terms_R = jax.tree.map(lambda leaf: leaf.mean(axis=(0, 1)), seen.terms_R)
    # Advantages are all prompts', from before the first update.
    return state, first._replace(
        terms_R=terms_R, advantages_KxBxG=prompts.advantages_KxBxG
    )

  return updates


def make_train_step(
    model: models.Model,
    optimizer: Optimizer,
    objective: Objective,
    *,
    num_splits: int,
    temperature: float,
    aggregate: str,
    normalize: str,
    instrument: bool,
    num_micro_batches: int = 1,
    num_mini_batches: int = 1,
    inner_epochs: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Measured]]:
  """The pure step; `instrument=False` computes the joint gradient only.

  On a mesh, from `models.make_mesh`, the state lies where
  `placement.state_specs` says.
  """
  stacked = instrument and optimizer.correction.apply == 'stacked'
  losses_fn = make_losses(
      model, objective, temperature=temperature, aggregate=aggregate,
      shards=None if mesh is None or stacked else models.shards(model),
      mesh=mesh if stacked else None,
      num_stacked=optimizer.correction.rule.num_rows if stacked else 1,
  )
  gradient_fn = (decomposed if instrument else joint)(
      losses_fn, optimizer,
      num_micro_batches if num_micro_batches > 1 else None, mesh,
  )
  update = make_update(
      gradient_fn, objective, num_splits=num_splits, aggregate=aggregate,
      normalize=normalize, num_micro_batches=num_micro_batches, mesh=mesh,
  )
  updates = repeated(
      update, num_splits=num_splits, num_mini_batches=num_mini_batches,
      inner_epochs=inner_epochs,
  )
  prepare = make_prepare(
      model, objective, num_splits=num_splits, temperature=temperature,
      num_micro_batches=num_micro_batches * num_mini_batches, mesh=mesh,
  )

  def train_step(state: TrainState, batch: Batch):
    return updates(state, prepare(state, batch))

  return train_step
