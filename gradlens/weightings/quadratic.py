"""Weightings that solve a quadratic program over the tasks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.base import preferring, stateless
from gradlens.weightings.solvers import (
    DELTA,
    TINY,
    complementary,
    cover,
    dot,
    follow,
    solve_on,
    start,
    unit_rows,
)


def mgda() -> Weighting:
  r"""The shortest convex combination of the gradients (MGDA).

  .. math:: w = \arg\min_{w \ge 0,\ \sum_k w_k = 1} w^\top G w

  Normalized, it is the solution over :math:`w \ge 0` of the same with
  :math:`(\sum_k w_k - 1)^2` added. A zero gradient takes all the weight.

  Returns:
    A `Weighting` with weights that sum to 1.

  References:
    Desideri, Multiple-gradient Descent Algorithm (MGDA) for Multiobjective
    Optimization, 2012
    Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization,
    2018, arXiv:1810.04650

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.mgda().update(gram_KxK, ())
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.6000', '0.4000']
  """

  def weigh(gram_KxK):
    norms_K, by_K, cosines_KxK = unit_rows(gram_KxK)
    shortest = jnp.min(by_K)
    share_K = jnp.where(norms_K > 0, shortest / by_K, 0.0)
    matrix_KxK = cosines_KxK + share_K[:, None] * share_K[None, :]
    on_units_K = complementary(matrix_KxK, -share_K[None, :])[0]
    weights_K = on_units_K * share_K
    weights_K /= jnp.maximum(jnp.sum(weights_K), TINY)
    zero_K = norms_K == 0
    num_zero = jnp.maximum(jnp.sum(zero_K), 1)
    return jnp.where(jnp.any(zero_K), zero_K / num_zero, weights_K)

  return stateless(weigh, 'mgda')


def upgrad(
    pref: Sequence[float] | None = None, reg_eps: float = 0.0
) -> Weighting:
  r"""Projects every gradient on the cone of updates without conflict (UPGrad).

  .. math:: w = \sum_i \arg\min_{v \ge u_i e_i} v^\top G v

  The update has no negative inner product with any task gradient, up to
  rounding. Gradients are brought to unit length first, where each projection
  is the same problem, so that scales are of no account.

  Args:
    pref: u; None is 1/K for all.
    reg_eps: solves for `G / trace(G) + reg_eps * I` instead, as TorchJD does
      with 1e-4; 0 is exact.

  Raises:
    ValueError: when initialized for another number of tasks.

  References:
    Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024,
    arXiv:2406.16232

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.upgrad().update(gram_KxK, ())
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['1.1111', '0.7895']
  """

  def weigh(gram_KxK, pref_K):
    norms_K, by_K, cosines_KxK = unit_rows(_regularized(gram_KxK, reg_eps))
    added_KxK = complementary(cosines_KxK, cosines_KxK)
    return pref_K + dot(pref_K * norms_K, added_KxK) / by_K

  return preferring(weigh, pref, 'upgrad')


def dual_proj(
    pref: Sequence[float] | None = None, reg_eps: float = 0.0
) -> Weighting:
  r"""Projects the mean on the cone of updates without conflict (DualProj).

  .. math:: w = \arg\min_{v \ge u} v^\top G v

  Args:
    pref: u; None is 1/K for all.
    reg_eps: as for `upgrad`.

  Raises:
    ValueError: when initialized for another number of tasks.

  References:
    Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning,
    2017, arXiv:1706.08840

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.dual_proj().update(gram_KxK, ())
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.6111', '0.5000']
  """

  def weigh(gram_KxK, pref_K):
    norms_K, by_K, cosines_KxK = unit_rows(_regularized(gram_KxK, reg_eps))
    lengths_K = pref_K * norms_K
    longest = jnp.maximum(jnp.max(jnp.abs(lengths_K)), TINY)
    q_K = dot(cosines_KxK, lengths_K / longest)
    added_K = complementary(cosines_KxK, q_K[None, :])[0]
    return pref_K + added_K * (longest / by_K)

  return preferring(weigh, pref, 'dual_proj')


def cagrad(c: float = 0.5, pref: Sequence[float] | None = None) -> Weighting:
  r"""The best worst-case progress within a ball around the mean (CAGrad).

  With :math:`g_0` the mean and :math:`d_w = \sum_k w_k g_k`:

  .. math::
    w^* = \arg\min_{w \ge 0,\ \sum_k w_k = 1} w^\top G u
      + c \|g_0\| \sqrt{w^\top G w}, \qquad
    \text{weights } u + \frac{c \|g_0\|}{\|d_{w^*}\|} w^*

  These weights minimize :math:`z^\top G z` over :math:`z \ge u` with
  :math:`z - u` of length :math:`c \|g_0\|`, and are found on the path of that
  problem over the progress of the task that is worst off.

  .. warning:: The paper's experiments divide by :math:`1 + c^2`; this does not.

  Args:
    c: the radius of the ball over the length of the mean, in [0, 1).
    pref: u; None is 1/K for all.

  Raises:
    ValueError: if c is out of range; when initialized for another number of
      tasks.

  References:
    Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, 2021,
    arXiv:2110.14048

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.cagrad().update(gram_KxK, ())
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.7041', '0.5000']
  """
  if not 0 <= c < 1:
    raise ValueError(f'c={c} must be in [0, 1)')

  def weigh(gram_KxK, pref_K):
    norms_K, by_K, cosines_KxK = unit_rows(gram_KxK)
    lengths_K = pref_K * norms_K
    longest = jnp.maximum(jnp.max(jnp.abs(lengths_K)), TINY)
    lengths_K /= longest
    inner_K = dot(cosines_KxK, lengths_K)
    mean_sq = dot(lengths_K, inner_K)
    # Below rounding the mean is 0, and so is the ball.
    known = mean_sq > 1e-7 * jnp.sum(jnp.abs(lengths_K)) ** 2
    mean_norm = jnp.sqrt(jnp.where(known, mean_sq, 1.0))
    share_K = jnp.where(norms_K > 0, jnp.min(by_K) / by_K, 0.0)
    added_K = _in_ball(cosines_KxK, inner_K / mean_norm, share_K, c)
    added_K = jnp.where(known, added_K * mean_norm, 0.0)
    return pref_K + added_K * (longest / by_K)

  return preferring(weigh, pref, 'cagrad')


def _in_ball(
    cosines_KxK: jax.Array, q_K: jax.Array, share_K: jax.Array, radius: float
) -> jax.Array:
  """`z >= 0` of length `radius`, best against `q + parameter * share`."""
  num_tasks = len(q_K)

  def length_sq(z_K):
    return dot(z_K, dot(cosines_KxK, z_K))

  # A share of 0 would leave rows outside that no parameter lets in again.
  path = start(
      cosines_KxK + DELTA * jnp.eye(num_tasks),
      q_K,
      share_K + 1e-6 * cover(num_tasks),
  )
  path = follow(
      path,
      num_tasks + num_tasks // 2 + 8,
      end=-2.0 - radius,
      goes_on=lambda z_K: length_sq(z_K) < radius**2,
  )
  fixed_K, slope_K = solve_on(
      cosines_KxK, path.basic_K, jnp.stack([-q_K, -share_K]), 2
  )
  # |fixed + parameter * slope| = radius, on the branch where the length grows.
  square = jnp.maximum(length_sq(slope_K), TINY)
  half = dot(fixed_K, dot(cosines_KxK, slope_K)) / square
  rest = (length_sq(fixed_K) - radius**2) / square
  parameter = -half - jnp.sqrt(jnp.maximum(half**2 - rest, 0.0))
  z_K = jnp.maximum(fixed_K + parameter * slope_K, 0.0)
  length = jnp.sqrt(jnp.maximum(length_sq(z_K), 0.0))
  z_K *= jnp.where(length > 0, radius / jnp.where(length > 0, length, 1.0), 0.0)
  return jnp.where(jnp.isfinite(z_K), z_K, 0.0)


def _regularized(gram_KxK: jax.Array, reg_eps: float) -> jax.Array:
  if reg_eps == 0:
    return gram_KxK
  trace = jnp.maximum(jnp.trace(gram_KxK), TINY)
  return gram_KxK / trace + reg_eps * jnp.eye(len(gram_KxK))
