"""Blocks: a rule applied to every block, and to every layer of one."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradlens.rule import Rule, Weighed
from gradlens.types import Blocks, PyTree

WHOLE = ''  # The one block of a correction without `blocks`.


def weigh_blocks(
    rule: Rule,
    grams: Mapping[str, jax.Array],
    states: Mapping[str, PyTree],
    extras: Mapping[str, Any],
    *,
    together: bool,
) -> tuple[dict[str, Weighed], jax.Array]:
  """Weighs every block, and every layer of a stacked one.

  Args:
    rule: how.
    grams: by block, `[R, R]` or `[layers, R, R]`.
    states: of the weighting, by block.
    extras: for the weighting.
    together: whether a task that is not finite in one block is left out of all.

  Returns:
    What came out, by block; and which tasks are finite in all of them, `[K]`.
  """
  finite = {name: rule.finite_tasks(gram) for name, gram in grams.items()}
  # A gradient is bad as a whole.
  kept_K = all_K(finite.values())

  def step(gram_RxR, state, finite_K):
    own_K = kept_K if together else finite_K
    return rule.weigh(gram_RxR, state, own_K, extras)

  weighed = {}
  for name, gram_RxR in grams.items():
    step_fn = jax.vmap(step) if gram_RxR.ndim == 3 else step
    weighed[name] = step_fn(gram_RxR, states[name], finite[name])
  return weighed, kept_K


def by_block_name(tree: PyTree, blocks: Blocks | None) -> dict[str, PyTree]:
  """A field of a `CorrectState` as a dict, of one entry without `blocks`."""
  return tree if blocks else {WHOLE: tree}


def whole_gram(gram: PyTree) -> jax.Array:
  """The sum over blocks and layers: `[R, R]`."""
  return sum(
      leaf.reshape(-1, *leaf.shape[-2:]).sum(axis=0)
      for leaf in jax.tree.leaves(gram)
  )


def given_grams(
    gram: PyTree, known: PyTree, num_rows: int
) -> dict[str, jax.Array]:
  """The `gram=` of an update by block, of the shapes of the state's own."""
  for leaf in jax.tree.leaves(gram):
    if jnp.shape(leaf)[-2:] != (num_rows, num_rows):
      raise ValueError(
          f'gram has shape {jnp.shape(leaf)}, expected [..., {num_rows}, '
          f'{num_rows}]: num_tasks times num_splits rows'
      )
  if not isinstance(known, dict):
    return {WHOLE: whole_gram(gram)}
  shapes = {name: jnp.shape(leaf) for name, leaf in known.items()}
  got = (
      {name: jnp.shape(leaf) for name, leaf in gram.items()}
      if isinstance(gram, Mapping)
      else jnp.shape(gram)
  )
  if got != shapes:
    raise ValueError(
        f'gram has the blocks {got}, but the correction was initialized for '
        f'{shapes}'
    )
  return dict(gram)


def repeat(tree: PyTree, depth: int | None) -> PyTree:
  """One copy per layer on a leading axis, unless there are no layers."""
  if depth is None:
    return tree
  return jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf, (depth, *jnp.shape(leaf))), tree
  )


def transpose(by_block: dict[str, tuple]) -> list[dict[str, PyTree]]:
  """From a tuple for each block to a dict for each of its fields."""
  fields = zip(*by_block.values(), strict=True)
  return [dict(zip(by_block, field, strict=True)) for field in fields]


def all_K(flags: Iterable[jax.Array]) -> jax.Array:
  """Whether a task's flag is set in all blocks, and all of their layers."""
  flags = [flag.reshape(-1, flag.shape[-1]) for flag in flags]
  return jnp.concatenate(flags).all(axis=0)
