"""Weightings that learn their weights by gradient steps of their own."""

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings import solvers
from gradlens.weightings.extras import needed


def gradnorm(alpha: float = 1.5, step_size: float = 0.025) -> Weighting:
  r"""Learns weights that keep the tasks' norms to their training rates.

  With :math:`r_k` the loss over its first value, relative to the mean of those,

  .. math:: \min_w \sum_k \big| w_k \|g_k\| -
    \tfrac{1}{K} \textstyle\sum_j w_j \|g_j\| \, r_k^\alpha \big|

  by one step for each update, the targets held fixed, and weights then scaled
  to the sum K. Needs `losses_K`.

  .. warning:: The paper takes the norms of the last shared layer and steps by
    Adam. Here they are of all parameters given, and the step is in units of
    their mean, so that scales do not matter.

  Args:
    alpha: 0 keeps norms equal; larger values favor tasks that lag behind.
    step_size: of each step.

  References:
    Chen et al., GradNorm, 2018, arXiv:1711.02257

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.gradnorm(step_size=0.1)
  >>> gram_KxK = jnp.diag(jnp.array([1., 9.]))
  >>> weights_K, _ = weighting.update(
  ...     gram_KxK, weighting.init(2), losses_K=jnp.ones(2))
  >>> print(jnp.array_str(weights_K, precision=3))
  [1.069 0.931]
  """

  def init(num_tasks):
    return jnp.ones(num_tasks), jnp.zeros(num_tasks), jnp.zeros((), jnp.int32)

  def update(gram_KxK, state, **extras):
    num_tasks = len(gram_KxK)
    losses_K = needed(extras, 'losses_K', 'gradnorm', (num_tasks,))
    weights_K, first_K, count = state
    first_K = jnp.where(count == 0, losses_K, first_K)
    norms_K = solvers.norms(gram_KxK)
    mean = jnp.mean(norms_K)
    relative_K = norms_K / jnp.where(mean > 0, mean, 1.0)
    rates_K = jnp.maximum(losses_K, 0.0) / jnp.where(first_K > 0, first_K, 1.0)
    rates_K = jnp.where(first_K > 0, rates_K, 1.0)
    average = jnp.mean(rates_K)
    rates_K = rates_K / jnp.where(average > 0, average, 1.0)
    own_K = weights_K * relative_K
    targets_K = jnp.mean(own_K) * rates_K**alpha
    # The steepest task moves by step_size, so that no weight turns negative.
    steepest = jnp.max(relative_K)
    slope_K = relative_K / jnp.where(steepest > 0, steepest, 1.0)
    weights_K = weights_K - step_size * slope_K * jnp.sign(own_K - targets_K)
    weights_K = jnp.maximum(weights_K, 1e-3)
    weights_K = weights_K * num_tasks / jnp.sum(weights_K)
    return weights_K, (weights_K, first_K, count + 1)

  return Weighting(init, update, 'gradnorm')


def modo(gamma: float = 0.1, rho: float = 0.0) -> Weighting:
  r"""MGDA's weights by unbiased stochastic steps (MoDo).

  .. math:: w \leftarrow \Pi_\Delta\big(w - \gamma (A + \rho I) w\big)

  with :math:`A` the products of gradients of independent halves of the batch,
  `gram_cross_KxK`, and :math:`\Pi_\Delta` the projection onto the simplex. The
  step depends on the gradients' scale, as in the paper.

  Args:
    gamma: step size.
    rho: regularization towards equal weights.

  References:
    Chen et al., Three-Way Trade-Off in Multi-Objective Learning, 2023,
    arXiv:2305.20057

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.modo()
  >>> gram_KxK = jnp.diag(jnp.array([1., 3.]))
  >>> print(weighting.update(gram_KxK, weighting.init(2),
  ...                        gram_cross_KxK=gram_KxK)[0].round(4))
  [0.55 0.45]
  """

  def init(num_tasks):
    return jnp.full(num_tasks, 1 / num_tasks)

  def update(gram_KxK, state, **extras):
    cross_KxK = needed(extras, 'gram_cross_KxK', 'modo', gram_KxK.shape)
    slope_K = solvers.dot(cross_KxK, state) + rho * state
    weights_K = solvers.simplex(state - gamma * slope_K)
    return weights_K, weights_K

  return Weighting(init, update, 'modo')


def sdmgrad(
    lamb: float = 0.3, step_size: float = 0.1, num_steps: int = 20
) -> Weighting:
  r"""MGDA's weights, regularized towards the average's direction (SDMGrad).

  .. math::
    w^* &= \arg\min_{w \in \Delta} \tfrac12
      \Big\| \sum_k w_k g_k + \lambda g_0 \Big\|^2 \\
    w &= \frac{w^* + \lambda u}{1 + \lambda}, \qquad u = 1 / K

  by projected steps on the unbiased products `gram_cross_KxK`, from the last
  update's :math:`w^*`.

  .. warning:: Steps are in units of the largest squared norm, so that one
    `step_size` serves all scales.

  Args:
    lamb: weight of the average.
    step_size: of each step.
    num_steps: in each update.

  References:
    Xiao et al., Direction-oriented Multi-objective Learning, 2023,
    arXiv:2305.18409

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.sdmgrad(lamb=0.)
  >>> gram_KxK = jnp.diag(jnp.array([1., 3.]))
  >>> print(weighting.update(gram_KxK, weighting.init(2),
  ...                        gram_cross_KxK=gram_KxK)[0].round(2))
  [0.69 0.31]
  """

  def init(num_tasks):
    return jnp.full(num_tasks, 1 / num_tasks)

  def update(gram_KxK, state, **extras):
    cross_KxK = needed(extras, 'gram_cross_KxK', 'sdmgrad', gram_KxK.shape)
    largest = jnp.max(jnp.abs(jnp.diag(gram_KxK)))
    cross_KxK = cross_KxK / jnp.where(largest > 0, largest, 1.0)
    mean_K = jnp.full(len(gram_KxK), 1 / len(gram_KxK))

    def step(_, w_K):
      slope_K = solvers.dot(cross_KxK, w_K + lamb * mean_K)
      return solvers.simplex(w_K - step_size * slope_K)

    w_K = jax.lax.fori_loop(0, num_steps, step, state)
    return (w_K + lamb * mean_K) / (1 + lamb), w_K

  return Weighting(init, update, 'sdmgrad')


def mt_grpo(step_size: float = 0.025, trade_off: float = 0.3) -> Weighting:
  r"""Moves weight to tasks of low reward that do not improve (MT-GRPO).

  .. math::
    s_k &= I_k + \lambda J_k, \qquad z = \operatorname{softmax}(\psi), \\
    \psi_k &\leftarrow \psi_k - \eta \, z_k
      \Big(s_k - \sum_j z_j s_j\Big), \qquad w = K z

  with :math:`J_k` a task's mean reward. Needs `rewards_K`.

  .. warning:: The improvement :math:`I_k` is that of the mean reward since the
    last update, not of the GRPO objective after it, which would take another
    pass; the step is plain gradient descent, not AdamW. The weights have the
    sum K, so that equal ones are `total`. The paper's sampler, which keeps
    shares of tasks after prompts are dropped, is not a weighting.

  Args:
    step_size: :math:`\eta`.
    trade_off: :math:`\lambda`, of reward against improvement.

  References:
    Multi-Task GRPO: Reliable LLM Reasoning Across Tasks, 2026, arXiv:2602.05547

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.mt_grpo(step_size=1.)
  >>> weights_K, _ = weighting.update(
  ...     jnp.eye(2), weighting.init(2), rewards_K=jnp.array([0.1, 0.9]))
  >>> print(jnp.array_str(weights_K, precision=3))
  [1.06 0.94]
  """

  def init(num_tasks):
    return jnp.zeros(num_tasks), jnp.zeros(num_tasks), jnp.zeros((), jnp.int32)

  def update(gram_KxK, state, **extras):
    num_tasks = len(gram_KxK)
    rewards_K = needed(extras, 'rewards_K', 'mt_grpo', (num_tasks,))
    logits_K, last_K, count = state
    improvement_K = jnp.where(count == 0, 0.0, rewards_K - last_K)
    signal_K = improvement_K + trade_off * rewards_K
    z_K = jax.nn.softmax(logits_K)
    slope_K = z_K * (signal_K - jnp.sum(z_K * signal_K))
    logits_K = logits_K - step_size * slope_K
    weights_K = num_tasks * jax.nn.softmax(logits_K)
    return weights_K, (logits_K, rewards_K, count + 1)

  return Weighting(init, update, 'mt_grpo')
