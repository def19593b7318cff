"""Small solvers that the weightings share, in float32 with fixed counts.

A quadratic program over the tasks is a linear complementarity problem: find
`z >= 0` with `w = q + H z >= 0` and `z w = 0`. Rows are unit vectors here, so
`H` holds cosines and the lengths are in `q`: nothing overflows, whatever the
scales.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST
# The least number to divide by.
TINY = 1e-30
NEWTON_STEPS = 30
# A row whose distance from the span of others, squared, is below this is held
# for dependent while pivoting: cosines are known to 1e-7 only.
DEPENDENT = 2e-5
# Added to the diagonal, so that no pivot is 0.
DELTA = 1e-7


class Units(NamedTuple):
  """The unit vectors of the rows.

  Attributes:
    norms_K: lengths; 0 for a row without one.
    by_K: the same to divide by; infinity for a row without length.
    cosines_KxK: positive semi-definite, with zeros where a row has no length.
  """

  norms_K: jax.Array
  by_K: jax.Array
  cosines_KxK: jax.Array


def dot(left: jax.Array, right: jax.Array) -> jax.Array:
  """A product in full float32, on every platform."""
  return jnp.dot(left, right, precision=HIGHEST)


def norms(gram_KxK: jax.Array) -> jax.Array:
  """Lengths of the rows; a squared length below 0 counts as 0."""
  return jnp.sqrt(jnp.maximum(jnp.diag(gram_KxK), 0.0))


def unit_rows(gram_KxK: jax.Array) -> Units:
  """Lengths and cosines; an indefinite matrix of cosines is made definite."""
  norms_K = norms(gram_KxK)
  by_K = jnp.where(norms_K > 0, norms_K, jnp.inf)
  cosines_KxK = gram_KxK / by_K[:, None] / by_K[None, :]
  # Negative by rounding is left alone: the projection rounds as well.
  rounding_KxK = 1e-6 * len(gram_KxK) * jnp.eye(len(gram_KxK))
  factor_KxK = jnp.linalg.cholesky(cosines_KxK + rounding_KxK)
  definite = jnp.all(jnp.isfinite(factor_KxK))
  cosines_KxK = jax.lax.cond(definite, lambda x: x, nearest, cosines_KxK)
  return Units(norms_K, by_K, cosines_KxK)


def nearest(matrix_KxK: jax.Array) -> jax.Array:
  """The nearest positive semi-definite matrix."""
  values_K, vectors_KxK = jnp.linalg.eigh(matrix_KxK)
  values_K = jnp.maximum(values_K, 0.0)
  return dot(vectors_KxK * values_K[None, :], vectors_KxK.T)


class Path(NamedTuple):
  """A principal pivoting: which variables are basic, at which parameter.

  Attributes:
    table_KxK: basic by nonbasic variables; `z_i` is basic where `basic_K`.
    basic_K: whether `z_i` (rather than `w_i`) is basic.
    fixed_K: values of the basic variables for `q` alone.
    slope_K: what `parameter` adds to them.
    parameter: of `q + parameter * cover`, where the path stands.
  """

  table_KxK: jax.Array
  basic_K: jax.Array
  fixed_K: jax.Array
  slope_K: jax.Array
  parameter: jax.Array


def cover(num_tasks: int) -> jax.Array:
  """Positive numbers, all different: equal rows meet 0 one by one."""
  return 1 + jnp.arange(num_tasks) / num_tasks


def start(matrix_KxK: jax.Array, q_K: jax.Array, cover_K: jax.Array) -> Path:
  """The path at an infinite parameter, where `z = 0`; `cover_K > 0`."""
  nothing_K = jnp.zeros(len(q_K), bool)
  return Path(matrix_KxK, nothing_K, q_K, cover_K, jnp.inf)


def follow(
    path: Path,
    num_pivots: int,
    end: float = 3e-6,
    goes_on: Callable[[jax.Array], jax.Array] | None = None,
) -> Path:
  """Lowers the parameter to `end`, pivoting where a basic variable meets 0.

  A row that depends on the basic ones cannot join them: it takes the place of
  the one that first falls to 0 along the dependence, in two pivots.

  Args:
    path: from `start`.
    num_pivots: at most; the count is fixed, so that the time is.
    end: the last parameter.
    goes_on: `goes_on(z_K) -> bool`, whether to pivot at this `z_K`.
  """
  indices_K = jnp.arange(len(path.basic_K))

  def pivot(_, carry):
    path, second = carry
    table_KxK, basic_K, fixed_K, slope_K, parameter = path
    falls_K = slope_K > 1e-7
    meets_K = jnp.where(falls_K, -fixed_K / jnp.where(falls_K, slope_K, 1), end)
    first = jnp.argmax(meets_K)
    at = jnp.minimum(meets_K[first], parameter)
    go = at > end
    if goes_on is not None:
      go &= goes_on(jnp.where(basic_K, fixed_K + at * slope_K, 0.0))
    r, place = _leaves(path, first, at)
    forced = second >= 0
    r = jnp.where(forced, second, r)
    go |= forced
    own_K = (indices_K == r).astype(jnp.float32)
    scale = jnp.where(go, 1 / table_KxK[r, r], 0.0)
    # A principal pivot is an update of rank one.
    column_K = (table_KxK[:, r] + own_K) * scale
    row_K = table_KxK[r] - own_K
    path = Path(
        table_KxK - column_K[:, None] * row_K[None, :],
        basic_K ^ (go & (indices_K == r)),
        fixed_K - column_K * fixed_K[r],
        slope_K - column_K * slope_K[r],
        jnp.where(go & ~forced, at, parameter),
    )
    return path, jnp.where(go & ~forced & place, first, -1)

  return jax.lax.fori_loop(0, num_pivots, pivot, (path, -1))[0]


def _leaves(
    path: Path, entering: jax.Array, at: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Which variable to pivot first, and whether `entering` is to follow it."""
  column_K = path.table_KxK[:, entering]
  gives_K = path.basic_K & (column_K < -1e-3)
  values_K = jnp.maximum(path.fixed_K + at * path.slope_K, 0.0)
  ratios_K = jnp.where(
      gives_K, values_K / jnp.where(gives_K, -column_K, 1.0), jnp.inf
  )
  leaving = jnp.argmin(ratios_K)
  dependent = ~path.basic_K[entering] & (column_K[entering] < DEPENDENT)
  place = dependent & gives_K[leaving]
  return jnp.where(place, leaving, entering), place


def solve_on(
    matrix_KxK: jax.Array, basic_K: jax.Array, rhs_MxK: jax.Array, rounds: int
) -> jax.Array:
  """`H z = rhs` on the basic rows, 0 elsewhere, refined `rounds` times."""
  both_KxK = basic_K[:, None] & basic_K[None, :]
  shift_K = jnp.where(basic_K, DELTA, 1.0)
  kept_KxK = jnp.where(both_KxK, matrix_KxK, 0.0) + jnp.diag(shift_K)
  factor_KxK = jnp.linalg.cholesky(kept_KxK)

  def refine(_, z_MxK):
    rest_MxK = rhs_MxK - dot(z_MxK, matrix_KxK)
    rest_MxK = jnp.where(basic_K[None, :], rest_MxK, 0.0)
    step_KxM = jax.scipy.linalg.cho_solve((factor_KxK, True), rest_MxK.T)
    return z_MxK + step_KxM.T

  return jax.lax.fori_loop(0, rounds, refine, jnp.zeros_like(rhs_MxK))


def complementary(matrix_KxK: jax.Array, q_MxK: jax.Array) -> jax.Array:
  r"""Minimizes `z H z / 2 + q z` over `z >= 0`, for every `q` at once.

  Follows the path from `q + parameter * cover` down to `q`, and solves once
  more on the variables that are then not 0.

  Args:
    matrix_KxK: H, positive semi-definite, entries of order 1.
    q_MxK: entries of order 1; bounded below on the null space of H.

  Returns:
    `z_MxK`, finite and nonnegative.
  """
  num_tasks = len(matrix_KxK)
  definite_KxK = matrix_KxK + DELTA * jnp.eye(num_tasks)

  def z_of(path):
    return jnp.where(path.basic_K, jnp.maximum(path.fixed_K, 0.0), 0.0)

  def residual(z_K, q_K):
    w_K = q_K + dot(matrix_KxK, z_K)
    worst = jnp.max(jnp.abs(jnp.minimum(z_K, w_K)))
    return jnp.where(jnp.isfinite(worst), worst, jnp.inf)

  def one(q_K):
    path = start(definite_KxK, q_K, cover(num_tasks))
    path = follow(path, num_tasks + num_tasks // 2 + 8)
    plain_K = z_of(path)
    exact_K = solve_on(matrix_KxK, path.basic_K, -q_K[None, :], 4)[0]
    exact_K = jnp.maximum(exact_K, 0.0)
    better = residual(exact_K, q_K) < residual(plain_K, q_K)
    z_K = jnp.where(better, exact_K, plain_K)
    return jnp.where(jnp.isfinite(z_K), z_K, 0.0)

  return jax.vmap(one)(q_MxK)


def simplex(point_K: jax.Array) -> jax.Array:
  """The nearest point with nonnegative entries that sum to 1."""
  # The largest entry is 0, so that no length is lost beside it.
  point_K = point_K - jnp.max(point_K)
  ranked_K = jnp.sort(point_K, descending=True)
  counts_K = jnp.arange(1, len(point_K) + 1)
  levels_K = (jnp.cumsum(ranked_K) - 1) / counts_K
  last = jnp.sum(ranked_K > levels_K) - 1
  return jnp.maximum(point_K - levels_K[last], 0.0)


class Spectrum(NamedTuple):
  """Eigenvalues (1 where dropped), eigenvectors, and which are not 0."""

  values_K: jax.Array
  vectors_KxK: jax.Array
  kept_K: jax.Array


def spectrum(matrix_KxK: jax.Array, cut: float = 1e-6) -> Spectrum:
  """The eigenvalues above `cut` times the largest."""
  values_K, vectors_KxK = jnp.linalg.eigh(matrix_KxK)
  kept_K = values_K > jnp.maximum(cut * jnp.max(values_K), TINY)
  return Spectrum(jnp.where(kept_K, values_K, 1.0), vectors_KxK, kept_K)


def pseudo_inverse(matrix_KxK: jax.Array) -> jax.Array:
  """Of a positive semi-definite matrix."""
  values_K, vectors_KxK, kept_K = spectrum(matrix_KxK)
  inverse_K = jnp.where(kept_K, 1 / values_K, 0.0)
  return dot(vectors_KxK * inverse_K[None, :], vectors_KxK.T)


def balance(
    matrix_KxK: jax.Array, right_K: jax.Array, power: float
) -> jax.Array:
  """Solves `C x = right * x ** -power` for `x > 0`, by damped Newton steps.

  The problem is convex: x minimizes `x C x / 2 - sum(right * psi(x))` with
  `psi' = x ** -power`. Where C is singular there may be no solution; the
  diagonal gets an addition of the size of its rounding, which makes one.

  Args:
    matrix_KxK: C, positive semi-definite.
    right_K: positive.
    power: positive.
  """
  num_tasks = len(matrix_KxK)
  rounding = jnp.finfo(matrix_KxK.dtype).eps
  matrix_KxK = matrix_KxK + rounding * jnp.eye(num_tasks)

  def newton(_, x_K):
    pull_K = right_K * x_K**-power
    # In relative changes of x, the second derivative is well scaled.
    scaled_KxK = x_K[:, None] * matrix_KxK * x_K[None, :]
    bend_K = power * pull_K * x_K
    root_K = jnp.sqrt(jnp.diag(scaled_KxK) + bend_K)
    unit_KxK = scaled_KxK / root_K[:, None] / root_K[None, :]
    unit_KxK += jnp.diag(bend_K / root_K**2)
    force_K = x_K * (pull_K - dot(matrix_KxK, x_K)) / root_K
    factor_KxK = jnp.linalg.cholesky(unit_KxK)
    step_K = jax.scipy.linalg.cho_solve((factor_KxK, True), force_K) / root_K
    step_K = jnp.where(jnp.isfinite(step_K), step_K, 0.0)
    # A step that changes no x by much sees no change of the derivatives.
    damped = 1 + jnp.maximum((1 + power) / 2, 1.0) * jnp.max(jnp.abs(step_K))
    return x_K * (1 + step_K / damped)

  start_K = right_K ** (1 / (1 + power))
  return jax.lax.fori_loop(0, NEWTON_STEPS, newton, start_K)
