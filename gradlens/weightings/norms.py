"""Weightings that set the lengths of the gradients."""

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.base import stateless
from gradlens.weightings.solvers import (
    TINY,
    dot,
    pseudo_inverse,
    spectrum,
    unit_rows,
)


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


def imtl_g() -> Weighting:
  r"""An update with equal projections on all task gradients (IMTL-G).

  .. math:: w \propto G^+ \sqrt{\operatorname{diag} G}, \qquad \sum_k w_k = 1

  Solved on the unit vectors of the gradients, so that no scale is lost. Where
  no update has equal projections (dependent gradients), this is the one of
  least squares, as the pseudo-inverse says. Weights may be negative. They are
  0 where they sum to 0.

  References:
    Liu et al., Towards Impartial Multi-task Learning, ICLR 2021

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = gl.imtl_g().update(gram_KxK, ())
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.5923', '0.4077']
  """

  def weigh(gram_KxK):
    norms_K, by_K, cosines_KxK = unit_rows(gram_KxK)
    values_K, vectors_KxK, kept_K = spectrum(cosines_KxK)
    inverse_K = jnp.where(kept_K, 1 / values_K, 0.0)
    ones_K = jnp.where(norms_K > 0, 1.0, 0.0)
    # Residuals weigh by length; with none left, lengths do not matter.
    lengths_K = norms_K / jnp.maximum(jnp.max(norms_K), TINY)
    basis_KxK = lengths_K[:, None] * vectors_KxK * kept_K[None, :]
    solve_KxK = pseudo_inverse(dot(basis_KxK.T, basis_KxK))
    fit_K = dot(solve_KxK, dot(basis_KxK.T, lengths_K))
    # Here and below, once more on what rounding left over.
    left_K = lengths_K - dot(basis_KxK, fit_K)
    fit_K += dot(solve_KxK, dot(basis_KxK.T, left_K))
    whole = jnp.all(kept_K | (values_K == 0))
    along_K = jnp.where(whole, dot(vectors_KxK.T, ones_K), fit_K)
    on_units_K = dot(vectors_KxK, inverse_K * along_K)
    left_K = jnp.where(whole, ones_K - dot(cosines_KxK, on_units_K), 0.0)
    left_K = inverse_K * dot(vectors_KxK.T, left_K)
    on_units_K += dot(vectors_KxK, left_K)
    shortest = jnp.min(jnp.where(norms_K > 0, norms_K, jnp.inf))
    weights_K = on_units_K * (shortest / by_K)
    # Weights of no effect count in the sum: the pseudo-inverse has none.
    inner_K = dot(basis_KxK.T, weights_K)
    own_K = dot(basis_KxK, dot(solve_KxK, inner_K))
    left_K = dot(basis_KxK.T, weights_K - own_K)
    own_K += dot(basis_KxK, dot(solve_KxK, left_K))
    weights_K = jnp.where(whole, weights_K, own_K)
    sum_ = jnp.sum(weights_K)
    known = jnp.abs(sum_) > 1e-6 * jnp.max(jnp.abs(weights_K))
    # Below rounding the projections are equal at 0 only.
    known &= dot(along_K, along_K) > 1e-10 * len(norms_K)
    weights_K = jnp.where(known, weights_K / jnp.where(known, sum_, 1.0), 0.0)
    return jnp.where(jnp.isfinite(weights_K), weights_K, 0.0)

  return stateless(weigh, 'imtl_g')
