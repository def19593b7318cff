"""Masked reductions: the only place where a count is divided by.

Import the module (`from gradlens import masked`), since the names are those
of builtins.
"""

import jax
import jax.numpy as jnp

Axis = int | tuple[int, ...] | None


def divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """Quotient, and 0 where the denominator is 0."""
  empty = denominator == 0
  return jnp.where(empty, 0.0, numerator / jnp.where(empty, 1.0, denominator))


def sum(x: jax.Array, mask: jax.Array, axis: Axis = None) -> jax.Array:
  """Sum where the mask is True; what is masked may be NaN."""
  return jnp.sum(jnp.where(mask, x, 0.0), axis=axis)


def count(mask: jax.Array, axis: Axis = None) -> jax.Array:
  """How many are True, as float32."""
  return jnp.sum(mask, axis=axis, dtype=jnp.float32)


def mean(x: jax.Array, mask: jax.Array, axis: Axis = None) -> jax.Array:
  """Mean where the mask is True, and 0 where nothing is."""
  return divide(sum(x, mask, axis), count(mask, axis))
