"""Weightings that set the lengths of the gradients."""

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.fixed import stateless


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
