"""Weightings that look at the tasks' losses: 1 - reward in RL."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlens.types import Weighting
from gradlens.weightings.base import need, preferring

LEAST = 1e-8


class FamoState(NamedTuple):
  """State of `famo`.

  Attributes:
    logits_K: of the weights.
    losses_K: of the update before.
    adam: of the logits.
  """

  logits_K: jax.Array
  losses_K: jax.Array
  adam: optax.ScaleByAdamState


def famo(learning_rate: float = 0.025, weight_decay: float = 1e-3) -> Weighting:
  r"""An equal rate of decrease of all losses, from losses alone (FAMO).

  With :math:`z = \operatorname{softmax}(\xi)`:

  .. math:: w_k = \frac{z_k / L_k}{\sum_j z_j / L_j}, \qquad
    g_k = z_k \Big(\delta_k - \sum_j z_j \delta_j\Big), \quad
    \delta_k = \log L_k^{t-1} - \log L_k^t

  and one step of Adam on :math:`\xi` along g, with weight decay in g.

  .. warning:: The paper computes the losses once more on the same batch, after
    the step; here it is those of the next update, with its noise.

  Args:
    learning_rate: of the logits.
    weight_decay: of the logits.

  Returns:
    A `Weighting` that needs `losses_K`, positive (below 1e-8 they count as
    that); its weights sum to 1.

  Raises:
    ValueError: at `update`, without `losses_K`.

  References:
    Liu et al., FAMO: Fast Adaptive Multitask Optimization, 2023,
    arXiv:2306.03792

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.famo()
  >>> weights_K, _ = weighting.update(jnp.eye(2), weighting.init(2),
  ...                                 losses_K=jnp.array([0.2, 0.6]))
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.7500', '0.2500']
  """
  adam = optax.scale_by_adam()

  def init(num_tasks):
    zeros_K = jnp.zeros(num_tasks)
    return FamoState(zeros_K, jnp.ones(num_tasks), adam.init(zeros_K))

  def update(gram_KxK, state, *, losses_K=None, **extras):
    del extras
    losses_K = need(losses_K, 'losses_K', 'famo', (len(gram_KxK),))
    losses_K = jnp.maximum(losses_K, LEAST)
    drops_K = jnp.log(state.losses_K) - jnp.log(losses_K)
    drops_K = jnp.where(state.adam.count == 0, 0.0, drops_K)
    shares_K = jax.nn.softmax(state.logits_K)
    slope_K = shares_K * (drops_K - jnp.sum(shares_K * drops_K))
    slope_K += weight_decay * state.logits_K
    step_K, adam_state = adam.update(slope_K, state.adam)
    logits_K = state.logits_K - learning_rate * step_K
    weights_K = jax.nn.softmax(logits_K) / losses_K
    weights_K /= jnp.sum(weights_K)
    return weights_K, FamoState(logits_K, losses_K, adam_state)

  return Weighting(init, update, 'famo')


class UncertaintyState(NamedTuple):
  """State of `uncertainty_weighting`.

  Attributes:
    log_variances_K: s.
    adam: of s.
  """

  log_variances_K: jax.Array
  adam: optax.ScaleByAdamState


def uncertainty_weighting(learning_rate: float = 1e-3) -> Weighting:
  r"""Losses over twice their variances, which are learned.

  .. math:: w_k = \tfrac12 e^{-s_k}, \qquad
    s \leftarrow \operatorname{Adam} \Big( \nabla_s \sum_k
      \tfrac12 e^{-s_k} L_k + \tfrac12 s_k \Big)

  from s = 0, so that the weights tend to :math:`1 / (2 L_k)`.

  .. warning:: The paper learns s with the network, at its learning rate. It has
    its own here, 1e-3 by default, which is no choice of the paper's.

  Args:
    learning_rate: of s.

  Returns:
    A `Weighting` that needs `losses_K`.

  Raises:
    ValueError: at `update`, without `losses_K`.

  References:
    Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses for
    Scene Geometry and Semantics, 2017, arXiv:1705.07115

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.uncertainty_weighting(learning_rate=0.1)
  >>> weights_K, _ = weighting.update(jnp.eye(2), weighting.init(2),
  ...                                 losses_K=jnp.array([0.2, 4.]))
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.5526', '0.4524']
  """
  adam = optax.scale_by_adam()

  def init(num_tasks):
    zeros_K = jnp.zeros(num_tasks)
    return UncertaintyState(zeros_K, adam.init(zeros_K))

  def update(gram_KxK, state, *, losses_K=None, **extras):
    del extras
    shape = (len(gram_KxK),)
    losses_K = need(losses_K, 'losses_K', 'uncertainty_weighting', shape)
    slope_K = 0.5 - 0.5 * jnp.exp(-state.log_variances_K) * losses_K
    step_K, adam_state = adam.update(slope_K, state.adam)
    log_variances_K = state.log_variances_K - learning_rate * step_K
    weights_K = 0.5 * jnp.exp(-log_variances_K)
    return weights_K, UncertaintyState(log_variances_K, adam_state)

  return Weighting(init, update, 'uncertainty_weighting')


class DwaState(NamedTuple):
  """State of `dwa`.

  Attributes:
    last_K: losses of the update before.
    before_K: losses of the one before that.
    count: updates so far.
  """

  last_K: jax.Array
  before_K: jax.Array
  count: jax.Array


def dwa(temperature: float = 2.0) -> Weighting:
  r"""More weight to losses that fell less (dynamic weight average).

  .. math:: w = K \operatorname{softmax}(r / T), \qquad
    r_k = L_k^{t-1} / L_k^{t-2}

  with 1 for all in the first two updates.

  .. warning:: The paper's losses are averages over an epoch; an update has
    those of its batch. Give smoothed `losses_K`.

  Args:
    temperature: T; the larger, the more equal the weights.

  Returns:
    A `Weighting` that needs `losses_K`; its weights sum to K.

  Raises:
    ValueError: if the temperature is not positive; at `update`, without
      `losses_K`.

  References:
    Liu et al., End-to-End Multi-Task Learning with Attention, 2018,
    arXiv:1803.10704

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.dwa()
  >>> state = weighting.init(2)
  >>> for losses_K in ([1., 1.], [0.5, 1.], [0.4, 1.]):
  ...   weights_K, state = weighting.update(
  ...       jnp.eye(2), state, losses_K=jnp.array(losses_K))
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.8756', '1.1244']
  """
  if not temperature > 0:
    raise ValueError(f'temperature={temperature} must be positive')

  def init(num_tasks):
    return DwaState(
        jnp.ones(num_tasks), jnp.ones(num_tasks), jnp.zeros((), jnp.int32)
    )

  def update(gram_KxK, state, *, losses_K=None, **extras):
    del extras
    losses_K = need(losses_K, 'losses_K', 'dwa', (len(gram_KxK),))
    rates_K = state.last_K / jnp.maximum(state.before_K, LEAST)
    weights_K = len(rates_K) * jax.nn.softmax(rates_K / temperature)
    weights_K = jnp.where(state.count < 2, 1.0, weights_K)
    return weights_K, DwaState(losses_K, state.last_K, state.count + 1)

  return Weighting(init, update, 'dwa')


def stch(mu: float = 1.0, pref: Sequence[float] | None = None) -> Weighting:
  r"""The gradient of a smooth largest loss (smooth Tchebycheff).

  .. math:: w_k = u_k \operatorname{softmax}_k (u L / \mu) =
    \frac{\partial}{\partial L_k} \mu \log \sum_j e^{u_j L_j / \mu}

  .. warning:: The ideal point is 0 here: give `losses_K` less the best values
    that are known. The paper has no default for mu.

  Args:
    mu: the smaller, the more the largest loss counts alone.
    pref: u; None is 1/K for all.

  Returns:
    A `Weighting` that needs `losses_K`.

  Raises:
    ValueError: if mu is not positive; at `update`, without `losses_K`; when
      initialized for another number of tasks.

  References:
    Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective
    Optimization, 2024, arXiv:2402.19078

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weights_K, _ = gl.stch(mu=0.1).update(jnp.eye(2), (),
  ...                                       losses_K=jnp.array([0.2, 0.6]))
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.0596', '0.4404']
  """
  if not mu > 0:
    raise ValueError(f'mu={mu} must be positive')
  preferred = preferring(lambda gram_KxK, pref_K: pref_K, pref, 'stch')

  def update(gram_KxK, state, *, losses_K=None, **extras):
    del extras
    losses_K = need(losses_K, 'losses_K', 'stch', (len(gram_KxK),))
    pref_K, _ = preferred.update(gram_KxK, ())
    return pref_K * jax.nn.softmax(pref_K * losses_K / mu), state

  return Weighting(preferred.init, update, 'stch')
