"""Weightings that choose among the gradients."""

import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.fixed import stateless


def krum(num_byzantine: int = 1, num_selected: int = 1) -> Weighting:
  r"""Averages the gradients that lie closest to their neighbors (Multi-Krum).

  A task's score is the sum of its distances to the K - f - 2 (but at least one)
  closest others;
  the `num_selected` lowest scores have weight 1 / num_selected each.

  .. warning:: Distances are not squared, as in TorchJD; the paper squares them.

  Args:
    num_byzantine: f, how many gradients may be anything.
    num_selected: how many are averaged.

  Raises:
    ValueError: if a number is out of range; when initialized with f tasks or
      fewer, or fewer than are to be selected.

  References:
    Blanchard et al., Machine Learning with Adversaries, 2017, arXiv:1703.02757

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> rows = jnp.array([[1., 0.], [1.1, 0.], [0.9, 0.], [-50., 3.]])
  >>> print(gl.krum().update(gl.gram(rows), ())[0])
  [1. 0. 0. 0.]
  """
  if num_byzantine < 0 or num_selected < 1:
    raise ValueError(
        f'num_byzantine={num_byzantine} must not be negative, and '
        f'num_selected={num_selected} must be positive'
    )

  def init(num_tasks):
    least = max(num_byzantine + 1, num_selected)
    if num_tasks < least:
      raise ValueError(
          f'krum() with num_byzantine={num_byzantine} and num_selected='
          f'{num_selected} needs {least} tasks, not {num_tasks}'
      )
    return ()

  def weigh(gram_KxK):
    num_tasks = len(gram_KxK)
    # In units of the longest, since squares of 1e20 overflow.
    longest_sq = jnp.max(jnp.abs(jnp.diag(gram_KxK)))
    scaled_KxK = gram_KxK / jnp.where(longest_sq > 0, longest_sq, 1.0)
    norms_sq_K = jnp.diag(scaled_KxK)
    squares_KxK = norms_sq_K[:, None] + norms_sq_K[None, :] - 2 * scaled_KxK
    others_KxK = jnp.where(jnp.eye(num_tasks, dtype=bool), 0.0, squares_KxK)
    distances_KxK = jnp.sort(jnp.sqrt(jnp.maximum(others_KxK, 0.0)), axis=1)
    closest = max(num_tasks - num_byzantine - 2, 1)
    scores_K = distances_KxK[:, 1 : closest + 1].sum(axis=1)
    ranks_K = jnp.argsort(jnp.argsort(scores_K))
    return jnp.where(ranks_K < num_selected, 1 / num_selected, 0.0)

  weighting = stateless(weigh, 'krum')
  return Weighting(init, weighting.update, 'krum')
