"""Task gradients: task losses, their gradients, and the corrected update."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

import gradlens as gl
from gradlens import losses, masked, models
from gradlens.step import placement
from gradlens.step.objective import Objective
from gradlens.step.optimizer import Optimizer
from gradlens.step.rows import Row


class Totals(NamedTuple):
  """Sums over the sampled tokens of a row, and their number."""

  entropy: jax.Array
  sampler_gap: jax.Array
  tokens: jax.Array
  terms: dict[str, jax.Array]


# (frozen, params, probes, row_R) -> (losses_R, totals_R)
Losses = Callable[[Any, Any, Any, Row], tuple[jax.Array, Totals]]


def make_losses(
    model: models.Model, objective: Objective, *, temperature: float,
    aggregate: str, shards: gl.Shards | None = None, mesh: Mesh | None = None,
    num_stacked: int = 1,
) -> Losses:
  """Every row's contribution to the loss, by taps; and its totals.

  With `shards` of an enclosing `shard_map`: from this device's rows and
  parameters, of all rows. With a `mesh`, the compiler is to divide rows, which
  `jax.vmap` names, and their prompts. Of rows that `jax.vmap` has there are
  `num_stacked` in all.
  """
  groups = 1 if mesh is None else mesh.shape['task']

  def readout(head, x_BxGxCxD, row):
    mask = row.batch.mask_KxBxGxC
    found = models.scores(
        head, x_BxGxCxD, row.batch.tokens_KxBxGxC, temperature=temperature
    )
    gap = jnp.abs(found.logprobs - row.batch.logprobs_KxBxGxC)
    values, terms = objective.loss(found, row)
    totals = Totals(
        masked.sum(found.entropy, mask), masked.sum(gap, mask),
        masked.count(mask),
        {name: masked.sum(each, mask) for name, each in terms.items()},
    )
    total = losses.row_sum(values, mask, aggregate=aggregate)
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
        num_stacked=-(-num_stacked // groups),
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
Gradient = Callable[[Any, Row, dict[str, jax.Array]], tuple]


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
