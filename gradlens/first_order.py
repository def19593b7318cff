"""First order: what the actual change of the parameters does to every task."""

import jax
import jax.numpy as jnp
import optax

from gradlens.estimates import quotient
from gradlens.types import PyTree


def inner(grads_RxP: PyTree, updates: PyTree) -> jax.Array:
  r"""The inner product of every row with one direction, over the whole pytree.

  .. math:: \langle g_r, \Delta\theta \rangle

  In float32 at `Precision.HIGHEST`, contracted as the leaves lie, so that a
  sharded leaf stays so. A tap reads the same block by block, with nothing
  stacked (`Reading.along_R`).

  Args:
    grads_RxP: rows on the leading axis, as for `gram`.
    updates: what is added to the parameters: the output of the whole chain,
      learning rate and weight decay included.

  Returns:
    `[R]`, float32.

  Raises:
    ValueError: if the two do not fit, or there are no leaves.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> grads_KxP = jnp.array([[4., 0.], [0., 1.]])
  >>> print(gl.inner(grads_KxP, jnp.array([-1., 0.5])))
  [-4.   0.5]
  """
  leaves = jax.tree_util.tree_leaves_with_path(grads_RxP)
  if not leaves:
    raise ValueError('a stacked gradient without leaves has no inner products')
  rows = leaves[0][1].shape[:1]
  products = []
  for (path, rows_RxP), update in zip(
      leaves, _like(updates, grads_RxP), strict=True
  ):
    if rows_RxP.shape != (*rows, *update.shape):
      raise ValueError(
          f'gradient leaf {jax.tree_util.keystr(path)} has shape '
          f'{rows_RxP.shape}, expected rows {rows} before {update.shape}, the '
          'shape of the update'
      )
    own = tuple(range(update.ndim))
    products.append(jax.lax.dot_general(
        rows_RxP.astype(jnp.float32), update.astype(jnp.float32),
        ((tuple(i + 1 for i in own), own), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
    ))
  return sum(products)


def predicted_gain(inner_R: jax.Array, num_splits: int = 1) -> jax.Array:
  r"""By how much an update lowers the loss through every task, to first order.

  .. math:: -\sum_s \langle g_{ks}, \Delta\theta \rangle

  Rows are contributions, so gains add up to that of the batch loss. Over the
  task's share of the batch loss it is the gain in the task's own loss.

  .. warning:: An update is made of the noise of its own batch too, which makes
     these gains too large, as it does a naive squared norm. For what the update
     does to the tasks rather than to this batch, take rows of another batch.

  Args:
    inner_R: `[..., R]` of `inner`, or read by a tap.
    num_splits: S.

  Returns:
    `[..., K]`; below 0 for a task that the update moves against.

  Raises:
    ValueError: if S does not divide R.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.predicted_gain(jnp.array([-4., -1., 0.5, 1.]), num_splits=2))
  [ 5.  -1.5]
  """
  num_rows = inner_R.shape[-1]
  if num_splits < 1 or num_rows % num_splits:
    raise ValueError(
        f'inner_R has {num_rows} rows, which num_splits={num_splits} does not '
        'divide'
    )
  inner_KxS = inner_R.reshape(*inner_R.shape[:-1], -1, num_splits)
  return -inner_KxS.sum(axis=-1)


def gain_shares(gain_K: jax.Array) -> jax.Array:
  r"""Every task's share of what the update gains; they add up to 1.

  .. math:: \frac{\langle g_k, \Delta\theta \rangle}
    {\sum_j \langle g_j, \Delta\theta \rangle}

  `shares` ask the same of the gradient that enters the optimizer; these, of
  what comes out of it, after clipping, momentum and the optimizer's metric.

  Args:
    gain_K: `[..., K]` of `predicted_gain`.

  Returns:
    `[..., K]`; NaN where the gains do not add up to more than 0, since such an
    update leaves nothing to share.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.gain_shares(jnp.array([5., -1., 4.])))
  [ 0.625 -0.125  0.5  ]
  """
  return quotient(gain_K, jnp.sum(gain_K, axis=-1, keepdims=True))


def adam_metric(
    opt_state: PyTree, *, b2: float = 0.999, eps: float = 1e-8
) -> PyTree:
  r"""The diagonal by which Adam multiplies a gradient, from its state.

  .. math:: m = \frac{1}{\sqrt{\hat\nu} + \epsilon}, \qquad
    \hat\nu = \frac{\nu}{1 - \beta_2^t}

  Read after a step, it is the metric of that step's update.

  .. warning:: The metric is made of these very gradients, and of the joint one:
     a task that is loud by itself in some entries is damped there. It is not a
     metric that Adam would have had for that task alone.

  Args:
    opt_state: of any transformation with one `optax.adam`, `adamw` or
      `scale_by_adam` in it.
    b2: that of the optimizer; the state does not hold it.
    eps: that of the optimizer.

  Returns:
    A pytree like the parameters, float32; NaN before the first step.

  Raises:
    ValueError: if there is no state of Adam, more than one, or one that leaves
      out parameters.

  References:
    Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015,
    arXiv:1412.6980

  >>> import jax.numpy as jnp
  >>> import optax
  >>> import gradlens as gl
  >>> tx = optax.chain(optax.clip_by_global_norm(10.), optax.adamw(1e-3))
  >>> params = jnp.zeros(2)
  >>> _, state = tx.update(jnp.array([4., -0.5]), tx.init(params), params)
  >>> print(gl.adam_metric(state).round(4))
  [0.25 2.  ]
  """
  found = {
      jax.tree_util.keystr(path): node
      for path, node in jax.tree_util.tree_leaves_with_path(
          opt_state, is_leaf=_is_adam
      )
      if _is_adam(node)
  }
  if len(found) != 1:
    raise ValueError(
        f'expected one state of Adam, found {sorted(found)}: give the part of '
        'the optimizer state that holds the one you mean'
    )
  ((path, state),) = found.items()
  if any(map(_is_masked, jax.tree.leaves(state.nu, is_leaf=_is_masked))):
    raise ValueError(
        f'the state of Adam at {path} leaves out parameters, which have no '
        'metric of it'
    )
  grown = 1 - jnp.float32(b2) ** state.count
  return jax.tree.map(
      lambda nu: 1 / (jnp.sqrt(quotient(nu.astype(jnp.float32), grown)) + eps),
      state.nu,
  )


def in_metric(grads_RxP: PyTree, metric: PyTree) -> PyTree:
  r"""Rows whose plain inner products are those of a diagonal metric.

  .. math:: \langle \sqrt{m}\, g_r, \sqrt{m}\, g_s \rangle
    = (J \operatorname{diag}(m) J^\top)_{rs}

  So `gram(in_metric(grads, m))` is the Gram matrix in the metric, and
  `gram_blocks` of it the one by block. Of rows that enter Adam it says who
  pulls where the optimizer listens. A tap reads it block by block
  (`Reading.metric_gram_RxR`).

  Args:
    grads_RxP: rows on the leading axis.
    metric: nonnegative, like the parameters, such as `adam_metric(state)`.

  Returns:
    Scaled rows, float32.

  Raises:
    ValueError: if the two do not fit.

  References:
    Amari, Natural Gradient Works Efficiently in Learning, 1998

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> grads_KxP = jnp.array([[4., 1.], [2., -1.]])
  >>> print(gl.gram(gl.in_metric(grads_KxP, jnp.array([0.25, 1.]))))
  [[5. 1.]
   [1. 2.]]
  """
  leaves, treedef = jax.tree.flatten(grads_RxP)
  scaled = []
  for rows_RxP, m in zip(leaves, _like(metric, grads_RxP), strict=True):
    if rows_RxP.shape[1:] != m.shape:
      raise ValueError(
          f'a gradient leaf has shape {rows_RxP.shape}, expected rows before '
          f'{m.shape}, the shape of the metric'
      )
    scaled.append(rows_RxP.astype(jnp.float32) * jnp.sqrt(m)[None])
  return treedef.unflatten(scaled)


def _like(tree: PyTree, grads_RxP: PyTree) -> list[jax.Array]:
  """The leaves of a tree of the structure of the gradients."""
  got, expected = jax.tree.structure(tree), jax.tree.structure(grads_RxP)
  if got != expected:
    raise ValueError(
        f'the gradients have the structure {expected}, and not {got}'
    )
  return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def _is_adam(node: PyTree) -> bool:
  return isinstance(node, optax.ScaleByAdamState)


def _is_masked(node: PyTree) -> bool:
  return isinstance(node, optax.MaskedNode)
