"""Weightings that do not look at the gradients."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from gradlens.types import Weighting


def stateless(
    weigh: Callable[[jax.Array], jax.Array], name: str = 'stateless'
) -> Weighting:
  """A weighting without state, from a function of the Gram matrix alone.

  Args:
    weigh: `weigh(gram_KxK) -> weights_K`, jittable.
    name: its name in messages.

  Returns:
    A `Weighting` whose state is `()`.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> mine = gl.stateless(lambda gram_KxK: 1 / jnp.sqrt(jnp.diag(gram_KxK)))
  >>> print(mine.update(jnp.diag(jnp.array([4., 25.])), mine.init(2))[0])
  [0.5 0.2]
  """

  def update(gram_KxK, state, **extras):
    del extras
    return weigh(gram_KxK), state

  return Weighting(lambda num_tasks: (), update, name)


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
  """Weights drawn anew at every update, of sum 1: the baseline to beat.

  Args:
    distribution: `'normal'`, the softmax of standard normals, or
      `'dirichlet'`, uniform on the simplex.
    key: a PRNG key; None is `jax.random.key(0)`. It is kept in the state.

  Raises:
    ValueError: if the distribution is unknown.

  References:
    Lin et al., Reasonable Effectiveness of Random Weighting, 2021,
    arXiv:2111.10603

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.random_weights()
  >>> weights_K, _ = weighting.update(jnp.eye(3), weighting.init(3))
  >>> print(f'{weights_K.sum():.4f}')
  1.0000
  """
  if distribution not in _DRAWS:
    raise ValueError(
        f'distribution={distribution!r}; use one of {", ".join(_DRAWS)}'
    )

  def init(num_tasks):
    del num_tasks
    return jax.random.key(0) if key is None else jnp.copy(key)

  def update(gram_KxK, state, **extras):
    del extras
    state, own = jax.random.split(state)
    return _DRAWS[distribution](own, len(gram_KxK)), state

  return Weighting(init, update, 'random_weights')


_DRAWS = {
    'normal': lambda key, k: jax.nn.softmax(jax.random.normal(key, (k,))),
    'dirichlet': lambda key, k: jax.random.dirichlet(key, jnp.ones(k)),
}
