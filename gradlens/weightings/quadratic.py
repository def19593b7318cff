"""Weightings that solve a small quadratic program."""

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings import solvers
from gradlens.weightings.fixed import stateless


def mgda() -> Weighting:
  r"""The shortest vector in the convex hull of the gradients (MGDA).

  .. math:: w = \arg\min_{w \ge 0,\ 1^\top w = 1} w^\top G w

  .. warning:: A task whose gradient is zero is left out. By the formula it
    would have all the weight and stop the update; in reinforcement learning it
    only had no signal in this batch.

  References:
    Desideri, Multiple-gradient Descent Algorithm, 2012; Sener and Koltun,
    Multi-Task Learning as Multi-Objective Optimization, 2018, arXiv:1810.04650

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.mgda().update(gram_KxK, ())
  >>> print(jnp.array_str(weights_K, precision=4))
  [0.6 0.4]
  """

  def weigh(gram_KxK):
    units = solvers.unit_rows(gram_KxK)
    present_K = units.norms_K > 0
    # z minimizes z'Gz / 2 - 1'z over z >= 0 and is the solution but for its
    # sum; over rows of length 1, the 1 becomes 1 / length.
    shortest = jnp.min(units.by_K)
    shortest = jnp.where(jnp.isfinite(shortest), shortest, 1.0)
    q_K = -jnp.where(present_K, shortest / units.by_K, 0.0)
    z_K = solvers.complementary(units.cosines_KxK, q_K[None])[0]
    z_K = jnp.where(present_K, z_K * shortest / units.by_K, 0.0)
    total = jnp.sum(z_K)
    found = total > 0
    return jnp.where(
        found, z_K / jnp.where(found, total, 1.0), 1 / len(gram_KxK)
    )

  return stateless(weigh, 'mgda')


def upgrad(reg_eps: float = 0.0) -> Weighting:
  r"""Projects each gradient onto the dual cone, and averages (UPGrad).

  .. math:: w = \sum_i \arg\min_{v \ge u_i e_i} v^\top G v, \qquad u_i = 1 / K

  The update conflicts with no task, and a task's part grows linearly with its
  gradient.

  Args:
    reg_eps: solve for :math:`G / \operatorname{tr} G + \epsilon I` instead; 0
      is exact.

  Raises:
    ValueError: if `reg_eps` is negative.

  References:
    Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024,
    arXiv:2406.16232

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.upgrad().update(gram_KxK, ())
  >>> print(jnp.array_str(weights_K, precision=4))
  [1.1111 0.7895]
  """
  _check_reg_eps(reg_eps)

  def weigh(gram_KxK):
    num_tasks = len(gram_KxK)
    units = solvers.unit_rows(_regularized(gram_KxK, reg_eps))
    # In lengths x = v |g|, and with what x exceeds its bound by as the unknown,
    # program i has q = u_i |g_i| C_i: one matrix, K right-hand sides.
    z_KxK = solvers.complementary(units.cosines_KxK, units.cosines_KxK)
    lengths_K = units.norms_K / num_tasks
    over_K = jnp.sum(lengths_K[:, None] * z_KxK, axis=0)
    return jnp.where(
        units.norms_K > 0, 1 / num_tasks + over_K / units.by_K, 0.0
    )

  return stateless(weigh, 'upgrad')


def dual_proj(reg_eps: float = 0.0) -> Weighting:
  r"""Projects the average gradient onto the dual cone.

  .. math:: w = \arg\min_{v \ge u} v^\top G v, \qquad u = 1 / K

  The nearest update to the average that conflicts with no task.

  Args:
    reg_eps: solve for :math:`G / \operatorname{tr} G + \epsilon I` instead; 0
      is exact.

  Raises:
    ValueError: if `reg_eps` is negative.

  References:
    Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning,
    2017, arXiv:1706.08840

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.dual_proj().update(gram_KxK, ())
  >>> print(jnp.array_str(weights_K, precision=4))
  [0.6111 0.5   ]
  """
  _check_reg_eps(reg_eps)

  def weigh(gram_KxK):
    num_tasks = len(gram_KxK)
    units = solvers.unit_rows(_regularized(gram_KxK, reg_eps))
    longest = jnp.max(units.norms_K)
    scale = jnp.where(longest > 0, longest, 1.0)
    bound_K = units.norms_K / scale
    q_K = solvers.dot(units.cosines_KxK, bound_K)
    z_K = solvers.complementary(units.cosines_KxK, q_K[None])[0]
    over_K = z_K * scale / units.by_K
    return jnp.where(units.norms_K > 0, (1 + over_K) / num_tasks, 0.0)

  return stateless(weigh, 'dual_proj')


def cagrad(c: float = 0.5) -> Weighting:
  r"""The update near the average that helps the worst task most (CAGrad).

  It maximizes the smallest :math:`\langle g_i, d \rangle` within a ball around
  the average :math:`g_0`:

  .. math::
    w^* &= \arg\min_{w \ge 0,\ 1^\top w = 1}
      w^\top G u + c \|g_0\| \sqrt{w^\top G w}, \qquad u = 1 / K \\
    w &= u + \frac{c \|g_0\|}{\sqrt{w^{*\top} G w^*}} w^*

  Args:
    c: the radius of the ball, in lengths of the average; 0 is `mean`, and from
      1 on the update may turn away from it.

  Raises:
    ValueError: if `c` is negative.

  References:
    Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, 2021,
    arXiv:2110.14048

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.cagrad().update(gram_KxK, ())
  >>> print(jnp.array_str(weights_K, precision=4))
  [0.7041 0.5   ]
  """
  if c < 0:
    raise ValueError(f'c={c} must not be negative')

  def weigh(gram_KxK):
    num_tasks = len(gram_KxK)
    units = solvers.unit_rows(gram_KxK)
    present_K = units.norms_K > 0
    longest = jnp.max(units.norms_K)
    scale = jnp.where(longest > 0, longest, 1.0)
    mean_K = units.norms_K / scale / num_tasks
    # z = (c |g0| / |g_w|) w is nonnegative and complementary to
    # G u + G z - level: on the path of falling levels, the point of length
    # c |g0|. The constraint's row of ones becomes 1 / length.
    ones_K = jnp.where(present_K, jnp.min(units.by_K) / units.by_K, 0.0)
    along_K = solvers.dot(units.cosines_KxK, mean_K)
    radius = c * jnp.sqrt(jnp.maximum(jnp.sum(mean_K * along_K), 0.0))
    z_K = solvers.of_length(units.cosines_KxK, along_K, ones_K, radius)
    return jnp.where(present_K, 1 / num_tasks + z_K * scale / units.by_K, 0.0)

  return stateless(weigh, 'cagrad')


def _check_reg_eps(reg_eps: float) -> None:
  if reg_eps < 0:
    raise ValueError(f'reg_eps={reg_eps} must not be negative')


def _regularized(gram_KxK: jax.Array, reg_eps: float) -> jax.Array:
  if reg_eps == 0:
    return gram_KxK
  trace = jnp.trace(gram_KxK)
  trace = jnp.where(trace > 0, trace, 1.0)
  return gram_KxK / trace + reg_eps * jnp.eye(len(gram_KxK))
