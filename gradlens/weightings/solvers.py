"""Small solvers that the weightings share, in float32 with fixed counts.

A quadratic program over the tasks is a linear complementarity problem: find
`z >= 0` with `w = q + H z >= 0` and `z w = 0`. Rows are unit vectors here, so
`H` holds cosines and the lengths are in `q`: nothing overflows, whatever the
scales.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST
# What a pivot is kept above. Cosines carry an error of 1e-7, which this has to
# exceed for a dependent row to look dependent.
DELTA = 1e-5


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
  values_K, vectors_KxK = jnp.linalg.eigh(cosines_KxK)
  scaled_KxK = vectors_KxK * jnp.maximum(values_K, 0.0)[None, :]
  nearest_KxK = dot(scaled_KxK, vectors_KxK.T)
  # Negative by rounding is left alone: the projection rounds as well.
  indefinite = jnp.min(values_K) < -1e-6 * len(gram_KxK)
  return Units(norms_K, by_K, jnp.where(indefinite, nearest_KxK, cosines_KxK))


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


def start(matrix_KxK: jax.Array, q_K: jax.Array, cover_K: jax.Array) -> Path:
  """The path at an infinite parameter, where `z = 0`; `cover_K > 0`."""
  nothing_K = jnp.zeros(len(q_K), bool)
  return Path(matrix_KxK, nothing_K, q_K, cover_K, jnp.inf)


def aim(
    path: Path, matrix_KxK: jax.Array, q_K: jax.Array, cover_K: jax.Array
) -> Path:
  """The path towards another `q`, from where it stands; parameter 1 to 0."""
  table_KxK, basic_K = path.table_KxK, path.basic_K

  def basics(q_K):
    z_K = jnp.where(basic_K, -dot(table_KxK, jnp.where(basic_K, q_K, 0.0)), 0.0)
    rest_K = jnp.where(basic_K, q_K + dot(matrix_KxK, z_K), 0.0)
    z_K -= jnp.where(basic_K, dot(table_KxK, rest_K), 0.0)
    return jnp.where(basic_K, z_K, q_K + dot(matrix_KxK, z_K))

  return Path(table_KxK, basic_K, basics(q_K), basics(cover_K), 1.0)


def follow(path: Path, num_pivots: int, end: float = 0.0, goes_on=None) -> Path:
  """Lowers the parameter to `end`, pivoting where a basic variable meets 0.

  Args:
    path: from `start` or `aim`.
    num_pivots: at most; the count is fixed, so that the time is.
    end: the last parameter.
    goes_on: `goes_on(z_K) -> bool`, whether to pivot at this `z_K`.
  """

  def pivot(_, path):
    table_KxK, basic_K, fixed_K, slope_K, parameter = path
    falls_K = slope_K > 1e-7
    meets_K = jnp.where(falls_K, -fixed_K / jnp.where(falls_K, slope_K, 1), end)
    r = jnp.argmax(meets_K)
    at = jnp.minimum(meets_K[r], parameter)
    go = at > end
    if goes_on is not None:
      go &= goes_on(jnp.where(basic_K, fixed_K + at * slope_K, 0.0))
    own_K = jax.nn.one_hot(r, len(basic_K))
    scale = jnp.where(go, 1 / table_KxK[r, r], 0.0)
    # A principal pivot is an update of rank one.
    column_K = (table_KxK[:, r] + own_K) * scale
    row_K = table_KxK[r] - own_K
    return Path(
        table_KxK - column_K[:, None] * row_K[None, :],
        basic_K ^ (go & (own_K > 0)),
        fixed_K - column_K * fixed_K[r],
        slope_K - column_K * slope_K[r],
        jnp.where(go, at, parameter),
    )

  return jax.lax.fori_loop(0, num_pivots, pivot, path)


def solve_on(
    matrix_KxK: jax.Array, basic_K: jax.Array, rhs_MxK: jax.Array, rounds: int
) -> jax.Array:
  """`H z = rhs` on the basic rows, 0 elsewhere, refined `rounds` times."""
  both_KxK = basic_K[:, None] & basic_K[None, :]
  shift_K = jnp.where(basic_K, DELTA / 10, 1.0)
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

  Follows the path from `q + parameter` down to `q` for `H + delta`, which is
  definite; takes `delta` out by a proximal step; and solves once more on the
  variables that are not 0.

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
    path = start(definite_KxK, q_K, jnp.ones(num_tasks))
    path = follow(path, num_tasks + num_tasks // 4 + 8)
    shift_K = DELTA * z_of(path)
    path = aim(path, definite_KxK, q_K - shift_K, shift_K)
    path = follow(path, num_tasks // 4 + 4)
    plain_K = z_of(path)
    exact_K = solve_on(matrix_KxK, path.basic_K, -q_K[None, :], 4)[0]
    exact_K = jnp.maximum(exact_K, 0.0)
    better = residual(exact_K, q_K) < residual(plain_K, q_K)
    z_K = jnp.where(better, exact_K, plain_K)
    return jnp.where(jnp.isfinite(z_K), z_K, 0.0)

  return jax.vmap(one)(q_MxK)


def of_length(
    matrix_KxK: jax.Array, q_K: jax.Array, ones_K: jax.Array, length: jax.Array
) -> jax.Array:
  r"""The point of a given length on the path of a level.

  Of all `z >= 0` complementary to `q + H z - level * ones`, as the level rises
  from where `z = 0`, the first with `z H z = length^2`.

  Args:
    matrix_KxK: H, positive semi-definite, entries of order 1.
    q_K: entries of order 1.
    ones_K: nonnegative.
    length: nonnegative.

  Returns:
    `z_K`, finite and nonnegative.
  """
  num_tasks = len(q_K)
  definite_KxK = matrix_KxK + DELTA * jnp.eye(num_tasks)

  def length_of(z_K):
    return jnp.sqrt(jnp.maximum(jnp.sum(z_K * dot(matrix_KxK, z_K)), 0.0))

  # The path's parameter is the level with its sign changed.
  path = start(definite_KxK, q_K, ones_K)
  path = follow(
      path, num_tasks + num_tasks // 4 + 8, end=-jnp.inf,
      goes_on=lambda z_K: length_of(z_K) < length,
  )
  on_path_K = jnp.where(path.basic_K, 1.0, 0.0)
  # On this stretch z = z0 + t z1: the larger t at which it is long enough,
  # solved for the matrix as it is.
  z0_K, z1_K = solve_on(
      matrix_KxK, path.basic_K, jnp.stack([-q_K, ones_K]), 4
  )
  a = jnp.sum(z1_K * dot(matrix_KxK, z1_K))
  b = jnp.sum(z0_K * dot(matrix_KxK, z1_K))
  rest = jnp.sum(z0_K * dot(matrix_KxK, z0_K)) - length**2
  root = jnp.sqrt(jnp.maximum(b * b - a * rest, 0.0))
  t = (root - b) / jnp.where(a > 0, a, 1.0)
  z_K = jnp.maximum(on_path_K * (z0_K + t * z1_K), 0.0)
  own = length_of(z_K)
  usable = (a > 0) & jnp.isfinite(own) & (own > 0)
  # What rounding did to the length is taken back.
  stretched_K = z_K * (length / jnp.where(usable, own, 1.0))
  return jnp.where(usable & jnp.isfinite(stretched_K), stretched_K, 0.0)


def simplex(point_K: jax.Array) -> jax.Array:
  """The nearest point with nonnegative entries that sum to 1."""
  # The largest entry is 0, so that no length is lost beside it.
  point_K = point_K - jnp.max(point_K)
  ranked_K = jnp.sort(point_K, descending=True)
  counts_K = jnp.arange(1, len(point_K) + 1)
  levels_K = (jnp.cumsum(ranked_K) - 1) / counts_K
  last = jnp.sum(ranked_K > levels_K) - 1
  return jnp.maximum(point_K - levels_K[last], 0.0)


def least_squares(cosines_KxK: jax.Array, present_K: jax.Array) -> jax.Array:
  """`C^+ 1` over the rows that are there: the shortest to solve `C a = 1`."""
  num_tasks = len(cosines_KxK)
  values_K, vectors_KxK = jnp.linalg.eigh(cosines_KxK)
  kept_K = values_K > 1e-6 * num_tasks * jnp.maximum(values_K[-1], 1e-30)
  ones_K = jnp.where(present_K, 1.0, 0.0)

  def solve(right_K):
    along_K = dot(vectors_KxK.T, right_K)
    divided_K = along_K / jnp.where(kept_K, values_K, 1.0)
    return dot(vectors_KxK, jnp.where(kept_K, divided_K, 0.0))

  # Once refined: eigenvectors are good to 1e-6 only.
  a_K = solve(ones_K)
  return a_K + solve(ones_K - dot(cosines_KxK, a_K))


def graded_eigen(
    cosines_KxK: jax.Array, lengths_K: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Eigenvectors of `D C D` for lengths D of any spread, by Jacobi rotations.

  Of a matrix of unequal rows `eigh` knows the small eigenvalues to 1e-7 of the
  largest only. Here columns of a square root are rotated, two at a time, until
  they are orthogonal, which is exact to 1e-6 of each.

  Returns:
    The square roots of the eigenvalues, the vectors `[K, K]` in columns, and
    which of them are there: as many as C has.

  References:
    Demmel and Veselic, Jacobi's Method is More Accurate than QR, 1992
  """
  num_tasks = len(lengths_K)
  values_K, vectors_KxK = jnp.linalg.eigh(cosines_KxK)
  there_K = values_K > 1e-6 * num_tasks * jnp.maximum(values_K[-1], 1e-30)
  roots_K = jnp.sqrt(jnp.where(there_K, values_K, 0.0))
  root_KxK = vectors_KxK * roots_K[None, :]
  rows_KxK = lengths_K[:, None] * root_KxK  # G = rows rows'
  size = num_tasks + num_tasks % 2
  grow = size - num_tasks
  state = (
      jnp.pad(rows_KxK, ((0, grow), (0, 0))),
      jnp.pad(jnp.eye(num_tasks), ((0, grow), (0, 0))),
      jnp.arange(size),
  )

  def one_round(_, state):
    rows, turned, seats = state
    i, j = seats[: size // 2], seats[size // 2 :][::-1]
    a, b = rows[i], rows[j]
    aa, bb, ab = (jnp.sum(x * y, axis=1) for x, y in ((a, a), (b, b), (a, b)))
    apart = jnp.abs(ab) > 1e-8 * jnp.sqrt(aa * bb)
    apart &= (aa > 0) & (bb > 0)
    zeta = (bb - aa) / jnp.where(apart, 2 * ab, 1.0)
    t = jnp.sign(zeta) / (jnp.abs(zeta) + jnp.sqrt(1 + zeta**2))
    t = jnp.where(zeta == 0, 1.0, t)
    t = jnp.where(apart, t, 0.0)
    cos = (1 / jnp.sqrt(1 + t**2))[:, None]
    sin = cos * t[:, None]

    def rotate(m):
      a, b = m[i], m[j]
      return m.at[i].set(cos * a - sin * b).at[j].set(sin * a + cos * b)

    # The first seat stays, the others move on: every pair meets in size - 1.
    seats = jnp.concatenate([seats[:1], jnp.roll(seats[1:], 1)])
    return rotate(rows), rotate(turned), seats

  rounds = 10 * max(size - 1, 1)
  rows, turned, _ = jax.lax.fori_loop(0, rounds, one_round, state)
  singular_K = jnp.sqrt(jnp.sum(rows[:num_tasks] ** 2, axis=1))
  rank = jnp.sum(there_K)
  order_K = jnp.argsort(-singular_K)
  kept_K = (jnp.arange(num_tasks) < rank) & (singular_K[order_K] > 0)
  return singular_K[order_K], turned[:num_tasks][order_K].T, kept_K
