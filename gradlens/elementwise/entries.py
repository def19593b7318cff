"""Elementwise corrections without a memory of gradients."""

import jax
import jax.numpy as jnp
import optax

from gradlens.elementwise.stacks import check_rows, like
from gradlens.weightings.base import own_key


def graddrop(
    *,
    num_tasks: int,
    leak: float = 0.0,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Lets every entry follow one sign, drawn by how the tasks agree (GradDrop).

  With :math:`P = \tfrac12 (1 + \sum_k g_k / \sum_k |g_k|)` of every entry and
  :math:`U` uniform, the sum of the tasks' entries that are positive where
  :math:`P > U`, and negative where :math:`P < U`. The others count by `leak`.

  Args:
    num_tasks: K.
    leak: in [0, 1]; 1 is the plain sum.
    key: a PRNG key; None is `jax.random.key(0)`. It is kept in the state.

  Returns:
    An `optax.GradientTransformationExtraArgs`, `[K, *param]` to `[*param]`.

  Raises:
    ValueError: if the leak is out of range; at `update`, without a task axis.

  References:
    Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with
    Gradient Sign Dropout, 2020, arXiv:2010.06808

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> tx = gl.graddrop(num_tasks=2)
  >>> params = jnp.zeros(2)
  >>> grads_KxP = jnp.array([[1., -3.], [2., -4.]])
  >>> print(tx.update(grads_KxP, tx.init(params), params)[0])
  [ 3. -7.]
  """
  if not 0 <= leak <= 1:
    raise ValueError(f'leak={leak} must be in [0, 1]')

  def init_fn(params):
    del params
    return own_key(key)

  def update_fn(updates, state, params=None, **extras):
    del extras
    check_rows(updates, params, num_tasks, 'graddrop')
    state, draw_key = jax.random.split(state)
    leaves, treedef = jax.tree.flatten(updates)
    keys = jax.random.split(draw_key, len(leaves))

    def drop(rows, leaf_key):
      rows = rows.astype(jnp.float32)
      size = jnp.sum(jnp.abs(rows), axis=0)
      agree = jnp.sum(rows, axis=0) / jnp.where(size > 0, size, 1.0)
      up = (1 + agree) / 2 > jax.random.uniform(leaf_key, size.shape)
      kept = jnp.where(up[None], rows > 0, rows < 0)
      return jnp.sum(jnp.where(kept, rows, leak * rows), axis=0)

    dropped = [drop(*pair) for pair in zip(leaves, keys, strict=True)]
    return like(treedef.unflatten(dropped), params), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def trimmed_mean(
    *, num_tasks: int, num_trimmed: int = 1
) -> optax.GradientTransformationExtraArgs:
  """The mean of every entry without the largest and the smallest values.

  Args:
    num_tasks: K.
    num_trimmed: how many are left out on either side.

  Returns:
    An `optax.GradientTransformationExtraArgs`, `[K, *param]` to `[*param]`.

  Raises:
    ValueError: if nothing would be left; at `update`, without a task axis.

  References:
    Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates, 2018, arXiv:1803.01498

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> tx = gl.trimmed_mean(num_tasks=4)
  >>> params = jnp.zeros(1)
  >>> grads_KxP = jnp.array([[1.], [2.], [4.], [90.]])
  >>> print(tx.update(grads_KxP, tx.init(params), params)[0])
  [3.]
  """
  if num_trimmed < 0 or num_tasks <= 2 * num_trimmed:
    raise ValueError(
        f'num_trimmed={num_trimmed} on either side leaves none of '
        f'num_tasks={num_tasks}'
    )

  def update_fn(updates, state, params=None, **extras):
    del extras
    check_rows(updates, params, num_tasks, 'trimmed_mean')

    def trim(rows):
      ranked = jnp.sort(rows.astype(jnp.float32), axis=0)
      return jnp.mean(ranked[num_trimmed : num_tasks - num_trimmed], axis=0)

    return like(jax.tree.map(trim, updates), params), state

  return optax.GradientTransformationExtraArgs(
      lambda params: optax.EmptyState(), update_fn
  )
