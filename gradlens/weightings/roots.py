"""Weightings that balance what every task gains: root problems."""

import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.base import stateless
from gradlens.weightings.solvers import TINY, balance, dot, unit_rows


def nash_mtl(max_norm: float | None = 1.0) -> Weighting:
  r"""The bargain of Nash: the product of all tasks' gains is largest.

  .. math:: G w = 1 / w

  The update of these weights has length :math:`\sqrt K` at any scale of the
  gradients.

  .. warning:: Where gradients are opposed without a common descent direction
    there is no solution; the weights then balance up to rounding.

  Args:
    max_norm: shortens the update to this length, 1 in the paper's code; None
      leaves it as it is.

  References:
    Navon et al., Multi-Task Learning as a Bargaining Game, 2022,
    arXiv:2202.01017

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.diag(jnp.array([4., 100.]))
  >>> weights_K, _ = gl.nash_mtl(max_norm=None).update(gram_KxK, ())
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.5000', '0.1000']
  """

  def weigh(gram_KxK):
    norms_K, by_K, cosines_KxK = unit_rows(gram_KxK)
    on_units_K = balance(cosines_KxK, jnp.ones(len(norms_K)), 1.0)
    if max_norm is not None:
      kept_K = jnp.where(norms_K > 0, on_units_K, 0.0)
      length_sq = jnp.maximum(dot(kept_K, dot(cosines_KxK, kept_K)), 0.0)
      on_units_K *= max_norm / jnp.maximum(jnp.sqrt(length_sq), max_norm)
    return on_units_K / by_K

  return stateless(weigh, 'nash_mtl')


def fairgrad(alpha: float = 1.0) -> Weighting:
  r"""Alpha-fair gains of all tasks (FairGrad).

  .. math:: G w = w^{-1 / \alpha}

  At 1 this is the bargain of Nash; towards infinity the smallest gain is
  largest.

  Args:
    alpha: positive.

  Raises:
    ValueError: if alpha is not positive.

  References:
    Ban and Ji, Fair Resource Allocation in Multi-Task Learning, 2024,
    arXiv:2402.15638

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.diag(jnp.array([4., 32.]))
  >>> weights_K, _ = gl.fairgrad(alpha=2.).update(gram_KxK, ())
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.3969', '0.0992']
  """
  if not alpha > 0:
    raise ValueError(f'alpha={alpha} must be positive')

  def weigh(gram_KxK):
    norms_K, by_K, cosines_KxK = unit_rows(gram_KxK)
    longest = jnp.maximum(jnp.max(norms_K), TINY)
    lengths_K = jnp.where(norms_K > 0, norms_K / longest, 1.0)
    on_units_K = balance(
        cosines_KxK, lengths_K ** (1 / alpha - 1), 1 / alpha
    )
    # Of all gradients by s, the weights are by s ** (-2 alpha / (1 + alpha)).
    scale = longest ** ((1 - alpha) / (1 + alpha))
    return on_units_K * scale / by_K

  return stateless(weigh, 'fairgrad')
