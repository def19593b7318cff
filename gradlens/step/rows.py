"""Rows: a batch of tasks as R = K x S rows, each ready for the loss.

A row is one split of one task: B / S of its prompts, with all completions.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlens import losses
from gradlens.experience import Batch


class Prompts(NamedTuple):
  """What the loss is computed from: leaves `[K, B, ...]`.

  Attributes:
    batch: task-major, K x B prompts.
    advantages_KxBxG: of each completion.
    logprobs: of other policies, by name, `[K, B, G, C]` each.
  """

  batch: Batch
  advantages_KxBxG: jax.Array
  logprobs: dict[str, jax.Array]


class Row(NamedTuple):
  """One row; a leading axis R of it is all rows.

  Attributes:
    batch: as of one task, `[B / S, ...]`.
    advantages_BxG: of each completion.
    logprobs: of other policies, by name, `[B / S, G, C]` each.
    denominator: what the row's loss is divided by, so that rows add up.
  """

  batch: Batch
  advantages_BxG: jax.Array
  logprobs: dict[str, jax.Array]
  denominator: jax.Array


def in_rows(tree: Any, num_rows: int) -> Any:
  """Leaves `[R, B / S, ...]` of leaves `[K, B, ...]`."""
  return jax.tree.map(
      lambda a: a.reshape(num_rows, -1, *a.shape[2:]), tree
  )


def make_rows(
    prompts: Prompts, num_splits: int, *, aggregate: str, normalize: str
) -> tuple[Row, jax.Array]:
  """All rows of a batch, and each task's share of the batch loss's weight.

  Args:
    prompts: of all tasks.
    num_splits: S, a divisor of B.
    aggregate: as in `losses.row_sum`.
    normalize: as in `losses.denominators`.
  """
  num_rows = prompts.advantages_KxBxG.shape[0] * num_splits
  batch_R, advantages_RxBxG, logprobs_R = in_rows(tuple(prompts), num_rows)
  count = functools.partial(losses.row_count, aggregate=aggregate)
  counts_KxS = jax.vmap(count)(batch_R.mask_KxBxGxC).reshape(-1, num_splits)
  denominators_KxS = losses.denominators(counts_KxS, normalize=normalize)
  shares_K = losses.task_shares(counts_KxS, normalize=normalize)
  rows = Row(
      batch_R, advantages_RxBxG, logprobs_R, denominators_KxS.reshape(-1)
  )
  return rows, shares_K


def mini_batches(prompts: Prompts, num_splits: int, count: int) -> Prompts:
  """The prompts of every split in `count` parts: leaves `[N, K, B / N, ...]`.

  Each has prompts of every split, in the same order.
  """

  def split(leaf):
    k, b, *rest = leaf.shape
    parts = leaf.reshape(k, num_splits, count, -1, *rest)
    return jnp.moveaxis(parts, 2, 0).reshape(count, k, b // count, *rest)

  return jax.tree.map(split, prompts)


def in_parts(tree: Any, count: int) -> Any:
  """Leaves `[M, R, B / M, ...]` of leaves `[R, B, ...]`."""

  def split(leaf):
    parts = leaf.reshape(leaf.shape[0], count, -1, *leaf.shape[2:])
    return jnp.moveaxis(parts, 1, 0)

  return jax.tree.map(split, tree)


def micro_batches(rows: Row, count: int) -> Row:
  """The prompts of every row in `count` parts: leaves `[M, R, ...]`."""
  denominator = jnp.broadcast_to(
      rows.denominator, (count, *rows.denominator.shape)
  )
  return Row(*in_parts(tuple(rows[:-1]), count), denominator)
