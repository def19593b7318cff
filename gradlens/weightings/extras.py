"""What a weighting may be given beside the Gram matrix."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def needed(
    extras: Mapping[str, Any], name: str, weighting: str, shape: tuple[int, ...]
) -> jax.Array:
  """An extra argument, float32; refuses a missing or misshaped one."""
  if name not in extras:
    how = (
        'give num_splits >= 2 to gl.correct, which then computes it'
        if name == 'gram_cross_KxK'
        else f'write tx.update(grads, state, params, {name}=...)'
    )
    raise ValueError(f'{weighting}() needs {name}: {how}')
  value = jnp.asarray(extras[name], jnp.float32)
  if value.shape != shape:
    raise ValueError(
        f'{weighting}() needs {name} of shape {shape}, got {value.shape}'
    )
  return value
