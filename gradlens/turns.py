"""Turns: rows one after the other, where all at once are too large."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gradlens.types import PyTree


def rows_in_turn(
    fn: Callable[..., PyTree], axes: tuple
) -> Callable[..., PyTree]:
  """As `jax.vmap`, of one row after the other."""

  def run(*args):
    def one(r):
      def pick(axis, tree):
        if axis is None:
          return tree
        return jax.tree.map(
            lambda a: jax.lax.dynamic_index_in_dim(a, r, axis, keepdims=False),
            tree,
        )

      return fn(*jax.tree.map(pick, axes, args, is_leaf=lambda a: a is None))

    num_rows = jax.tree.leaves(args[0])[0].shape[0]
    return jax.lax.map(one, jnp.arange(num_rows))

  return run
