"""Policies: what others than the trained one say of the sampled tokens."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gradlens import models
from gradlens.experience import Batch
from gradlens.step import placement
from gradlens.step.objective import OLD, REFERENCE, Objective
from gradlens.step.rows import Prompts, in_parts, in_rows

# (params, batch) -> logprobs_KxBxGxC
Logprobs = Callable[[Any, Batch], jax.Array]


def make_logprobs(
    model: models.Model, *, num_splits: int, temperature: float,
    num_micro_batches: int = 1, mesh: Mesh | None = None,
) -> Logprobs:
  """Log-probabilities of a batch's tokens, without a way back.

  Args:
    model: of the parameters that are given.
    num_splits: S; a mesh divides rows.
    temperature: of the policy.
    num_micro_batches: parts of each row's prompts, one after the other.
    mesh: where parameters and rows lie; None is one device.
  """
  shards = None if mesh is None else models.shards(model)

  def readout(head, x_BxGxCxD, batch):
    return models.scores(
        head, x_BxGxCxD, batch.tokens_KxBxGxC, temperature=temperature
    ).logprobs

  def local(params, parts_MxR):
    def one(batch_R):
      return models.tapped(
          model, params, None,
          models.Groups(
              batch_R.prompts_KxBxT, batch_R.prompt_mask_KxBxT,
              batch_R.tokens_KxBxGxC, batch_R.mask_KxBxGxC,
          ),
          readout, batch_R, shards=shards,
      )

    return jax.lax.map(one, parts_MxR)

  def logprobs(params, batch):
    num_rows = batch.rewards_KxBxG.shape[0] * num_splits
    batch = jax.tree.map(jnp.asarray, batch)
    parts_MxR = in_parts(in_rows(batch, num_rows), num_micro_batches)
    specs = placement.row_specs(parts_MxR, num_micro_batches)
    parts_MxR = placement.constrain(parts_MxR, mesh, specs)
    found_MxR = placement.of_rows(mesh, local)(params, parts_MxR)
    return jnp.moveaxis(found_MxR, 0, 1).reshape(batch.logprobs_KxBxGxC.shape)

  return logprobs


def make_prepare(
    model: models.Model, objective: Objective, *, num_splits: int,
    temperature: float, num_micro_batches: int, mesh: Mesh | None = None,
) -> Callable[[Any, Batch], Prompts]:
  """What is known before the first update: advantages, and other policies.

  Returns:
    `prepare(state, batch)`, of a `TrainState`.
  """
  make = functools.partial(
      make_logprobs, num_splits=num_splits, temperature=temperature,
      num_micro_batches=num_micro_batches, mesh=mesh,
  )
  base = models.build(model.config)._replace(compute=model.compute)
  say_old, say_reference = make(model), make(base)
  policies = {
      OLD: lambda state, batch: say_old(state.policy, batch),
      REFERENCE: lambda state, batch: say_reference(
          state.reference if model.lora is None else state.frozen, batch
      ),
  }

  def prepare(state: Any, batch: Batch):
    # A place without a prompt has no sampled token.
    filled_KxB = jnp.any(batch.mask_KxBxGxC, axis=(2, 3))
    batch = objective.select(batch)
    return Prompts(
        batch, objective.advantages(batch, filled_KxB),
        {name: policies[name](state, batch) for name in objective.policies},
    )

  return prepare
