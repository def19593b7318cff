"""Weightings that project gradients off each other, in random order."""

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings import solvers


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


def gradvac(beta: float = 0.01, key: jax.Array | None = None) -> Weighting:
  r"""Turns every gradient to a running mean of its cosines (GradVac).

  As `pcgrad`, but gradient i gives way to j wherever their cosine is below its
  exponential moving average :math:`\hat\phi_{ij}`, and until it has reached it:

  .. math::
    g_i &\leftarrow g_i + \frac{\|g_i\| \big(\hat\phi_{ij} \sqrt{1 - \phi^2}
      - \phi \sqrt{1 - \hat\phi_{ij}^2}\big)}
      {\|g_j\| \sqrt{1 - \hat\phi_{ij}^2}} g_j \\
    \hat\phi_{ij} &\leftarrow (1 - \beta) \hat\phi_{ij} + \beta \phi

  with :math:`\hat\phi = 0` at first.

  Args:
    beta: of the moving average, between 0 and 1.
    key: a PRNG key for the orders; None is `jax.random.key(0)`.

  Raises:
    ValueError: if `beta` is outside [0, 1].

  References:
    Wang et al., Gradient Vaccine, 2021, arXiv:2010.05874

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.gradvac()
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = weighting.update(gram_KxK, weighting.init(2))
  >>> print(jnp.array_str(weights_K, precision=4))
  [2.2222 1.5789]
  """
  if not 0 <= beta <= 1:
    raise ValueError(f'beta={beta} must be between 0 and 1')

  def init(num_tasks):
    means_KxK = jnp.zeros((num_tasks, num_tasks), jnp.float32)
    return means_KxK, jax.random.key(0) if key is None else jnp.copy(key)

  def update(gram_KxK, state, **extras):
    del extras
    means_KxK, key = state
    key, order_key = jax.random.split(key)
    num_tasks = len(gram_KxK)
    units = solvers.unit_rows(gram_KxK)
    present_K = units.norms_K > 0

    def turn(task, own_means_K, order_K):
      def meet(carry, other):
        own_K, mean_K = carry
        along_K = solvers.dot(units.cosines_KxK, own_K)
        length = jnp.sqrt(jnp.maximum(jnp.sum(own_K * along_K), 0.0))
        cosine = along_K[other] / jnp.where(length > 0, length, 1.0)
        cosine = jnp.clip(cosine, -1.0, 1.0)
        mean = mean_K[other]
        meets = (other != task) & present_K[other] & present_K[task]
        sine, mean_sine = (
            jnp.sqrt(jnp.maximum(1 - x * x, 0.0)) for x in (cosine, mean)
        )
        added = length * (mean * sine / jnp.maximum(mean_sine, 1e-6) - cosine)
        added = jnp.where(meets & (cosine < mean), added, 0.0)
        moved = jnp.where(meets, mean + beta * (cosine - mean), mean)
        return (own_K.at[other].add(added), mean_K.at[other].set(moved)), None

      start = jax.nn.one_hot(task, num_tasks), own_means_K
      return jax.lax.scan(meet, start, order_K)[0]

    orders_KxK = jnp.argsort(jax.random.uniform(order_key, gram_KxK.shape))
    turned_KxK, means_KxK = jax.vmap(turn)(
        jnp.arange(num_tasks), means_KxK, orders_KxK
    )
    # Back from unit rows: what i adds of j, in lengths of i over those of j.
    added_KxK = turned_KxK - jnp.eye(num_tasks)
    weights_K = 1 + jnp.sum(
        units.norms_K[:, None] * added_KxK, axis=0
    ) / units.by_K
    return weights_K, (means_KxK, key)

  return Weighting(init, update, 'gradvac')
