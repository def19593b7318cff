"""Weightings by the tasks' losses alone; the Gram matrix is not looked at.

In reinforcement learning a surrogate loss is about 0 when all is right and when
all is wrong. Give `1 - reward`, as the trainer does.
"""

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.extras import needed

_SMALLEST = 1e-8  # A loss below it has no logarithm worth the name.


def famo(step_size: float = 0.025, gamma: float = 0.01) -> Weighting:
  r"""Makes all losses fall at one rate (FAMO).

  .. math::
    z &= \operatorname{softmax}(\xi), \qquad
    w_k = c \frac{z_k}{\ell_k}, \qquad c = \Big(\sum_j z_j / \ell_j\Big)^{-1} \\
    \xi &\leftarrow \xi - \eta \Big( \big(\operatorname{diag} z - z z^\top\big)
      (\log \ell^{\text{last}} - \log \ell) + \gamma \xi \Big)

  Needs `losses_K`.

  .. warning:: The losses after an update are those of the next batch, and steps
    are plain gradient descent, not Adam.

  Args:
    step_size: :math:`\eta`.
    gamma: decay of the logits.

  References:
    Liu et al., FAMO: Fast Adaptive Multitask Optimization, 2023,
    arXiv:2306.03792

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.famo()
  >>> weights_K, _ = weighting.update(
  ...     jnp.eye(2), weighting.init(2), losses_K=jnp.array([0.25, 0.75]))
  >>> print(jnp.array_str(weights_K, precision=3))
  [0.75 0.25]
  """

  def init(num_tasks):
    return jnp.zeros(num_tasks), jnp.zeros(num_tasks), jnp.zeros((), jnp.int32)

  def update(gram_KxK, state, **extras):
    losses_K = needed(extras, 'losses_K', 'famo', (len(gram_KxK),))
    logits_K, last_K, count = state
    logs_K = jnp.log(jnp.maximum(losses_K, _SMALLEST))
    fall_K = jnp.where(count == 0, 0.0, last_K - logs_K)
    z_K = jax.nn.softmax(logits_K)
    slope_K = z_K * (fall_K - jnp.sum(z_K * fall_K)) + gamma * logits_K
    logits_K = logits_K - step_size * slope_K
    # z / loss over its sum, without leaving the logarithms.
    weights_K = jax.nn.softmax(logits_K - logs_K)
    return weights_K, (logits_K, logs_K, count + 1)

  return Weighting(init, update, 'famo')


def uncertainty_weighting(step_size: float = 0.025) -> Weighting:
  r"""Learns a noise level for each task, and divides by it.

  .. math:: \min_s \sum_k e^{-s_k} \ell_k + s_k, \qquad w_k = e^{-s_k}

  by one step for each update. Needs `losses_K`.

  Args:
    step_size: of each step.

  References:
    Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses, 2018,
    arXiv:1705.07115

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.uncertainty_weighting(step_size=0.1)
  >>> print(weighting.update(jnp.eye(2), weighting.init(2),
  ...                        losses_K=jnp.array([0., 1.]))[0].round(3))
  [1.105 1.   ]
  """

  def init(num_tasks):
    return jnp.zeros(num_tasks)

  def update(gram_KxK, state, **extras):
    losses_K = needed(
        extras, 'losses_K', 'uncertainty_weighting', (len(gram_KxK),)
    )
    # The minimum is at log(loss): a step never goes past it, nor to infinity.
    slope_K = jnp.clip(1 - jnp.exp(-state) * losses_K, -1 / step_size, 1.0)
    state = jnp.clip(state - step_size * slope_K, -10.0, 10.0)
    return jnp.exp(-state), state

  return Weighting(init, update, 'uncertainty_weighting')


def dwa(temperature: float = 2.0) -> Weighting:
  r"""More weight to losses that fall slowly (dynamic weight average).

  .. math:: w_k = K \operatorname{softmax}_k\Big(
    \frac{\ell_k(t - 1)}{\ell_k(t - 2)} \big/ T\Big)

  and 1 in the first two steps. Needs `losses_K`.

  Args:
    temperature: T; higher is more even.

  Raises:
    ValueError: if `temperature` is not positive.

  References:
    Liu et al., End-to-End Multi-Task Learning with Attention, 2019,
    arXiv:1803.10704

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.dwa()
  >>> print(weighting.update(jnp.eye(2), weighting.init(2),
  ...                        losses_K=jnp.array([0.25, 0.75]))[0])
  [1. 1.]
  """
  if temperature <= 0:
    raise ValueError(f'temperature={temperature} must be positive')

  def init(num_tasks):
    return jnp.ones((2, num_tasks)), jnp.zeros((), jnp.int32)

  def update(gram_KxK, state, **extras):
    num_tasks = len(gram_KxK)
    losses_K = needed(extras, 'losses_K', 'dwa', (num_tasks,))
    (before_K, last_K), count = state
    ratio_K = last_K / jnp.maximum(before_K, _SMALLEST)
    softmax_K = jax.nn.softmax(jnp.minimum(ratio_K, 1e6) / temperature)
    weights_K = jnp.where(count < 2, 1.0, num_tasks * softmax_K)
    return weights_K, (jnp.stack([last_K, losses_K]), count + 1)

  return Weighting(init, update, 'dwa')


def stch(mu: float = 1.0) -> Weighting:
  r"""The gradient of the smooth Tchebycheff scalarization (STCH).

  .. math:: \mu \log \sum_k e^{u_k \ell_k / \mu}, \qquad
    w_k = u_k \operatorname{softmax}_k(u_k \ell_k / \mu), \qquad u = 1 / K

  Needs `losses_K`, whose ideal values are taken to be 0.

  Args:
    mu: towards 0 only the largest loss counts.

  Raises:
    ValueError: if `mu` is not positive.

  References:
    Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective
    Optimization, 2024, arXiv:2402.19078

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.stch(mu=0.5).update(
  ...     jnp.eye(2), (), losses_K=jnp.array([1., 1.]))[0])
  [0.25 0.25]
  """
  if mu <= 0:
    raise ValueError(f'mu={mu} must be positive')

  def update(gram_KxK, state, **extras):
    num_tasks = len(gram_KxK)
    losses_K = needed(extras, 'losses_K', 'stch', (num_tasks,))
    return jax.nn.softmax(losses_K / num_tasks / mu) / num_tasks, state

  return Weighting(lambda num_tasks: (), update, 'stch')
