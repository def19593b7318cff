"""Weightings around a weighting."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens.estimates import floor_gram
from gradlens.types import PyTree, Weighting


class EmaGramState(NamedTuple):
  """State of `ema_gram`.

  Attributes:
    gram_KxK: the moving average, biased towards 0.
    count: updates so far.
    inner: the wrapped weighting's.
  """

  gram_KxK: jax.Array
  count: jax.Array
  inner: PyTree


def ema_gram(
    weighting: Weighting, decay: float = 0.9, floor: float = 0.0
) -> Weighting:
  r"""Shows a weighting the moving average of the Gram matrix, made definite.

  .. math:: M_t = \beta M_{t-1} + (1 - \beta) G_t, \qquad
    \hat G_t = M_t / (1 - \beta^t)

  whose eigenvalues are then raised to `floor * trace / K` at least. For
  debiased Gram matrices, which one by one may be indefinite.

  Args:
    weighting: what sees the average.
    decay: :math:`\beta`, in [0, 1).
    floor: of the eigenvalues, as in `floor_gram`.

  Raises:
    ValueError: if the decay is out of range.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.ema_gram(gl.equalize_norms(), decay=0.5)
  >>> state = weighting.init(1)
  >>> _, state = weighting.update(jnp.array([[1.]]), state)
  >>> weights_K, _ = weighting.update(jnp.array([[5.5]]), state)
  >>> print(weights_K)    # The average is (1 + 2 * 5.5) / 3 = 4.
  [0.5]
  """
  if not 0 <= decay < 1:
    raise ValueError(f'decay={decay} must be in [0, 1)')

  def init(num_tasks):
    return EmaGramState(
        jnp.zeros((num_tasks, num_tasks)),
        jnp.zeros((), jnp.int32),
        weighting.init(num_tasks),
    )

  def update(gram_KxK, state, **extras):
    count = state.count + 1
    average_KxK = decay * state.gram_KxK + (1 - decay) * gram_KxK
    shown_KxK = floor_gram(average_KxK / (1 - decay**count), floor)
    weights_K, inner = weighting.update(shown_KxK, state.inner, **extras)
    return weights_K, EmaGramState(average_KxK, count, inner)

  return Weighting(init, update, 'ema_gram')


class CrMogmState(NamedTuple):
  """State of `cr_mogm`.

  Attributes:
    weights_K: of the update before.
    count: updates so far.
    inner: the wrapped weighting's.
  """

  weights_K: jax.Array
  count: jax.Array
  inner: PyTree


def cr_mogm(weighting: Weighting, alpha: float = 0.9) -> Weighting:
  r"""Smooths the weights over updates (CR-MOGM).

  .. math:: w_t = \alpha w_{t-1} + (1 - \alpha) \hat w_t, \qquad w_1 = \hat w_1

  Weights that follow the noise of their own batch bias the update; smoothed
  ones do so less.

  Args:
    weighting: gives :math:`\hat w`.
    alpha: the share of the weights before, in [0, 1].

  Raises:
    ValueError: if alpha is out of range.

  References:
    Zhou et al., On the Convergence of Stochastic Multi-Objective Gradient
    Manipulation and Beyond, NeurIPS 2022

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.cr_mogm(gl.equalize_norms(), alpha=0.5)
  >>> state = weighting.init(1)
  >>> _, state = weighting.update(jnp.array([[1.]]), state)
  >>> print(weighting.update(jnp.array([[4.]]), state)[0])
  [0.75]
  """
  if not 0 <= alpha <= 1:
    raise ValueError(f'alpha={alpha} must be in [0, 1]')

  def init(num_tasks):
    return CrMogmState(
        jnp.zeros(num_tasks), jnp.zeros((), jnp.int32),
        weighting.init(num_tasks),
    )

  def update(gram_KxK, state, **extras):
    fresh_K, inner = weighting.update(gram_KxK, state.inner, **extras)
    smooth_K = alpha * state.weights_K + (1 - alpha) * fresh_K
    weights_K = jnp.where(state.count == 0, fresh_K, smooth_K)
    return weights_K, CrMogmState(weights_K, state.count + 1, inner)

  return Weighting(init, update, 'cr_mogm')


def clip_weights(weighting: Weighting, low: float, high: float) -> Weighting:
  """Keeps every weight between two bounds.

  Args:
    weighting: what is clipped.
    low: the least weight.
    high: the largest.

  Raises:
    ValueError: if low is above high.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.clip_weights(gl.constant([-1., 0.5, 9.]), 0., 2.)
  >>> print(weighting.update(jnp.eye(3), weighting.init(3))[0])
  [0.  0.5 2. ]
  """
  if low > high:
    raise ValueError(f'low={low} is above high={high}')

  def update(gram_KxK, state, **extras):
    weights_K, state = weighting.update(gram_KxK, state, **extras)
    return jnp.clip(weights_K, low, high), state

  return Weighting(weighting.init, update, 'clip_weights')
