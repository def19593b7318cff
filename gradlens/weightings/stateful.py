"""Weightings that learn their weights over steps."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlens.types import Weighting
from gradlens.weightings.base import need, preferring
from gradlens.weightings.solvers import TINY, dot, norms, simplex


class GradNormState(NamedTuple):
  """State of `gradnorm`.

  Attributes:
    weights_K: they sum to K.
    first_K: the losses of the first update.
    adam: of the weights.
  """

  weights_K: jax.Array
  first_K: jax.Array
  adam: optax.ScaleByAdamState


def gradnorm(alpha: float = 1.5, learning_rate: float = 0.025) -> Weighting:
  r"""Lengths that let all tasks learn at one rate (GradNorm).

  With :math:`n_k = w_k \sqrt{G_{kk}}` and the inverse training rates
  :math:`r_k = (L_k / L_k^0) / \operatorname{mean}_l (L_l / L_l^0)`, one step of
  Adam on

  .. math:: \sum_k \left| n_k - \bar n\, r_k^\alpha \right|

  with :math:`\bar n r_k^\alpha` held fixed, after which the weights are scaled
  to sum to K. Lengths count in units of their mean, so that gradients of all
  scales are learned from alike.

  .. warning:: Of a loss that was 0 at first the rate is taken as 1.

  Args:
    alpha: how strongly slow tasks are pulled along.
    learning_rate: of the weights.

  Returns:
    A `Weighting` that needs `losses_K`, positive.

  Raises:
    ValueError: at `update`, without `losses_K`.

  References:
    Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in
    Deep Multitask Networks, 2017, arXiv:1711.02257

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.gradnorm()
  >>> gram_KxK = jnp.diag(jnp.array([1., 9.]))
  >>> weights_K, _ = weighting.update(gram_KxK, weighting.init(2),
  ...                                 losses_K=jnp.ones(2))
  >>> print([f'{weight:.3f}' for weight in weights_K])
  ['1.025', '0.975']
  """
  adam = optax.scale_by_adam()

  def init(num_tasks):
    return GradNormState(
        jnp.ones(num_tasks),
        jnp.ones(num_tasks),
        adam.init(jnp.ones(num_tasks)),
    )

  def update(gram_KxK, state, *, losses_K=None, **extras):
    del extras
    losses_K = need(losses_K, 'losses_K', 'gradnorm', (len(gram_KxK),))
    first_K = jnp.where(state.adam.count == 0, losses_K, state.first_K)
    rates_K = jnp.where(first_K > 0, losses_K / jnp.where(
        first_K > 0, first_K, 1.0), 1.0)
    rates_K = jnp.maximum(rates_K / jnp.maximum(jnp.mean(rates_K), 1e-8), 0.0)
    norms_K = norms(gram_KxK)
    norms_K /= jnp.maximum(jnp.mean(norms_K), TINY)
    lengths_K = state.weights_K * norms_K
    goals_K = jnp.mean(lengths_K) * rates_K**alpha
    slope_K = jnp.sign(lengths_K - goals_K) * norms_K
    step_K, adam_state = adam.update(slope_K, state.adam)
    weights_K = jnp.maximum(state.weights_K - learning_rate * step_K, 1e-6)
    weights_K *= len(norms_K) / jnp.sum(weights_K)
    return weights_K, GradNormState(weights_K, first_K, adam_state)

  return Weighting(init, update, 'gradnorm')


def modo(gamma: float = 0.1, rho: float = 0.1) -> Weighting:
  r"""Gradient steps towards the shortest combination, without bias (MoDo).

  .. math::
    w \leftarrow \operatorname{proj}_\Delta (w - \gamma (A + \rho I) w), \qquad
    A = J_1 J_2^\top

  of two independent batches. The splits of a task's prompts are independent, so
  that one batch has such products.

  Args:
    gamma: the step size; in the units of one over a squared gradient.
    rho: pulls the weights together.

  Returns:
    A `Weighting` that needs `gram_cross_KxK`; its weights sum to 1.

  Raises:
    ValueError: at `update`, without `gram_cross_KxK`.

  References:
    Chen et al., Three-Way Trade-Off in Multi-Objective Learning: Optimization,
    Generalization and Conflict-Avoidance, 2023, arXiv:2305.20057

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.modo()
  >>> cross_KxK = jnp.diag(jnp.array([1., 3.]))
  >>> weights_K, _ = weighting.update(cross_KxK, weighting.init(2),
  ...                                 gram_cross_KxK=cross_KxK)
  >>> print([f'{weight:.3f}' for weight in weights_K])
  ['0.550', '0.450']
  """

  def init(num_tasks):
    return jnp.full(num_tasks, 1 / num_tasks, jnp.float32)

  def update(gram_KxK, state, *, gram_cross_KxK=None, **extras):
    del extras
    shape = gram_KxK.shape
    cross_KxK = need(gram_cross_KxK, 'gram_cross_KxK', 'modo', shape)
    weights_K = simplex(state - gamma * (dot(cross_KxK, state) + rho * state))
    return weights_K, weights_K

  return Weighting(init, update, 'modo')


def sdmgrad(
    lam: float = 0.3,
    learning_rate: float = 10.0,
    momentum: float = 0.5,
    num_steps: int = 20,
    pref: Sequence[float] | None = None,
) -> Weighting:
  r"""The shortest combination near a preferred one, without bias (SDMGrad).

  Projected gradient steps with momentum on the simplex, from the weights of the
  update before, for

  .. math:: \min_w \| J^\top (w + \lambda u) \|^2, \qquad
    \text{weights } (w + \lambda u) / (1 + \lambda)

  with :math:`A = J_1 J_2^\top` of independent splits in place of
  :math:`J J^\top`, in units of the mean length squared.

  Args:
    lam: :math:`\lambda`, how close to the preference; 0.3 in the experiments.
    learning_rate: of the steps.
    momentum: of the steps.
    num_steps: at each update.
    pref: u; None is 1/K for all.

  Returns:
    A `Weighting` that needs `gram_cross_KxK`.

  Raises:
    ValueError: at `update`, without `gram_cross_KxK`; when initialized for
      another number of tasks.

  References:
    Xiao et al., Direction-oriented Multi-objective Learning: Simple and
    Provable Stochastic Algorithms, 2023, arXiv:2305.18409

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.sdmgrad()
  >>> cross_KxK = jnp.diag(jnp.array([1., 1.]))
  >>> weights_K, _ = weighting.update(cross_KxK, weighting.init(2),
  ...                                 gram_cross_KxK=cross_KxK)
  >>> print([f'{weight:.3f}' for weight in weights_K])
  ['0.500', '0.500']
  """
  preferred = preferring(lambda gram_KxK, pref_K: pref_K, pref, 'sdmgrad')

  def init(num_tasks):
    preferred.init(num_tasks)
    return jnp.full(num_tasks, 1 / num_tasks, jnp.float32)

  def update(gram_KxK, state, *, gram_cross_KxK=None, **extras):
    del extras
    shape = gram_KxK.shape
    cross_KxK = need(gram_cross_KxK, 'gram_cross_KxK', 'sdmgrad', shape)
    pref_K, _ = preferred.update(cross_KxK, ())
    scale = jnp.mean(norms(cross_KxK))
    largest = jnp.maximum(jnp.max(jnp.abs(cross_KxK)), TINY)
    cross_KxK /= jnp.where(scale > 0, scale**2, largest)

    def step(_, carry):
      weights_K, speed_K = carry
      speed_K = momentum * speed_K + dot(cross_KxK, weights_K + lam * pref_K)
      return simplex(weights_K - learning_rate * speed_K), speed_K

    own_K = state.astype(cross_KxK.dtype)
    start = (own_K, jnp.zeros_like(own_K))
    weights_K, _ = jax.lax.fori_loop(0, num_steps, step, start)
    return (weights_K + lam * pref_K) / (1 + lam), weights_K

  return Weighting(init, update, 'sdmgrad')


class MtGrpoState(NamedTuple):
  """State of `mt_grpo`.

  Attributes:
    logits_K: of the weights.
    rewards_K: of the update before.
    adam: of the logits.
  """

  logits_K: jax.Array
  rewards_K: jax.Array
  adam: optax.ScaleByAdamState


def mt_grpo(
    lam: float = 0.2,
    learning_rate: float = 0.025,
    weight_decay: float = 1e-5,
    clip: float = 0.1,
) -> Weighting:
  r"""More weight to tasks that earn little and improve little (MT-GRPO).

  With :math:`z = \operatorname{softmax}(\xi)`, rewards :math:`J_k` and
  improvements :math:`I_k`, one step of AdamW on :math:`\xi` along

  .. math:: g_k = z_k \Big(s_k - \sum_j z_j s_j\Big), \qquad
    s_k = I_k + \lambda J_k

  .. warning:: The paper takes the improvement of the clipped GRPO objective, on
    the same batch, after the step. An optimizer does not see that one: here it
    is the change of the reward since the update before, 0 at first. The paper
    draws prompts in proportion to z, and keeps the shares where prompts drop
    out; here z weighs the gradients.

  Args:
    lam: :math:`\lambda`; the paper has 0.1 to 1.2, larger for more weight on
      the worst task.
    learning_rate: of the logits.
    weight_decay: of the logits; 1e-4 in the paper's second experiment.
    clip: improvements are clipped to plus and minus this.

  Returns:
    A `Weighting` that needs `rewards_K`; its weights sum to 1.

  Raises:
    ValueError: at `update`, without `rewards_K`.

  References:
    Ramesh et al., Multi-Task GRPO: Reliable LLM Reasoning Across Tasks, 2026,
    arXiv:2602.05547

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.mt_grpo()
  >>> weights_K, _ = weighting.update(jnp.eye(2), weighting.init(2),
  ...                                 rewards_K=jnp.array([0.9, 0.1]))
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['0.4875', '0.5125']
  """
  adam = optax.scale_by_adam()

  def init(num_tasks):
    # Arrays of their own, so that the state can be donated.
    zeros_K = jnp.zeros(num_tasks)
    return MtGrpoState(zeros_K, jnp.zeros(num_tasks), adam.init(zeros_K))

  def update(gram_KxK, state, *, rewards_K=None, **extras):
    del extras
    rewards_K = need(rewards_K, 'rewards_K', 'mt_grpo', (len(gram_KxK),))
    gains_K = jnp.clip(rewards_K - state.rewards_K, -clip, clip)
    gains_K = jnp.where(state.adam.count == 0, 0.0, gains_K)
    signal_K = gains_K + lam * rewards_K
    shares_K = jax.nn.softmax(state.logits_K)
    slope_K = shares_K * (signal_K - jnp.sum(shares_K * signal_K))
    step_K, adam_state = adam.update(slope_K, state.adam)
    step_K += weight_decay * state.logits_K
    logits_K = state.logits_K - learning_rate * step_K
    state = MtGrpoState(logits_K, rewards_K, adam_state)
    return jax.nn.softmax(logits_K), state

  return Weighting(init, update, 'mt_grpo')
