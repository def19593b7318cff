"""Weightings that invert or balance the Gram matrix."""

import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings import solvers
from gradlens.weightings.fixed import stateless


def imtl_g() -> Weighting:
  r"""An update with equal projections onto all gradients (IMTL-G).

  .. math:: w = \frac{v}{1^\top v}, \qquad v = G^+ \sqrt{\operatorname{diag} G}

  Where the sum of `v` vanishes there is no such update, and the weights are 0.

  References:
    Liu et al., Towards Impartial Multi-task Learning, 2021

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.imtl_g().update(gram_KxK, ())
  >>> print(jnp.array_str(weights_K, precision=4))
  [0.5923 0.4077]
  """

  def weigh(gram_KxK):
    units = solvers.unit_rows(gram_KxK)
    # Equal projections of unit rows: the same equations, at any scales.
    v_K = solvers.least_squares(units.cosines_KxK, units.norms_K > 0)
    v_K = v_K * jnp.min(units.by_K) / units.by_K
    v_K = jnp.where(units.norms_K > 0, v_K, 0.0)
    total = jnp.sum(v_K)
    # Below the rounding of its terms a sum is 0.
    found = jnp.abs(total) > 1e-6 * jnp.sum(jnp.abs(v_K))
    return jnp.where(found, v_K / jnp.where(found, total, 1.0), 0.0)

  return stateless(weigh, 'imtl_g')


def conflict_free() -> Weighting:
  r"""An update with equal cosines to all gradients (ConFIG).

  .. math::
    c = D^{-1} (D^{-1} G D^{-1})^+ 1, \qquad
    w = \frac{1^\top G c}{c^\top G c} c, \qquad
    D = \operatorname{diag} \sqrt{G_{kk}}

  Its length is the sum of the gradients' projections onto it.

  References:
    Liu et al., ConFIG: Towards Conflict-free Training of Physics Informed
    Neural Networks, 2024, arXiv:2408.11104

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.conflict_free().update(gram_KxK, ())
  >>> print(jnp.array_str(weights_K, precision=4))
  [1.2265 0.8441]
  """

  def weigh(gram_KxK):
    units = solvers.unit_rows(gram_KxK)
    a_K = solvers.least_squares(units.cosines_KxK, units.norms_K > 0)
    along_K = solvers.dot(units.cosines_KxK, a_K)
    length_sq = jnp.sum(a_K * along_K)
    longest = jnp.max(units.norms_K)
    scale = jnp.where(longest > 0, longest, 1.0)
    # Lengths in units of the longest: 1e10 times a cosine is no trouble then.
    projections = jnp.sum(units.norms_K / scale * along_K)
    found = length_sq > 1e-12
    factor = projections / jnp.where(found, length_sq, 1.0)
    weights_K = factor * a_K * scale / units.by_K
    return jnp.where(found & (units.norms_K > 0), weights_K, 0.0)

  return stateless(weigh, 'conflict_free')


def aligned_mtl(scale: str = 'min') -> Weighting:
  r"""Gives the gradients' principal components one length (Aligned-MTL).

  .. math::
    G = V \Lambda V^\top, \qquad
    w = \sqrt{\lambda^*} \, V \Lambda^{-1/2} V^\top u, \qquad u = 1 / K

  over the components that are not 0.

  Args:
    scale: which eigenvalue :math:`\lambda^*` is: `'min'`, as in the paper,
      `'median'` or `'mean'`.

  Raises:
    ValueError: if `scale` is unknown.

  References:
    Senushkin et al., Independent Component Alignment for Multi-Task Learning,
    2023, arXiv:2305.19000

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.aligned_mtl().update(gram_KxK, ())
  >>> print(jnp.array_str(weights_K, precision=4))
  [0.5591 0.4083]
  """
  if scale not in _SCALES:
    raise ValueError(f'scale={scale!r}; use one of {", ".join(_SCALES)}')

  def weigh(gram_KxK):
    num_tasks = len(gram_KxK)
    units = solvers.unit_rows(gram_KxK)
    longest = jnp.max(units.norms_K)
    lengths_K = units.norms_K / jnp.where(longest > 0, longest, 1.0)
    singular_K, vectors_KxK, kept_K = solvers.graded_eigen(
        units.cosines_KxK, lengths_K
    )
    target = _SCALES[scale](jnp.where(kept_K, singular_K**2, jnp.nan))
    target = jnp.where(jnp.isfinite(target), target, 1.0)
    inverse_K = jnp.where(kept_K, 1 / jnp.where(kept_K, singular_K, 1.0), 0.0)
    along_K = jnp.sum(vectors_KxK, axis=0) / num_tasks
    weights_K = jnp.sqrt(target) * solvers.dot(vectors_KxK, inverse_K * along_K)
    return jnp.where(kept_K.any(), weights_K, 1 / num_tasks)

  return stateless(weigh, 'aligned_mtl')


_SCALES = {'min': jnp.nanmin, 'median': jnp.nanmedian, 'mean': jnp.nanmean}
