"""Weightings: from the tasks' Gram matrix to one weight per task.

Each is a few lines of algebra on `gram_KxK`. Every one is finite for gradients
of any scale between 1e-10 and 1e10, for zero, equal and dependent gradients.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from gradlens.types import Weighting


def stateless(
    weigh: Callable[[jax.Array], jax.Array], name: str = 'stateless'
) -> Weighting:
  """A weighting without state, from a function of the Gram matrix alone.

  Args:
    weigh: `weigh(gram_KxK) -> weights_K`, jittable.
    name: its name in messages.

  Returns:
    A `Weighting` whose state is `()`.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> mine = gl.stateless(lambda gram_KxK: 1 / jnp.sqrt(jnp.diag(gram_KxK)))
  >>> print(mine.update(jnp.diag(jnp.array([4., 25.])), mine.init(2))[0])
  [0.5 0.2]
  """

  def update(gram_KxK, state, **extras):
    del extras
    return weigh(gram_KxK), state

  return Weighting(lambda num_tasks: (), update, name)


def total() -> Weighting:
  """The sum of the contributions: all weights 1, the uncorrected update.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.total().update(jnp.eye(3), ())[0])
  [1. 1. 1.]
  """
  return stateless(lambda gram_KxK: jnp.ones(len(gram_KxK)), 'total')


def mean() -> Weighting:
  """The average of the contributions: all weights 1/K.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.mean().update(jnp.eye(4), ())[0])
  [0.25 0.25 0.25 0.25]
  """
  return stateless(
      lambda gram_KxK: jnp.full(len(gram_KxK), 1 / len(gram_KxK)), 'mean'
  )


def constant(weights: Sequence[float]) -> Weighting:
  """Weights given once, one per task.

  Args:
    weights: K numbers.

  Raises:
    ValueError: when initialized for another number of tasks.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.constant([0.5, 2.]).update(jnp.eye(2), ())[0])
  [0.5 2. ]
  """
  weights = tuple(float(weight) for weight in weights)

  def init(num_tasks):
    if num_tasks != len(weights):
      raise ValueError(
          f'constant() has {len(weights)} weights for {num_tasks} tasks'
      )
    return ()

  def update(gram_KxK, state, **extras):
    del gram_KxK, extras
    return jnp.array(weights, jnp.float32), state

  return Weighting(init, update, 'constant')


def equalize_norms(target: str = 'unit') -> Weighting:
  r"""Gives every task's gradient the same length before they are averaged.

  .. math:: w_k = \frac{\tau}{K \sqrt{G_{kk}}}

  Args:
    target: the common length :math:`\tau`: `'unit'` is 1; `'min'`, `'mean'`,
      `'median'`, `'geometric'` (mean) and `'max'` are taken over the lengths of
      the tasks whose gradient is not zero. A task with a zero gradient has
      weight 1/K.

  Raises:
    ValueError: if the target is unknown.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.diag(jnp.array([4., 100.]))
  >>> print(gl.equalize_norms('min').update(gram_KxK, ())[0])
  [0.5 0.1]
  """
  if target not in _LENGTHS:
    raise ValueError(f'target={target!r}; use one of {", ".join(_LENGTHS)}')

  def weigh(gram_KxK):
    norms_sq_K = jnp.diag(gram_KxK)
    present_K = norms_sq_K > 0
    norms_K = jnp.sqrt(jnp.where(present_K, norms_sq_K, 1.0))
    length = _LENGTHS[target](norms_K, present_K)
    return jnp.where(present_K, length / norms_K, 1.0) / len(gram_KxK)

  return stateless(weigh, 'equalize_norms')


def _mean_present(values_K: jax.Array, present_K: jax.Array) -> jax.Array:
  count = jnp.maximum(present_K.sum(), 1)
  return jnp.sum(values_K, where=present_K) / count


def _median_present(norms_K: jax.Array, present_K: jax.Array) -> jax.Array:
  # The absent sort behind the present, whose number is not known when traced.
  ranked_K = jnp.sort(jnp.where(present_K, norms_K, jnp.inf))
  last = jnp.maximum(present_K.sum(), 1) - 1
  return (ranked_K[last // 2] + ranked_K[(last + 1) // 2]) / 2


_LENGTHS = {
    'unit': lambda norms_K, present_K: 1.0,
    'min': lambda norms_K, present_K: jnp.min(
        norms_K, initial=jnp.inf, where=present_K
    ),
    'mean': _mean_present,
    'median': _median_present,
    'geometric': lambda norms_K, present_K: jnp.exp(
        _mean_present(jnp.log(norms_K), present_K)
    ),
    'max': lambda norms_K, present_K: jnp.max(
        norms_K, initial=0.0, where=present_K
    ),
}


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
