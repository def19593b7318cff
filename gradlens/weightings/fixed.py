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


def own_key(key: jax.Array | None) -> jax.Array:
  """The key to begin with."""
  # A copy: a training step may donate the state, and the key with it.
  return jax.random.key(0) if key is None else jnp.copy(key)


def preferring(
    weigh: Callable[[jax.Array, jax.Array], jax.Array],
    pref: Sequence[float] | None,
    name: str,
) -> Weighting:
  """A weighting without state that knows preferences; None is 1/K for all.

  Args:
    weigh: `weigh(gram_KxK, pref_K) -> weights_K`.
    pref: K numbers.
    name: of the factory.
  """
  fixed = None if pref is None else constant(pref)

  def init(num_tasks):
    if fixed is not None and len(tuple(pref)) != num_tasks:
      raise ValueError(
          f'{name}() has pref={tuple(pref)} for {num_tasks} tasks'
      )
    return ()

  def update(gram_KxK, state, **extras):
    del extras
    source = mean() if fixed is None else fixed
    return weigh(gram_KxK, source.update(gram_KxK, ())[0]), state

  return Weighting(init, update, name)


def need(
    value: jax.Array | None, extra: str, name: str, shape: tuple[int, ...]
) -> jax.Array:
  """The extra that a method cannot do without, as float32.

  Raises:
    ValueError: if it was not given, or has another shape.
  """
  if value is None:
    how = f'write tx.update(grads, state, params, {extra}=...)'
    if extra == 'gram_cross_KxK':
      how = 'give num_splits >= 2 to gl.correct, which then passes it'
    elif extra == 'losses_K':
      how += ', in RL 1 - rewards_K'
    raise ValueError(f'{name}() needs {extra}: {how}')
  if jnp.shape(value) != shape:
    raise ValueError(
        f'{name}() needs {extra} of shape {shape}, got {jnp.shape(value)}'
    )
  return jnp.asarray(value, jnp.float32)
