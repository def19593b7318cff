"""Weightings from the spectrum of the Gram matrix."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.base import preferring
from gradlens.weightings.solvers import (
    TINY,
    dot,
    pseudo_inverse,
    spectrum,
    unit_rows,
)

# Newton's method for an orthogonal factor, scaled: enough for any condition.
POLAR_STEPS = 12


def aligned_mtl(
    scale: str = 'min', pref: Sequence[float] | None = None
) -> Weighting:
  r"""Makes the gradients orthogonal and of equal length (Aligned-MTL).

  With :math:`G = V \Lambda V^\top` over the eigenvalues that are not 0:

  .. math:: w = \sqrt{\lambda^*}\, V \Lambda^{-1/2} V^\top u

  Independent gradients go by the orthogonal factor of their Cholesky factor,
  which keeps the digits of short rows beside long ones.

  .. warning:: Of dependent gradients, those whose squared lengths differ by
    more than 1e7 are beyond the precision of float32: the shorter ones are left
    out, as the paper leaves out eigenvalues of 0.

  Args:
    scale: :math:`\lambda^*`: `'min'` (the paper's), `'median'` or `'mean'` of
      the eigenvalues that are not 0.
    pref: u; None is 1/K for all.

  Raises:
    ValueError: if the scale is unknown; when initialized for another number of
      tasks.

  References:
    Senushkin et al., Independent Component Alignment for Multi-Task Learning,
    2023, arXiv:2305.19000

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.aligned_mtl().update(gram_KxK, ())
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.5591', '0.4083']
  """
  if scale not in ('min', 'median', 'mean'):
    raise ValueError(f"scale={scale!r}; use 'min', 'median' or 'mean'")

  def weigh(gram_KxK, pref_K):
    norms_K, _, cosines_KxK = unit_rows(gram_KxK)
    independent = jnp.min(jnp.linalg.eigvalsh(cosines_KxK)) > 1e-4
    weights_K = jax.lax.cond(
        independent,
        lambda: _by_rows(norms_K, cosines_KxK, pref_K, scale),
        lambda: _by_spectrum(gram_KxK, pref_K, scale),
    )
    return jnp.where(jnp.isfinite(weights_K), weights_K, 0.0)

  return preferring(weigh, pref, 'aligned_mtl')


def _common(values_K: jax.Array, kept_K: jax.Array, scale: str) -> jax.Array:
  """One eigenvalue to put in place of all."""
  rank = jnp.maximum(jnp.sum(kept_K), 1)
  if scale == 'mean':
    return jnp.sum(values_K, where=kept_K) / rank
  ranked_K = jnp.sort(jnp.where(kept_K, values_K, jnp.inf))
  return ranked_K[0 if scale == 'min' else (rank - 1) // 2]


def _by_spectrum(
    gram_KxK: jax.Array, pref_K: jax.Array, scale: str
) -> jax.Array:
  trace = jnp.maximum(jnp.trace(gram_KxK), TINY)
  cut = len(gram_KxK) * jnp.finfo(jnp.float32).eps
  values_K, vectors_KxK, kept_K = spectrum(gram_KxK / trace, cut)
  common = _common(values_K, kept_K, scale)
  stretch_K = jnp.where(kept_K, jnp.sqrt(common / values_K), 0.0)
  weights_K = dot(vectors_KxK, stretch_K * dot(vectors_KxK.T, pref_K))
  return jnp.where(jnp.any(kept_K), weights_K, pref_K)


def _by_rows(
    norms_K: jax.Array, cosines_KxK: jax.Array, pref_K: jax.Array, scale: str
) -> jax.Array:
  """The same for independent rows: `G = D L L' D` and `D L = G^(1/2) Q`."""
  units_KxK = jnp.linalg.cholesky(cosines_KxK)
  inverse_KxK = jnp.linalg.inv(units_KxK)
  # In units of the middle, neither lengths nor their inverses overflow.
  middle = jnp.sqrt(jnp.max(norms_K)) * jnp.sqrt(jnp.min(norms_K))
  lengths_K = norms_K / jnp.maximum(middle, TINY)

  def newton(_, factor_KxK):
    rows_K = jnp.linalg.norm(factor_KxK, axis=1)
    dual_KxK = jnp.linalg.inv(factor_KxK / rows_K[:, None]).T / rows_K[:, None]
    ratio = jnp.linalg.norm(dual_KxK) / jnp.linalg.norm(factor_KxK)
    balance = jnp.sqrt(ratio)
    return (balance * factor_KxK + dual_KxK / balance) / 2

  turn_KxK = jax.lax.fori_loop(
      0, POLAR_STEPS, newton, lengths_K[:, None] * units_KxK
  )
  # G^(-1/2) = Q L^-1 D^-1 is symmetric; an entry is known best in the column of
  # the longer row.
  root_KxK = dot(turn_KxK, inverse_KxK / lengths_K[None, :])
  longer_KxK = lengths_K[None, :] >= lengths_K[:, None]
  weights_K = dot(jnp.where(longer_KxK, root_KxK, root_KxK.T), pref_K)
  if scale == 'min':
    # The largest eigenvalue of the inverse has all its digits.
    scaled_KxK = inverse_KxK / lengths_K[None, :]
    values_K = jnp.linalg.eigvalsh(dot(scaled_KxK, scaled_KxK.T))
    common = 1 / jnp.max(values_K)
  else:
    gram_KxK = lengths_K[:, None] * cosines_KxK * lengths_K[None, :]
    values_K = jnp.linalg.eigvalsh(gram_KxK)
    common = _common(values_K, jnp.ones(len(values_K), bool), scale)
  return jnp.sqrt(common) * weights_K


def conflict_free(pref: Sequence[float] | None = None) -> Weighting:
  r"""The same cosine with every task gradient (ConFIG).

  With :math:`D = \operatorname{diag} \sqrt{G_{kk}}`:

  .. math::
    c = D^{-1} (D^{-1} G D^{-1})^+ u, \qquad
    w = \frac{1^\top G c}{c^\top G c}\, c

  The update is as long as the sum of the gradients' projections on it.

  .. warning:: Dependent gradients may have no update with equal cosines; this
    is then the one of least squares, which may conflict.

  Args:
    pref: the cosines, up to a factor; None is all equal.

  Raises:
    ValueError: when initialized for another number of tasks.

  References:
    Liu et al., ConFIG: Towards Conflict-free Training of Physics Informed
    Neural Networks, 2024, arXiv:2408.11104

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.diag(jnp.array([4., 100.]))
  >>> print(gl.conflict_free().update(gram_KxK, ())[0])
  [3.  0.6]
  """

  def weigh(gram_KxK, pref_K):
    norms_K, by_K, cosines_KxK = unit_rows(gram_KxK)
    toward_K = jnp.where(norms_K > 0, pref_K, 0.0)
    inverse_KxK = pseudo_inverse(cosines_KxK)
    on_units_K = dot(inverse_KxK, toward_K)
    # Once more on what rounding left over.
    left_K = toward_K - dot(cosines_KxK, on_units_K)
    on_units_K += dot(inverse_KxK, left_K)
    inner_K = dot(cosines_KxK, on_units_K)
    longest = jnp.maximum(jnp.max(norms_K), TINY)
    along = dot(norms_K / longest, inner_K)
    length_sq = dot(on_units_K, inner_K)
    # Below rounding no update has such cosines at all.
    known = length_sq > 1e-10 * dot(toward_K, toward_K)
    stretch = jnp.where(known, along / jnp.where(known, length_sq, 1.0), 0.0)
    return stretch * on_units_K * (longest / by_K)

  return preferring(weigh, pref, 'conflict_free')
