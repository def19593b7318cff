"""The step: advantages, task losses, task gradients, Gram, weights, update."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import optax

import gradlens as gl
from gradlens import advantages, losses, masked, models, placement
from gradlens.experience import Batch
from gradlens.optimizer import Optimizer
from gradlens.rows import Row, make_rows, micro_batches


class TrainState(NamedTuple):
  """All that a step changes, and what it needs beside a batch.

  Attributes:
    params: what is trained: all parameters, or adapters.
    opt_state: of the optimizer.
    key: of the run.
    frozen: the other parameters.
  """

  params: Any
  opt_state: Any
  key: jax.Array
  frozen: Any

  @property
  def policy(self) -> Any:
    """All parameters."""
    return models.join(self.params, self.frozen)


class Measured(NamedTuple):
  """What a step saw; what is of rows' gradients is None in a plain step.

  Attributes:
    loss_R: each row's contribution to the loss.
    entropy_R: mean entropy of the policy at sampled tokens, in nats.
    sampler_gap_R: mean |log-probability of the sampler - of the trainer|.
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
  shares_K: jax.Array
  advantages_KxBxG: jax.Array
  grams: Any
  weights: Any
  skipped_K: Any
  update_norm: jax.Array
  inner_R: Any


class Objective(NamedTuple):
  """What is maximized: rewards to advantages, log-probs to a token loss.

  Attributes:
    advantages: of `rewards_KxBxG`.
    loss: of each token, from `logprobs_BxGxC` and the row.
    extras: of `rewards_KxBxG`, what a weighting may ask for beside the Gram.
  """

  advantages: Callable[[jax.Array], jax.Array]
  loss: Callable[[jax.Array, Row], jax.Array]
  extras: Callable[[jax.Array], dict[str, jax.Array]]


def _success(rewards_KxBxG: jax.Array) -> dict[str, jax.Array]:
  # The loss of GRPO is about 0 when all is right, and when all is wrong: what a
  # loss-driven weighting wants to know is the lack of reward.
  rewards_K = jnp.mean(rewards_KxBxG, axis=(1, 2))
  return dict(rewards_K=rewards_K, losses_K=1 - rewards_K)


def grpo(
    *, advantage_scale: str, clip_low: float, clip_high: float
) -> Objective:
  """Group-relative policy optimization (Shao et al., 2024, arXiv 2402.03300).

  Without a KL term.
  """

  def loss(logprobs_BxGxC, row):
    return losses.policy_gradient(
        logprobs_BxGxC, row.batch.logprobs_KxBxGxC, row.advantages_BxG,
        clip_low=clip_low, clip_high=clip_high,
    )

  return Objective(
      functools.partial(advantages.group_advantages, scale=advantage_scale),
      loss,
      _success,
  )


def supervised() -> Objective:
  """Maximum likelihood of the reference answers."""
  return Objective(
      jnp.ones_like,
      lambda logprobs_BxGxC, row: losses.supervised(logprobs_BxGxC),
      lambda rewards_KxBxG: {},  # All are 1.
  )


class Totals(NamedTuple):
  """Sums over the sampled tokens of a row, and their number."""

  entropy: jax.Array
  sampler_gap: jax.Array
  tokens: jax.Array


# (frozen, params, probes, row_R) -> (losses_R, totals_R)
Losses = Callable[[Any, Any, Any, Row], tuple[jax.Array, Totals]]


def make_losses(
    model: models.Model, objective: Objective, *, temperature: float,
    aggregate: str, shards: gl.Shards | None = None, mesh: Mesh | None = None,
) -> Losses:
  """Every row's contribution to the loss, by taps; and its totals.

  With `shards` of an enclosing `shard_map`: from this device's rows and
  parameters, of all rows. With a `mesh`, the compiler is to divide rows, which
  `jax.vmap` names, and their prompts.
  """

  def readout(head, x_BxGxCxD, row):
    mask = row.batch.mask_KxBxGxC
    found = models.scores(
        head, x_BxGxCxD, row.batch.tokens_KxBxGxC,
        vocab_size=model.config.vocab_size, temperature=temperature,
    )
    gap = jnp.abs(found.logprobs - row.batch.logprobs_KxBxGxC)
    totals = Totals(
        masked.sum(found.entropy, mask), masked.sum(gap, mask),
        masked.count(mask),
    )
    total = losses.row_sum(
        objective.loss(found.logprobs, row), mask, aggregate=aggregate
    )
    return total / row.denominator, totals

  def losses_fn(frozen, params, probes, row):
    batch = row.batch
    values_R = models.tapped(
        model, models.join(params, frozen), probes,
        models.Groups(
            batch.prompts_KxBxT, batch.prompt_mask_KxBxT,
            batch.tokens_KxBxGxC, batch.mask_KxBxGxC,
        ),
        readout, row, shards=shards, mesh=mesh,
    )
    return values_R if shards is None else shards.collect(values_R)

  return losses_fn


def row_gradients(
    losses_fn: Losses, num_rows: int, mesh: Mesh | None = None
) -> Callable[..., Any]:
  """`f(frozen, params, row_R) -> (values, grads_RxP, grams)`, uncorrected."""
  correction = gl.correct(gl.total(), num_tasks=num_rows)

  def gradients(frozen, params, row):
    f = gl.value_and_grad_for(
        correction, functools.partial(losses_fn, frozen), has_aux=True,
        blocks=models.blocks, spmd_axis_name=None if mesh is None else 'task',
        placed=lambda grads: placement.stacked(mesh, grads, params),
    )
    return f(params, correction.init(params), row)

  return gradients


# (state, row_R, extras) -> (values, updates, opt_state, fields of Measured)
Gradient = Callable[[TrainState, Row, dict[str, jax.Array]], tuple]


def decomposed(
    losses_fn: Losses, optimizer: Optimizer, num_micro_batches: int | None,
    mesh: Mesh | None,
) -> Gradient:
  """Rows' gradients as `apply=` says, and the corrected update."""
  correct = optimizer.correction

  # The compiler divides stacked gradients.
  automatic = mesh is not None and correct.apply == 'stacked'

  def local(params, frozen, row, correction, extras):
    return gl.value_and_grad_for(
        correct, functools.partial(losses_fn, frozen), has_aux=True,
        blocks=models.blocks, num_micro_batches=num_micro_batches,
        spmd_axis_name='task' if automatic else None,
        placed=lambda grads: placement.stacked(mesh, grads, params),
    )(params, correction, row, **extras)

  def gradient(state, row, extras):
    spread = None if automatic else mesh
    values, grads, grams = placement.on_mesh(spread, local, num_micro_batches)(
        state.params, state.frozen, row, state.opt_state[0], extras
    )
    updates, opt_state = optimizer.corrected.update(
        grads, state.opt_state, state.params, gram=grams, **extras
    )
    old, new = state.opt_state[0], opt_state[0]
    # Lagged weights are those that the step before has left.
    applied = old if correct.apply == 'lagged' else new
    return values, updates, opt_state, dict(
        grams=grams, weights=applied.weights_K,
        skipped_K=new.skipped_K - old.skipped_K,
        inner_R=(
            gl.inner(grads, updates) if correct.apply == 'stacked' else None
        ),
    )

  return gradient


def joint(
    losses_fn: Losses, optimizer: Optimizer, num_micro_batches: int | None,
    mesh: Mesh | None,
) -> Gradient:
  """The gradient of the sum over rows, and the plain update."""

  def loss(params, frozen, row):
    loss_R, totals_R = losses_fn(frozen, params, None, row)
    return jnp.sum(loss_R), (loss_R, totals_R)

  grad_fn = jax.value_and_grad(loss, has_aux=True)

  def local(params, frozen, row):
    if not num_micro_batches:
      (_, values), grads = grad_fn(params, frozen, row)
      return values, grads, None

    def add(total, micro):
      (_, values), grads = grad_fn(params, frozen, micro)
      return jax.tree.map(jnp.add, total, grads), values

    grads, (losses_MxR, totals) = jax.lax.scan(
        add, jax.tree.map(jnp.zeros_like, params), row
    )
    return (losses_MxR.sum(axis=0), totals), grads, None

  def gradient(state, row, extras):
    del extras
    values, grads, _ = placement.on_mesh(mesh, local, num_micro_batches)(
        state.params, state.frozen, row
    )
    correction, *rest = state.opt_state
    updates, new = optimizer.plain.update(grads, tuple(rest), state.params)
    # A gradient that is not finite leaves everything as it was.
    finite = jnp.isfinite(optax.tree.norm(grads))
    updates = jax.tree.map(lambda u: jnp.where(finite, u, 0), updates)
    rest = jax.tree.map(
        lambda a, b: jnp.where(finite, a, b), new, tuple(rest)
    )
    return values, updates, (correction, *rest), dict(
        grams=None, weights=None, skipped_K=None, inner_R=None
    )

  return gradient


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
  )
  several = num_micro_batches if num_micro_batches > 1 else None
  gradient_fn = (decomposed if instrument else joint)(
      losses_fn, optimizer, several, mesh
  )

  def train_step(state: TrainState, batch: Batch):
    advantages_KxBxG = objective.advantages(batch.rewards_KxBxG)
    row, shares_K = make_rows(
        batch, advantages_KxBxG, num_splits, aggregate=aggregate,
        normalize=normalize,
    )
    if several:
      row = micro_batches(row, num_micro_batches)
    row = placement.constrain(row, mesh, placement.row_specs(row, several))
    values, updates, opt_state, correction = gradient_fn(
        state, row, objective.extras(batch.rewards_KxBxG)
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
        shares_K,
        advantages_KxBxG, update_norm=optax.tree.norm(updates), **correction,
    )
    # For any host to read.
    everywhere = jax.tree.map(lambda leaf: PartitionSpec(), measured)
    return state, placement.constrain(measured, mesh, everywhere)

  return train_step
