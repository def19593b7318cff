"""Diagnostics: how task gradients lie to each other, and to the update."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from gradlens.gram import gram
from gradlens.types import PyTree


def shares(gram_KxK: jax.Array, weights_K: jax.Array) -> jax.Array:
  r"""Every task's share of an update, along the update; they add up to 1.

  .. math:: \text{share}_k = \frac{w_k \langle g_k, d \rangle}{\|d\|^2},
    \qquad d = \sum_l w_l g_l

  A share below 0 is a task that the update moves against. With weights 1 these
  are the shares before correction.

  Args:
    gram_KxK: `[K, K]`.
    weights_K: `[K]`.

  Returns:
    `[K]`; zeros if the update is zero.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[3., 0.], [0., 1.]])
  >>> print(gl.shares(gram_KxK, jnp.ones(2)))
  [0.75 0.25]
  """
  products_KxK = weights_K[:, None] * gram_KxK * weights_K[None, :]
  length_sq = jnp.sum(products_KxK)
  moves = length_sq > 0
  along_K = products_KxK.sum(axis=1)
  return jnp.where(moves, along_K / jnp.where(moves, length_sq, 1.0), 0.0)


def cosines(gram_KxK: jax.Array) -> jax.Array:
  """The cosine of every pair of tasks; NaN where a squared norm is not above 0.

  Of a debiased Gram matrix, single values may lie outside [-1, 1].

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.cosines(jnp.array([[4., -3.], [-3., 9.]])))
  [[ 1.  -0.5]
   [-0.5  1. ]]
  """
  norms_sq_K = jnp.diag(gram_KxK)
  present_K = norms_sq_K > 0
  norms_K = jnp.sqrt(jnp.where(present_K, norms_sq_K, 1.0))
  cosines_KxK = gram_KxK / norms_K[:, None] / norms_K[None, :]
  defined_KxK = present_K[:, None] & present_K[None, :]
  return jnp.where(defined_KxK, cosines_KxK, jnp.nan)


def conflict_rate(gram_KxK: jax.Array) -> jax.Array:
  """The share of pairs of tasks whose gradients have a negative product.

  Args:
    gram_KxK: `[..., K, K]`, best of kind `'cross'`: noise that two tasks share
      hides a conflict.

  Returns:
    `[...]`, between 0 and 1; NaN for one task.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.conflict_rate(jnp.array(
  ...     [[1., -1., 0.], [-1., 2., 1.], [0., 1., 1.]])).round(3))
  0.333
  """
  num_tasks = gram_KxK.shape[-1]
  pairs = num_tasks * (num_tasks - 1)
  own_KxK = jnp.broadcast_to(jnp.eye(num_tasks, dtype=bool), gram_KxK.shape)
  conflicts = jnp.sum((gram_KxK < 0) & ~own_KxK, axis=(-2, -1))
  return conflicts / pairs if pairs else jnp.full(conflicts.shape, jnp.nan)


def effective_rank(gram_KxK: jax.Array) -> jax.Array:
  r"""How many directions the tasks' gradients take, between 1 and K.

  The exponential of the entropy of the eigenvalues' shares:

  .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad
    p_i = \frac{\lambda_i}{\sum_j \lambda_j}

  with negative eigenvalues, which a debiased Gram matrix may have, as 0.

  Args:
    gram_KxK: `[..., K, K]`.

  Returns:
    `[...]`; 0 for gradients that are all zero.

  References:
    Roy and Vetterli, The Effective Rank, 2007 (of singular values; this one is
    of their squares, the eigenvalues of the Gram matrix)

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(f'{gl.effective_rank(jnp.eye(3)):.3f}')
  3.000
  """
  values_K = jnp.maximum(jnp.linalg.eigvalsh(gram_KxK), 0.0)
  total = values_K.sum(axis=-1, keepdims=True)
  shares_K = values_K / jnp.where(total > 0, total, 1.0)
  present_K = shares_K > 0
  entropy = -jnp.sum(
      shares_K * jnp.log(jnp.where(present_K, shares_K, 1.0)), axis=-1
  )
  return jnp.where(total[..., 0] > 0, jnp.exp(entropy), 0.0)


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


def rank_correlation(x: jax.Array, y: jax.Array) -> jax.Array:
  r"""Spearman's rank correlation over the last axis; equal values share ranks.

  Args:
    x: `[..., N]`.
    y: `[..., N]`.

  Returns:
    `[...]`, between -1 and 1; NaN where one of them is constant.

  References:
    Spearman, The Proof and Measurement of Association between Two Things, 1904

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.rank_correlation(
  ...     jnp.array([1., 2., 3.]), jnp.array([10., 30., 20.])).round(4))
  0.5
  """

  def centered_ranks(values):
    below = values[..., None, :] < values[..., :, None]
    equal = values[..., None, :] == values[..., :, None]
    ranks = below.sum(axis=-1) + (equal.sum(axis=-1) - 1) / 2
    return ranks - ranks.mean(axis=-1, keepdims=True)

  x, y = centered_ranks(x), centered_ranks(y)
  products = jnp.sum(x * y, axis=-1)
  lengths = jnp.sqrt(jnp.sum(x**2, axis=-1) * jnp.sum(y**2, axis=-1))
  defined = lengths > 0
  return jnp.where(defined, products / jnp.where(defined, lengths, 1), jnp.nan)


def block_proxies(
    norms_sq: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """How faithfully each block ranks the tasks' squared norms, over steps.

  Which block could stand for the whole gradient? The rank correlation, task by
  task over the steps, of a block's squared norms with the sum over all blocks.

  Args:
    norms_sq: by block, `[T, K]` of T steps, unbiased where there are splits.

  Returns:
    By block, `[K]`.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> norms_sq = {'a': jnp.array([[1.], [2.], [9.]]),
  ...             'b': jnp.array([[1.], [3.], [2.]])}
  >>> proxies = gl.block_proxies(norms_sq)
  >>> print(proxies['a'].round(2), proxies['b'].round(2))
  [1.] [0.5]
  """
  whole_TxK = sum(norms_sq.values())
  return {
      name: rank_correlation(own_TxK.T, whole_TxK.T)
      for name, own_TxK in norms_sq.items()
  }
