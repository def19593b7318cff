"""Weightings that solve an equation between gains: fair bargaining."""

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings import solvers
from gradlens.weightings.fixed import stateless

# Cosines get this much on the diagonal: where gradients oppose each other
# there is no solution, and the weights would grow without end.
_FLOOR = 1e-6


def nash_mtl(max_norm: float | None = 1.0) -> Weighting:
  r"""The Nash bargaining solution: a task's gain is the inverse of its weight.

  .. math:: G a = 1 / a, \quad a > 0, \qquad
    w = a \min\Big(1, \frac{\text{max\_norm}}{\sqrt{a^\top G a}}\Big)

  Solved by a fixed number of damped Newton steps on
  :math:`a^\top G a / 2 - \sum_i \log a_i`, which is convex.

  Args:
    max_norm: the longest update, as in the authors' code; None leaves its
      length at :math:`\sqrt K`.

  Raises:
    ValueError: if `max_norm` is not positive.

  References:
    Navon et al., Multi-Task Learning as a Bargaining Game, 2022,
    arXiv:2202.01017

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.nash_mtl(max_norm=None).update(gram_KxK, ())
  >>> print(jnp.array_str(weights_K, precision=4))
  [0.5915 0.4071]
  """
  if max_norm is not None and max_norm <= 0:
    raise ValueError(f'max_norm={max_norm} must be positive, or None')

  def weigh(gram_KxK):
    units = solvers.unit_rows(gram_KxK)
    b_K = _bargain(units.cosines_KxK, jnp.ones(len(gram_KxK)), 1.0)
    weights_K = jnp.where(units.norms_K > 0, b_K / units.by_K, 0.0)
    if max_norm is None:
      return weights_K
    along_K = solvers.dot(units.cosines_KxK, b_K)
    length = jnp.sqrt(jnp.maximum(jnp.sum(b_K * along_K), 0.0))
    return weights_K * max_norm / jnp.maximum(length, max_norm)

  return stateless(weigh, 'nash_mtl')


def fairgrad(alpha: float = 1.0) -> Weighting:
  r"""Alpha-fair gains of all tasks (FairGrad).

  .. math:: G a = a^{-1 / \alpha}, \quad a > 0, \qquad w = a

  Args:
    alpha: 1 is proportional fairness, the Nash bargaining solution; larger
      values favor the task that gains least.

  Raises:
    ValueError: if `alpha` is not positive.

  References:
    Ban and Ji, Fair Resource Allocation in Multi-Task Learning, 2024,
    arXiv:2402.15638

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.fairgrad().update(gram_KxK, ())
  >>> print(jnp.array_str(weights_K, precision=4))
  [0.5915 0.4071]
  """
  if alpha <= 0:
    raise ValueError(f'alpha={alpha} must be positive')
  power = 1 / alpha

  def weigh(gram_KxK):
    units = solvers.unit_rows(gram_KxK)
    present_K = units.norms_K > 0
    # In b = a |g| the equation is C b = s b^-power with s = |g|^(power - 1);
    # b = t c takes the largest s out of it.
    logs_K = (power - 1) * jnp.log(jnp.where(present_K, units.norms_K, 1.0))
    largest = jnp.max(jnp.where(present_K, logs_K, -jnp.inf))
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    s_K = jnp.where(present_K, jnp.exp(logs_K - largest), 1.0)
    c_K = _bargain(units.cosines_KxK, s_K, power)
    weights_K = jnp.exp(largest / (power + 1)) * c_K / units.by_K
    return jnp.where(present_K, weights_K, 0.0)

  return stateless(weigh, 'fairgrad')


def _bargain(
    cosines_KxK: jax.Array, s_K: jax.Array, power: float
) -> jax.Array:
  """The positive solution of `C b = s b^-power`, by Newton's method."""
  num_tasks = len(s_K)
  lone_K = jnp.diag(cosines_KxK) == 0
  matrix_KxK = cosines_KxK + jnp.diag(jnp.where(lone_K, 1.0, _FLOOR))

  def step(_, b_K):
    pull_K = s_K * b_K**-power
    gradient_K = solvers.dot(matrix_KxK, b_K) - pull_K
    # In units of b, so that the matrix is well scaled: D (H D e + ...) = ...
    hessian_KxK = b_K[:, None] * matrix_KxK * b_K[None, :]
    hessian_KxK = hessian_KxK + jnp.diag(power * pull_K * b_K)
    norms_K = jnp.sqrt(jnp.diag(hessian_KxK))
    scaled_KxK = hessian_KxK / norms_K[:, None] / norms_K[None, :]
    factor_KxK = jnp.linalg.cholesky(scaled_KxK)
    right_K = -b_K * gradient_K / norms_K
    relative_K = jax.scipy.linalg.cho_solve((factor_KxK, True), right_K)
    decrement = jnp.sqrt(jnp.maximum(jnp.sum(relative_K * right_K), 0.0))
    relative_K = relative_K / norms_K
    # Damped as for a self-concordant function, and never across the boundary.
    size = jnp.where(decrement > 0.25, 1 / (1 + decrement), 1.0)
    size = jnp.minimum(size, 0.9 / jnp.maximum(-jnp.min(relative_K), 0.9))
    new_K = b_K * (1 + size * relative_K)
    return jnp.where(jnp.isfinite(new_K).all() & (new_K > 0).all(), new_K, b_K)

  # Without the off-diagonal the solution is s^(1 / (1 + power)).
  start_K = s_K ** (1 / (1 + power)) / jnp.sqrt(num_tasks)
  return jax.lax.fori_loop(0, 40, step, start_K)
