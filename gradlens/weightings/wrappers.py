"""Weightings around other weightings."""

import jax.numpy as jnp

from gradlens.estimates import floor_gram
from gradlens.types import Weighting


def ema_gram(
    weighting: Weighting, decay: float = 0.9, floor: float = 0.0
) -> Weighting:
  r"""Gives a weighting the moving average of the Gram matrix.

  .. math:: M_t = \beta M_{t-1} + (1 - \beta) G_t, \qquad
    \hat G_t = \frac{M_t}{1 - \beta^t}

  with eigenvalues then raised by `floor_gram`. With `correct(kind='unbiased')`
  this is what makes debiased products fit for a weighting: averaged first,
  floored after.

  Args:
    weighting: the one inside.
    decay: :math:`\beta`; 0 averages nothing.
    floor: as in `floor_gram`.

  Raises:
    ValueError: if `decay` is outside [0, 1), or `floor` is negative.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.ema_gram(gl.equalize_norms(), decay=0.5)
  >>> state = weighting.init(2)
  >>> _, state = weighting.update(jnp.eye(2), state)
  >>> print(weighting.update(jnp.eye(2), state)[0])
  [0.5 0.5]
  """
  _check_decay(decay)
  if floor < 0:
    raise ValueError(f'floor={floor} must not be negative')

  def init(num_tasks):
    mean_KxK = jnp.zeros((num_tasks, num_tasks), jnp.float32)
    return mean_KxK, jnp.zeros((), jnp.int32), weighting.init(num_tasks)

  def update(gram_KxK, state, **extras):
    mean_KxK, count, inner = state
    # Weights of the average that are exact from the first step on: no decay^t.
    count = count + 1
    share = (1 - decay) / (1 - decay**count)
    mean_KxK = mean_KxK + share * (gram_KxK - mean_KxK)
    floored_KxK = floor_gram(mean_KxK, floor)
    weights_K, inner = weighting.update(floored_KxK, inner, **extras)
    return weights_K, (mean_KxK, count, inner)

  return Weighting(init, update, 'ema_gram')


def cr_mogm(weighting: Weighting, decay: float = 0.9) -> Weighting:
  r"""Averages the weights over steps (CR-MOGM).

  .. math:: w_t = \alpha w_{t-1} + (1 - \alpha) \, \text{weighting}(G_t)

  from the first step's own weights on.

  Args:
    weighting: the one inside.
    decay: :math:`\alpha`.

  Raises:
    ValueError: if `decay` is outside [0, 1).

  References:
    Zhou et al., On the Convergence of Stochastic Multi-Objective Gradient
    Manipulation and Beyond, 2022

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.cr_mogm(gl.equalize_norms(), decay=0.5)
  >>> gram_KxK = jnp.diag(jnp.array([1., 4.]))
  >>> _, state = weighting.update(gram_KxK, weighting.init(2))
  >>> print(weighting.update(jnp.eye(2), state)[0])
  [0.5   0.375]
  """
  _check_decay(decay)

  def init(num_tasks):
    return (
        jnp.zeros(num_tasks), jnp.zeros((), jnp.int32),
        weighting.init(num_tasks),
    )

  def update(gram_KxK, state, **extras):
    last_K, count, inner = state
    own_K, inner = weighting.update(gram_KxK, inner, **extras)
    kept = jnp.where(count == 0, 0.0, decay)
    weights_K = kept * last_K + (1 - kept) * own_K
    return weights_K, (weights_K, count + 1, inner)

  return Weighting(init, update, 'cr_mogm')


def clip_weights(
    weighting: Weighting, low: float = 0.0, high: float = float('inf')
) -> Weighting:
  """Keeps every weight between two numbers.

  Args:
    weighting: the one inside.
    low: the smallest weight.
    high: the largest.

  Raises:
    ValueError: if `low` exceeds `high`.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.clip_weights(gl.equalize_norms(), high=0.3)
  >>> print(weighting.update(jnp.diag(jnp.array([1., 4.])), ((),))[0])
  [0.3  0.25]
  """
  if low > high:
    raise ValueError(f'low={low} exceeds high={high}')

  def update(gram_KxK, state, **extras):
    weights_K, state = weighting.update(gram_KxK, state, **extras)
    return jnp.clip(weights_K, low, high), state

  def init(num_tasks):
    return weighting.init(num_tasks)

  return Weighting(init, update, 'clip_weights')


def _check_decay(decay: float) -> None:
  if not 0 <= decay < 1:
    raise ValueError(f'decay={decay} must be at least 0 and below 1')
