"""The step: advantages, task losses, task gradients, Gram, weights, update."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gradlens as gl
from gradlens import advantages, losses, masked, models, rollout
from gradlens.experience import Batch
from gradlens.optimizer import Optimizer


class TrainState(NamedTuple):
  """All that a step changes, and what it draws from."""

  params: Any
  opt_state: Any
  key: jax.Array


class Row(NamedTuple):
  """One task's split of a batch, ready for the loss; a leading axis R of it."""

  batch: Batch
  advantages_BxG: jax.Array
  denominator: jax.Array


class Measured(NamedTuple):
  """What a step saw; `grams` and `weights` are None in a plain step.

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


class Objective(NamedTuple):
  """What is maximized: rewards to advantages, log-probs to a token loss."""

  advantages: Callable[[jax.Array], jax.Array]
  loss: Callable[[jax.Array, Row], jax.Array]


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
  )


def supervised() -> Objective:
  """Maximum likelihood of the reference answers."""
  return Objective(
      jnp.ones_like,
      lambda logprobs_BxGxC, row: losses.supervised(logprobs_BxGxC),
  )


def completion_logprobs(
    model: models.Model, params: Any, batch: Batch, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """The policy's log-probability of each sampled token, and its entropy."""
  tokens_BxGxC = batch.tokens_KxBxGxC
  b, g, c = tokens_BxGxC.shape

  def sequences(prompt_BxT, completion_BxGxC):
    t = prompt_BxT.shape[-1]
    repeated = jnp.broadcast_to(prompt_BxT[:, None], (b, g, t))
    both = jnp.concatenate([repeated, completion_BxGxC], axis=-1)
    return both.reshape(b * g, t + c)

  logits = models.logits(
      model,
      params,
      sequences(batch.prompts_KxBxT, tokens_BxGxC),
      sequences(batch.prompt_mask_KxBxT, batch.mask_KxBxGxC),
      start=batch.prompts_KxBxT.shape[-1] - 1,
  )
  logprobs = rollout.policy_logprobs(logits[:, :-1], temperature)
  logprobs_BxGxCxV = logprobs.reshape(b, g, c, -1)
  chosen = jnp.take_along_axis(
      logprobs_BxGxCxV, tokens_BxGxC[..., None], axis=-1
  )[..., 0]
  entropy = -jnp.sum(jnp.exp(logprobs_BxGxCxV) * logprobs_BxGxCxV, axis=-1)
  return chosen, entropy


RowLoss = Callable[[Any, Row], tuple[jax.Array, tuple[jax.Array, jax.Array]]]


def make_row_loss(
    model: models.Model, objective: Objective, *, temperature: float,
    aggregate: str,
) -> RowLoss:
  """A row's contribution to the loss; with its entropy and sampler gap."""

  def row_loss(params, row):
    logprobs_BxGxC, entropy_BxGxC = completion_logprobs(
        model, params, row.batch, temperature
    )
    mask = row.batch.mask_KxBxGxC
    gap = jnp.abs(logprobs_BxGxC - row.batch.logprobs_KxBxGxC)
    aux = masked.mean(entropy_BxGxC, mask), masked.mean(gap, mask)
    token_losses = objective.loss(logprobs_BxGxC, row)
    total = losses.row_sum(token_losses, mask, aggregate=aggregate)
    return total / row.denominator, aux

  return row_loss


def split_rows(
    batch: Batch, advantages_KxBxG: jax.Array, num_splits: int
) -> tuple[Batch, jax.Array]:
  """Batch and advantages with their K x B prompts as R rows of B / S."""
  num_rows = advantages_KxBxG.shape[0] * num_splits
  return jax.tree.map(
      lambda a: a.reshape(num_rows, -1, *a.shape[2:]), (batch, advantages_KxBxG)
  )


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
) -> Callable[[TrainState, Batch], tuple[TrainState, Measured]]:
  """The pure step; `instrument=False` computes the joint gradient only."""
  row_loss = make_row_loss(
      model, objective, temperature=temperature, aggregate=aggregate
  )
  count = functools.partial(losses.row_count, aggregate=aggregate)

  def decomposed(state: TrainState, row: Row):
    values, grads_RxP = gl.task_value_and_grad(row_loss, has_aux=True)(
        state.params, row
    )
    grams = gl.gram_blocks(grads_RxP, gl.by_layer)
    updates, opt_state = optimizer.corrected.update(
        grads_RxP, state.opt_state, state.params
    )
    correction = opt_state[0]
    return values, updates, opt_state, dict(
        grams=grams, weights=correction.weights_K,
        skipped_K=correction.skipped_K - state.opt_state[0].skipped_K,
    )

  def joint(state: TrainState, row: Row):
    def loss(params):
      loss_R, aux = jax.vmap(row_loss, (None, 0))(params, row)
      return jnp.sum(loss_R), (loss_R, aux)

    (_, values), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    correction, *rest = state.opt_state
    updates, new = optimizer.plain.update(grads, tuple(rest), state.params)
    # A gradient that is not finite leaves everything as it was.
    finite = jnp.isfinite(optax.tree.norm(grads))
    updates = jax.tree.map(lambda u: jnp.where(finite, u, 0), updates)
    rest = jax.tree.map(
        lambda a, b: jnp.where(finite, a, b), new, tuple(rest)
    )
    return values, updates, (correction, *rest), dict(
        grams=None, weights=None, skipped_K=None
    )

  def train_step(state: TrainState, batch: Batch):
    advantages_KxBxG = objective.advantages(batch.rewards_KxBxG)
    batch_R, advantages_RxBxG = split_rows(batch, advantages_KxBxG, num_splits)
    counts_KxS = jax.vmap(count)(batch_R.mask_KxBxGxC).reshape(-1, num_splits)
    denominators_KxS = losses.denominators(counts_KxS, normalize=normalize)
    row = Row(batch_R, advantages_RxBxG, denominators_KxS.reshape(-1))

    gradient = decomposed if instrument else joint
    values, updates, opt_state, correction = gradient(state, row)
    params = optax.apply_updates(state.params, updates)

    loss_R, (entropy_R, sampler_gap_R) = values
    return TrainState(params, opt_state, state.key), Measured(
        loss_R, entropy_R, sampler_gap_R,
        losses.task_shares(counts_KxS, normalize=normalize),
        advantages_KxBxG, update_norm=optax.tree.norm(updates), **correction,
    )

  return train_step
