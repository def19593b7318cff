"""Updates: what the change of the parameters does to each task."""

import jax
import jax.numpy as jnp
import optax

from gradlens.gram import gram
from gradlens.types import PyTree


def along(grads_RxP: PyTree, direction: PyTree) -> jax.Array:
  r"""Products of every row with one direction, such as an update.

  With the change of the parameters, `-along(...)` is the first-order gain of
  each row: how much the update lowers its loss, in the loss's units.

  .. math:: a_r = \langle g_r, d \rangle

  Args:
    grads_RxP: leaves `[R, *param]`.
    direction: leaves `[*param]`.

  Returns:
    `[R]`, float32.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> grads_RxP = jnp.array([[1., 0.], [2., 1.]])
  >>> print(gl.along(grads_RxP, jnp.array([-0.1, 0.1])))
  [-0.1 -0.1]
  """
  products = jax.tree.map(
      lambda rows, d: jnp.tensordot(
          rows, d, axes=d.ndim, precision=jax.lax.Precision.HIGHEST,
          preferred_element_type=jnp.float32,
      ),
      grads_RxP, direction,
  )
  return sum(jax.tree.leaves(products))


def shares_along(along_K: jax.Array) -> jax.Array:
  r"""Every task's share of what an update does to the joint loss.

  .. math:: \frac{\langle g_k, \Delta\theta \rangle}
    {\sum_j \langle g_j, \Delta\theta \rangle}

  With the change that the optimizer made, these are the shares after it: Adam
  turns the update, and what a correction gave may be lost.

  Args:
    along_K: from `along` with the change of the parameters, summed over splits.

  Returns:
    `[K]`, of sum 1; NaN if the joint loss does not change to first order.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.shares_along(jnp.array([-3., -1.])))
  [0.75 0.25]
  """
  total = jnp.sum(along_K)
  moves = total != 0
  return jnp.where(moves, along_K / jnp.where(moves, total, 1.0), jnp.nan)


def adam_metric(state: PyTree, eps: float = 1e-8, b2: float = 0.999) -> PyTree:
  r"""The diagonal by which Adam multiplies a gradient, from its state.

  .. math:: m = \frac{1}{\sqrt{\hat\nu} + \epsilon}, \qquad
    \hat\nu = \frac{\nu}{1 - b_2^t}

  Args:
    state: any optax state with one `optax.ScaleByAdamState` in it.
    eps: of the optimizer.
    b2: of the optimizer.

  Returns:
    A pytree like the parameters. Before the first step, when nothing is known,
    it is ones.

  Raises:
    ValueError: if there is no Adam in `state`, or more than one.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> import gradlens as gl
  >>> tx = optax.adam(1e-3)
  >>> _, state = tx.update(jnp.array([0.1, 2.]), tx.init(jnp.zeros(2)))
  >>> print(gl.adam_metric(state).round(3))
  [10.   0.5]
  """

  def is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)

  found = [n for n in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(n)]
  if len(found) != 1:
    raise ValueError(f'the state holds {len(found)} states of Adam, not one')
  (adam,) = found
  started = adam.count > 0
  correction = jnp.where(started, 1 - b2**adam.count, 1.0)
  return jax.tree.map(
      lambda nu: jnp.where(
          started, 1 / (jnp.sqrt(nu / correction) + eps), 1.0
      ),
      adam.nu,
  )


def metric_gram(grads_RxP: PyTree, metric: PyTree) -> jax.Array:
  r"""The Gram matrix in a diagonal metric, such as that of `adam_metric`.

  .. math:: G_{rs} = \langle g_r, m \odot g_s \rangle

  Args:
    grads_RxP: leaves `[R, *param]`.
    metric: leaves `[*param]`, not negative.

  Returns:
    `[R, R]`, float32.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> grads_RxP = jnp.array([[1., 1.], [1., -1.]])
  >>> print(gl.metric_gram(grads_RxP, jnp.array([3., 1.])).round(4))
  [[4. 2.]
   [2. 4.]]
  """
  return gram(jax.tree.map(
      lambda rows, m: rows * jnp.sqrt(m)[None], grads_RxP, metric
  ))
