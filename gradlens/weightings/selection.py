"""Weightings that set some tasks before others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.solvers import TINY, complementary, dot, unit_rows


def krum(num_byzantine: int = 0, num_selected: int = 1) -> Weighting:
  r"""The gradients with the nearest neighbors only (Krum, Multi-Krum).

  The score of a task is the sum of squared distances to its K - f - 2 nearest:

  .. math:: \sum_{l \in N(k)} G_{kk} + G_{ll} - 2 G_{kl}

  The tasks with the lowest scores share the weight; with fewer than three tasks
  there are no neighbors, and the first ones are taken.

  Args:
    num_byzantine: f, how many gradients may be anything.
    num_selected: how many are averaged.

  Raises:
    ValueError: if a number is out of range, or when initialized for fewer than
      f + 3 tasks with f above 0, or fewer than are selected.

  References:
    Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent, 2017

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> rows = jnp.array([[1., 0.], [1., 0.1], [9., 9.]])
  >>> print(gl.krum().update(gl.gram(rows), ())[0])
  [1. 0. 0.]
  """
  if num_byzantine < 0 or num_selected < 1:
    raise ValueError(
        f'num_byzantine={num_byzantine} must be at least 0 and num_selected='
        f'{num_selected} at least 1'
    )

  def init(num_tasks):
    fewest = max(num_byzantine + 3 if num_byzantine else 1, num_selected)
    if num_tasks < fewest:
      raise ValueError(
          f'krum(num_byzantine={num_byzantine}, num_selected={num_selected}) '
          f'needs {fewest} tasks or more, got {num_tasks}'
      )
    return ()

  def update(gram_KxK, state, **extras):
    del extras
    num_tasks = len(gram_KxK)
    norms_sq_K = jnp.diag(gram_KxK)
    apart_KxK = norms_sq_K[:, None] + norms_sq_K[None, :] - 2 * gram_KxK
    apart_KxK = jnp.maximum(apart_KxK, 0.0)
    own_KxK = jnp.eye(num_tasks, dtype=bool)
    ranked_KxK = jnp.sort(jnp.where(own_KxK, jnp.inf, apart_KxK), axis=1)
    num_near = max(num_tasks - num_byzantine - 2, 0)
    scores_K = jnp.sum(ranked_KxK[:, :num_near], axis=1)
    chosen = jnp.argsort(scores_K)[:num_selected]
    weights_K = jnp.zeros(num_tasks).at[chosen].set(1 / num_selected)
    return weights_K, state

  return Weighting(init, update, 'krum')


class PcdState(NamedTuple):
  """State of `pcd`.

  Attributes:
    norms_sq_K: the moving average of squared lengths, biased towards 0.
    count: updates so far.
  """

  norms_sq_K: jax.Array
  count: jax.Array


def pcd(tau: float = 0.02, beta: float = 0.999) -> Weighting:
  r"""The first task first, with some progress for the others (PCD).

  With gradients :math:`\tilde g_k` over the root of the moving average of
  their squared lengths:

  .. math:: \min_d \tfrac12 \|d - \tilde g_1\|^2 \quad \text{such that} \quad
    \langle \tilde g_k, d \rangle \ge \tau \|\tilde g_k\|^2, \quad k \ge 2

  and the update is d with the length of :math:`g_1`. If nothing satisfies the
  constraints, it is :math:`g_1`.

  .. warning:: Nothing is added to the moving average, where the paper adds
    1e-8, so that gradients of all scales are treated alike.

  Args:
    tau: the share of its own best progress that each other task gets.
    beta: the decay of the moving average.

  Returns:
    A `Weighting` with the first task as the primary one.

  Raises:
    ValueError: if tau or beta is out of range.

  References:
    Not All Objectives Are Born Equal: Priority-Constrained Descent for
    Hierarchical Multi-Objective Optimization, 2026, arXiv:2606.29521

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.pcd()
  >>> gram_KxK = jnp.array([[18., -22.], [-22., 38.]])
  >>> weights_K, _ = weighting.update(gram_KxK, weighting.init(2))
  >>> print([f'{weight:.4f}' for weight in weights_K])
  ['1.8481', '1.0954']
  """
  if not 0 <= tau <= 1 or not 0 <= beta < 1:
    raise ValueError(f'tau={tau} must be in [0, 1] and beta={beta} in [0, 1)')

  def init(num_tasks):
    return PcdState(jnp.zeros(num_tasks), jnp.zeros((), jnp.int32))

  def update(gram_KxK, state, **extras):
    del extras
    norms_K, by_K, cosines_KxK = unit_rows(gram_KxK)
    count = state.count + 1
    average_K = beta * state.norms_sq_K + (1 - beta) * norms_K**2
    usual_K = jnp.sqrt(average_K / (1 - beta**count))
    usual_K = jnp.where(usual_K > 0, usual_K, jnp.inf)
    on_units_K = _prioritized(cosines_KxK, norms_K / usual_K, tau)
    length_sq = jnp.maximum(dot(on_units_K, dot(cosines_KxK, on_units_K)), 0.0)
    known = length_sq > 1e-6 * jnp.sum(jnp.abs(on_units_K)) ** 2
    stretch = jnp.where(known, norms_K[0], 0.0) / jnp.sqrt(
        jnp.where(known, length_sq, 1.0)
    )
    return on_units_K * (stretch / by_K), PcdState(average_K, count)

  return Weighting(init, update, 'pcd')


def _prioritized(
    cosines_KxK: jax.Array, lengths_K: jax.Array, tau: float
) -> jax.Array:
  """The solution as a combination of unit rows, the first one primary."""
  others_K = jnp.arange(len(lengths_K)) > 0
  both_KxK = others_K[:, None] & others_K[None, :]
  largest = jnp.maximum(jnp.max(lengths_K), TINY)
  room_K = (cosines_KxK[0] * lengths_K[0] - tau * lengths_K) / largest
  room_K = jnp.where(others_K, room_K, 1.0)
  matrix_KxK = jnp.where(both_KxK, cosines_KxK, 0.0)
  added_K = complementary(matrix_KxK, room_K[None, :])[0]
  slack_K = room_K + dot(matrix_KxK, added_K)
  feasible = jnp.min(slack_K) > -1e-3
  added_K = jnp.where(feasible & others_K, added_K * largest, 0.0)
  return jnp.where(others_K, added_K, lengths_K)
