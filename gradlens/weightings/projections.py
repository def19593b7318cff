"""Weightings that project gradients off each other, in random order."""

import jax
import jax.numpy as jnp

from gradlens.types import Weighting


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

  def init(num_tasks):
    del num_tasks
    # A copy: a training step may donate the state, and the key with it.
    return jax.random.key(0) if key is None else jnp.copy(key)

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

  return Weighting(init, update, 'pcgrad')


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
