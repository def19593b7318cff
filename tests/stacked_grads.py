"""Parameters with layers, and stacked gradients of them."""

import jax
import jax.numpy as jnp
import numpy as np

K = 3


def params_like(dtype=jnp.float32):
  """An embedding, stacked layers and a scalar."""
  return {
      'embed': jnp.ones((4, 2), dtype),
      'layers': {'w': jnp.ones((3, 2, 2), dtype), 'b': jnp.ones((3, 2), dtype)},
      'scale': jnp.ones((), dtype),
  }


def grads_of(params, num_rows=K, seed=0, dtype=jnp.float32):
  """Random rows."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda p: jnp.asarray(rng.normal(size=(num_rows, *p.shape)), dtype),
      params,
  )


def flat(tree):
  """One float64 vector."""
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
  return np.concatenate([leaf.ravel() for leaf in leaves])


def rows_of(grads):
  """A matrix, one row for each of the gradients'."""
  num_rows = len(jax.tree.leaves(grads)[0])
  return np.stack([
      flat(jax.tree.map(lambda leaf, r=r: leaf[r], grads))
      for r in range(num_rows)
  ])


def poison(grads, row, value=np.nan):
  """One bad entry, in one leaf of one row."""
  return {**grads, 'embed': grads['embed'].at[row, 1, 1].set(value)}


def one_update(tx, grads, params, **extras):
  """Of a fresh state."""
  return jax.jit(tx.update)(grads, tx.init(params), params, **extras)
