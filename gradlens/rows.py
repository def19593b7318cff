"""Rows: a batch of tasks as R = K x S rows, each ready for the loss.

A row is one split of one task: B / S of its prompts, with all completions.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens import losses
from gradlens.experience import Batch


class Row(NamedTuple):
  """One row; a leading axis R of it is all rows.

  Attributes:
    batch: as of one task, `[B / S, ...]`.
    advantages_BxG: of each completion.
    denominator: what the row's loss is divided by, so that rows add up.
  """

  batch: Batch
  advantages_BxG: jax.Array
  denominator: jax.Array


def make_rows(
    batch: Batch, advantages_KxBxG: jax.Array, num_splits: int, *,
    aggregate: str, normalize: str,
) -> tuple[Row, jax.Array]:
  """All rows of a batch, and each task's share of the batch loss's weight.

  Args:
    batch: task-major, K x B prompts.
    advantages_KxBxG: of each completion.
    num_splits: S, a divisor of B.
    aggregate: as in `losses.row_sum`.
    normalize: as in `losses.denominators`.
  """
  num_rows = advantages_KxBxG.shape[0] * num_splits
  batch_R, advantages_RxBxG = jax.tree.map(
      lambda a: a.reshape(num_rows, -1, *a.shape[2:]), (batch, advantages_KxBxG)
  )
  count = functools.partial(losses.row_count, aggregate=aggregate)
  counts_KxS = jax.vmap(count)(batch_R.mask_KxBxGxC).reshape(-1, num_splits)
  denominators_KxS = losses.denominators(counts_KxS, normalize=normalize)
  shares_K = losses.task_shares(counts_KxS, normalize=normalize)
  return Row(batch_R, advantages_RxBxG, denominators_KxS.reshape(-1)), shares_K


def micro_batches(rows: Row, count: int) -> Row:
  """The prompts of every row in `count` parts: leaves `[M, R, ...]`."""

  def split(leaf):
    parts = leaf.reshape(leaf.shape[0], count, -1, *leaf.shape[2:])
    return jnp.moveaxis(parts, 1, 0)

  denominator = jnp.broadcast_to(
      rows.denominator, (count, *rows.denominator.shape)
  )
  return Row(
      *jax.tree.map(split, (rows.batch, rows.advantages_BxG)), denominator
  )
