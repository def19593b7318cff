"""Corrections that hold K copies of the parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlens.elementwise.stacks import check_rows, like, stacked_zeros, weigh
from gradlens.gram import gram
from gradlens.types import PyTree


class ExcessMtlState(NamedTuple):
  """State of `excess_mtl`.

  Attributes:
    squares: `[K, *param]`, sums of squared gradients so far.
    first_K: excess risks of the first update.
    weights_K: they sum to K.
    count: updates so far.
  """

  squares: PyTree
  first_K: jax.Array
  weights_K: jax.Array
  count: jax.Array


def excess_mtl(
    *, num_tasks: int, step_size: float = 1e-2
) -> optax.GradientTransformationExtraArgs:
  r"""More weight to tasks that are far from their optimum (ExcessMTL).

  With :math:`h_k = \sqrt{\sum_t g_{k,t}^2}` entry by entry, as in AdaGrad:

  .. math:: E_k = \sum_p g_{kp}^2 / h_{kp}, \qquad
    w_k \leftarrow w_k \exp(\eta E_k / E_k^0), \quad
    \textstyle\sum_k w_k = K

  The first update has weights 1 and sets :math:`E^0`.

  .. warning:: Holds K copies of the parameters.

  Args:
    num_tasks: K.
    step_size: :math:`\eta`.

  Returns:
    An `optax.GradientTransformationExtraArgs`, `[K, *param]` to `[*param]`.

  Raises:
    ValueError: at `update`, without a task axis.

  References:
    He et al., Robust Multi-Task Learning with Excess Risks, 2024,
    arXiv:2402.02009

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> tx = gl.excess_mtl(num_tasks=2)
  >>> params = jnp.zeros(1)
  >>> grads_KxP = jnp.array([[1.], [2.]])
  >>> updates, state = tx.update(grads_KxP, tx.init(params), params)
  >>> print(updates, state.weights_K)
  [3.] [1. 1.]
  """

  def init_fn(params):
    return ExcessMtlState(
        stacked_zeros(params, num_tasks),
        jnp.ones(num_tasks), jnp.ones(num_tasks), jnp.zeros((), jnp.int32),
    )

  def update_fn(updates, state, params=None, **extras):
    del extras
    check_rows(updates, params, num_tasks, 'excess_mtl')
    squares = jax.tree.map(
        lambda old, rows: old + jnp.square(rows.astype(jnp.float32)),
        state.squares, updates,
    )
    excess_K = sum(
        jnp.sum(_excess(rows, square).reshape(num_tasks, -1), axis=1)
        for rows, square in zip(
            jax.tree.leaves(updates), jax.tree.leaves(squares), strict=True
        )
    )
    first = state.count == 0
    first_K = jnp.where(first, excess_K, state.first_K)
    ratios_K = excess_K / jnp.where(first_K > 0, first_K, 1.0)
    # In logarithms, so that no ratio overflows.
    logits_K = jnp.log(state.weights_K) + step_size * ratios_K
    weights_K = jnp.maximum(num_tasks * jax.nn.softmax(logits_K), 1e-30)
    weights_K = jnp.where(first, state.weights_K, weights_K)
    combined = jax.tree.map(lambda rows: weigh(rows, weights_K), updates)
    return like(combined, params), ExcessMtlState(
        squares, first_K, weights_K, state.count + 1
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class MocoState(NamedTuple):
  """State of `moco`.

  Attributes:
    tracked: `[K, *param]`, the corrected gradients.
    weights_K: they sum to 1.
    count: updates so far.
  """

  tracked: PyTree
  weights_K: jax.Array
  count: jax.Array


def moco(
    *,
    num_tasks: int,
    beta: float = 0.5,
    gamma: float = 0.1,
    rho: float = 0.0,
    decay: float = 0.5,
) -> optax.GradientTransformationExtraArgs:
  r"""Tracks every task's gradient, and weighs what it tracked (MoCo).

  .. math::
    y_k \leftarrow y_k - \beta_t (y_k - g_k), \qquad
    w \leftarrow \operatorname{softmax}(w - \gamma_t (Y Y^\top + \rho I) w),
    \qquad d = \sum_k w_k y_k

  with :math:`\beta_t = \beta / t^{\text{decay}}` and :math:`\gamma_t` alike.

  .. warning:: The authors' code scales each gradient to the length of its loss
    first. Here gradients come as they are; scale them before if you want that.
    Holds K copies of the parameters.

  Args:
    num_tasks: K.
    beta: the step of the tracked gradients.
    gamma: the step of the weights.
    rho: pulls the weights together.
    decay: the exponent of both.

  Returns:
    An `optax.GradientTransformationExtraArgs`, `[K, *param]` to `[*param]`.

  Raises:
    ValueError: at `update`, without a task axis.

  References:
    Fernando et al., Mitigating Gradient Bias in Multi-objective Learning: A
    Provably Convergent Approach, ICLR 2023

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> tx = gl.moco(num_tasks=2)
  >>> params = jnp.zeros(1)
  >>> grads_KxP = jnp.array([[2.], [2.]])
  >>> print(tx.update(grads_KxP, tx.init(params), params)[0])
  [1.]
  """

  def init_fn(params):
    return MocoState(
        stacked_zeros(params, num_tasks),
        jnp.full(num_tasks, 1 / num_tasks, jnp.float32),
        jnp.zeros((), jnp.int32),
    )

  def update_fn(updates, state, params=None, **extras):
    del extras
    check_rows(updates, params, num_tasks, 'moco')
    count = state.count + 1
    rate = count.astype(jnp.float32) ** -decay
    tracked = jax.tree.map(
        lambda old, rows: old - beta * rate * (old - rows),
        state.tracked, updates,
    )
    weights_K = state.weights_K
    slope_K = gram(tracked) @ weights_K + rho * weights_K
    weights_K = jax.nn.softmax(weights_K - gamma * rate * slope_K)
    combined = jax.tree.map(lambda rows: weigh(rows, weights_K), tracked)
    return like(combined, params), MocoState(tracked, weights_K, count)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _excess(rows: jax.Array, squares: jax.Array) -> jax.Array:
  seen = squares > 0
  root = jnp.sqrt(jnp.where(seen, squares, 1.0))
  return jnp.where(seen, jnp.square(rows.astype(jnp.float32)) / root, 0.0)
