"""Weightings from the spectrum of the Gram matrix."""

from collections.abc import Sequence

import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.fixed import preferring
from gradlens.weightings.solvers import (
    TINY,
    dot,
    pseudo_inverse,
    spectrum,
    unit_rows,
)


def aligned_mtl(
    pref: Sequence[float] | None = None, scale: str = 'min'
) -> Weighting:
  r"""Makes the gradients orthogonal and of equal length (Aligned-MTL).

  With :math:`G = V \Lambda V^\top` over the eigenvalues that are not 0:

  .. math:: w = \sqrt{\lambda^*}\, V \Lambda^{-1/2} V^\top u

  .. warning:: Gradients whose squared lengths differ by more than 1e7 are
    beyond the precision of float32 here: the shorter ones are left out, as the
    paper leaves out eigenvalues of 0.

  Args:
    pref: u; None is 1/K for all.
    scale: :math:`\lambda^*`: `'min'` (the paper's), `'median'` or `'mean'` of
      the eigenvalues that are not 0.

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
    num_tasks = len(gram_KxK)
    trace = jnp.maximum(jnp.trace(gram_KxK), TINY)
    # A graded matrix keeps its small eigenvalues when large rows come last.
    order_K = jnp.argsort(jnp.diag(gram_KxK))
    graded_KxK = gram_KxK[order_K][:, order_K] / trace
    values_K, vectors_KxK, kept_K = spectrum(graded_KxK, 1.2e-7 * num_tasks)
    ranked_K = jnp.sort(jnp.where(kept_K, values_K, jnp.inf))
    rank = jnp.maximum(jnp.sum(kept_K), 1)
    if scale == 'mean':
      common = jnp.sum(values_K, where=kept_K) / rank
    else:
      common = ranked_K[0 if scale == 'min' else (rank - 1) // 2]
    stretch_K = jnp.where(kept_K, jnp.sqrt(common / values_K), 0.0)
    along_K = dot(vectors_KxK.T, pref_K[order_K])
    weights_K = dot(vectors_KxK, stretch_K * along_K)
    weights_K = jnp.zeros_like(weights_K).at[order_K].set(weights_K)
    return jnp.where(jnp.any(kept_K), weights_K, pref_K)

  return preferring(weigh, pref, 'aligned_mtl')


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
    on_units_K = dot(pseudo_inverse(cosines_KxK), toward_K)
    inner_K = dot(cosines_KxK, on_units_K)
    longest = jnp.maximum(jnp.max(norms_K), TINY)
    along = dot(norms_K / longest, inner_K)
    length_sq = dot(on_units_K, inner_K)
    known = length_sq > TINY
    stretch = jnp.where(known, along / jnp.where(known, length_sq, 1.0), 0.0)
    return stretch * on_units_K * (longest / by_K)

  return preferring(weigh, pref, 'conflict_free')
