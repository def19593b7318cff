"""Weightings that do not look at the gradients."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gradlens.types import Weighting
from gradlens.weightings.base import own_key, stateless


def total() -> Weighting:
  """The sum of the contributions: all weights 1, the uncorrected update.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.total().update(jnp.eye(3), ())[0])
  [1. 1. 1.]
  """
  return stateless(lambda gram_KxK: jnp.ones(len(gram_KxK)), 'total')


def mean() -> Weighting:
  """The average of the contributions: all weights 1/K.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.mean().update(jnp.eye(4), ())[0])
  [0.25 0.25 0.25 0.25]
  """
  return stateless(
      lambda gram_KxK: jnp.full(len(gram_KxK), 1 / len(gram_KxK)), 'mean'
  )


def constant(weights: Sequence[float]) -> Weighting:
  """Weights given once, one per task.

  Args:
    weights: K numbers.

  Raises:
    ValueError: when initialized for another number of tasks.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.constant([0.5, 2.]).update(jnp.eye(2), ())[0])
  [0.5 2. ]
  """
  weights = tuple(float(weight) for weight in weights)

  def init(num_tasks):
    if num_tasks != len(weights):
      raise ValueError(
          f'constant() has {len(weights)} weights for {num_tasks} tasks'
      )
    return ()

  def update(gram_KxK, state, **extras):
    del gram_KxK, extras
    return jnp.array(weights, jnp.float32), state

  return Weighting(init, update, 'constant')


def random_weights(
    distribution: str = 'normal', key: jax.Array | None = None
) -> Weighting:
  r"""New random weights at every update (RLW).

  .. math:: w = \operatorname{softmax}(x),\ x \sim N(0, I)
    \qquad \text{or} \qquad w \sim \operatorname{Dirichlet}(1)

  Args:
    distribution: `'normal'` or `'dirichlet'`.
    key: a PRNG key; None is `jax.random.key(0)`. It is kept in the state and
      changes at every update.

  Returns:
    A `Weighting` with weights that sum to 1.

  Raises:
    ValueError: if the distribution is unknown.

  References:
    Lin et al., Reasonable Effectiveness of Random Weighting: A Litmus Test for
    Multi-Task Learning, 2021, arXiv:2111.10603

  >>> import jax
  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.random_weights(key=jax.random.key(1))
  >>> weights_K, state = weighting.update(jnp.eye(3), weighting.init(3))
  >>> print(f'{weights_K.sum():.3f}')
  1.000
  """
  if distribution not in ('normal', 'dirichlet'):
    raise ValueError(
        f"distribution={distribution!r}; use 'normal' or 'dirichlet'"
    )

  def update(gram_KxK, state, **extras):
    del extras
    state, draw_key = jax.random.split(state)
    if distribution == 'normal':
      logits_K = jax.random.normal(draw_key, (len(gram_KxK),))
      return jax.nn.softmax(logits_K), state
    return jax.random.dirichlet(draw_key, jnp.ones(len(gram_KxK))), state

  return Weighting(lambda num_tasks: own_key(key), update, 'random_weights')
