"""Weightings that project gradients off each other, in random order."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.base import own_key
from gradlens.weightings.solvers import dot, unit_rows


def pcgrad(key: jax.Array | None = None) -> Weighting:
  r"""Projects every gradient off those that it conflicts with (PCGrad).

  Task i's gradient, as a combination :math:`c_i` of all, meets the others in
  random order. Wherever it conflicts with one, it loses the component along it:

  .. math::
    (c_i G)_j < 0 \;\Rightarrow\;
    c_{ij} \leftarrow c_{ij} - (c_i G)_j / G_{jj}, \qquad w = \sum_i c_i

  from :math:`c_i = e_i`. The projected gradients are summed, as in the paper,
  so that without conflict the update is that of `total`.

  Args:
    key: a PRNG key for the orders; None is `jax.random.key(0)`. It is kept in
      the state and changes at every update.

  References:
    Yu et al., Gradient Surgery for Multi-Task Learning, 2020, arXiv:2001.06782

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.pcgrad()
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> print(weighting.update(gram_KxK, weighting.init(2))[0])
  [2.2222223 1.5789473]
  """

  def update(gram_KxK, state, **extras):
    del extras
    state, order_key = jax.random.split(state)
    # With unit lengths every coefficient lies between 0 and 1, whatever the
    # scales. A zero gradient, as an infinitely long one, conflicts with none.
    norms_K = jnp.sqrt(jnp.maximum(jnp.diag(gram_KxK), 0.0))
    by_K = jnp.where(norms_K > 0, norms_K, jnp.inf)
    cosines_KxK = gram_KxK / by_K[:, None] / by_K[None, :]
    added_KxK = _projections(cosines_KxK, order_key)
    return 1 + jnp.sum(norms_K[:, None] * added_KxK, axis=0) / by_K, state

  return Weighting(lambda num_tasks: own_key(key), update, 'pcgrad')


def _projections(cosines_KxK: jax.Array, key: jax.Array) -> jax.Array:
  """What every unit row (first axis) adds of the others; zero diagonal."""
  num_tasks = len(cosines_KxK)

  def project(task, order_K):
    own_K = jax.nn.one_hot(task, num_tasks)

    def meet(added_K, other):
      inner = jnp.sum((own_K + added_K) * cosines_KxK[other])
      conflict = (inner < 0) & (other != task)
      return added_K.at[other].add(jnp.where(conflict, -inner, 0.0)), None

    return jax.lax.scan(meet, jnp.zeros_like(own_K), order_K)[0]

  orders_KxK = jnp.argsort(jax.random.uniform(key, cosines_KxK.shape))
  return jax.vmap(project)(jnp.arange(num_tasks), orders_KxK)


class GradVacState(NamedTuple):
  """State of `gradvac`.

  Attributes:
    targets_KxK: the moving averages of cosines, by projected and met task.
    key: for the next orders.
  """

  targets_KxK: jax.Array
  key: jax.Array


def gradvac(beta: float = 0.01, key: jax.Array | None = None) -> Weighting:
  r"""Turns gradients towards each other up to their usual cosine (GradVac).

  Task i's gradient :math:`\hat g_i` meets the others in random order. Where its
  cosine :math:`\phi` with task j is below the moving average
  :math:`\hat\phi_{ij}`, it gets as much of task j's as brings it there:

  .. math::
    \hat g_i \leftarrow \hat g_i + \frac{\|\hat g_i\| (\hat\phi_{ij}
      \sqrt{1 - \phi^2} - \phi \sqrt{1 - \hat\phi_{ij}^2})}
      {\|g_j\| \sqrt{1 - \hat\phi_{ij}^2}}\, g_j, \qquad
    \hat\phi_{ij} \leftarrow (1 - \beta) \hat\phi_{ij} + \beta \phi

  From averages of 0, so that the first update is that of `pcgrad`.

  .. warning:: Averages count as at most 0.9999, where the formula divides by 0.

  Args:
    beta: the share of the newest cosine.
    key: a PRNG key for the orders; None is `jax.random.key(0)`. It is kept in
      the state and changes at every update.

  References:
    Wang et al., Gradient Vaccine: Investigating and Improving Multi-task
    Optimization in Massively Multilingual Models, 2020, arXiv:2010.05874

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.gradvac()
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = weighting.update(gram_KxK, weighting.init(2))
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['2.2222', '1.5789']
  """

  def init(num_tasks):
    return GradVacState(jnp.zeros((num_tasks, num_tasks)), own_key(key))

  def update(gram_KxK, state, **extras):
    del extras
    new_key, order_key = jax.random.split(state.key)
    norms_K, by_K, cosines_KxK = unit_rows(gram_KxK)
    orders_KxK = jnp.argsort(jax.random.uniform(order_key, gram_KxK.shape))
    turn = jax.vmap(_turned, in_axes=(None, 0, 0, 0, None))
    added_KxK, targets_KxK = turn(
        cosines_KxK, jnp.arange(len(norms_K)), orders_KxK, state.targets_KxK,
        beta,
    )
    weights_K = 1 + dot(norms_K, added_KxK) / by_K
    return weights_K, GradVacState(targets_KxK, new_key)

  return Weighting(init, update, 'gradvac')


def _turned(
    cosines_KxK: jax.Array,
    task: jax.Array,
    order_K: jax.Array,
    targets_K: jax.Array,
    beta: float,
) -> tuple[jax.Array, jax.Array]:
  """What one unit row adds of the others, and its new targets."""
  own_K = jax.nn.one_hot(task, len(order_K))
  present_K = jnp.diag(cosines_KxK) > 0

  def meet(carry, other):
    added_K, targets_K = carry
    inner_K = dot(cosines_KxK, own_K + added_K)
    length_sq = dot(inner_K, own_K + added_K)
    counts = (other != task) & present_K[other] & (length_sq > 1e-12)
    length = jnp.sqrt(jnp.where(counts, length_sq, 1.0))
    cosine = jnp.clip(inner_K[other] / length, -1.0, 1.0)
    target = jnp.clip(targets_K[other], -0.9999, 0.9999)
    rest = jnp.sqrt(1 - target**2)
    missing = target * jnp.sqrt(1 - cosine**2) / rest - cosine
    missing = jnp.where(counts & (cosine < target), length * missing, 0.0)
    moved = jnp.where(counts, beta * (cosine - targets_K[other]), 0.0)
    return (
        added_K.at[other].add(missing),
        targets_K.at[other].add(moved),
    ), None

  start = (jnp.zeros_like(own_K), targets_K)
  return jax.lax.scan(meet, start, order_K)[0]
