"""Base: what weightings are made of."""

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
  given = None if pref is None else tuple(pref)

  def init(num_tasks):
    if given is not None and len(given) != num_tasks:
      raise ValueError(f'{name}() has pref={given} for {num_tasks} tasks')
    return ()

  def update(gram_KxK, state, **extras):
    del extras
    num_tasks = len(gram_KxK)
    even = (1 / num_tasks,) * num_tasks
    pref_K = jnp.array(even if given is None else given, gram_KxK.dtype)
    return weigh(gram_KxK, pref_K), state

  return Weighting(init, update, name)


def need(
    value: jax.Array | None, extra: str, name: str, shape: tuple[int, ...]
) -> jax.Array:
  """The extra that a method cannot do without, in float32 or better.

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
  value = jnp.asarray(value)
  return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def own_key(key: jax.Array | None) -> jax.Array:
  """The key to begin with."""
  # A copy: a training step may donate the state, and the key with it.
  return jax.random.key(0) if key is None else jnp.copy(key)
