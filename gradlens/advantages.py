"""Advantages: how much better a completion was than its prompt's others."""

import jax
import jax.numpy as jnp


def degenerate_groups(rewards_KxBxG: jax.Array) -> jax.Array:
  """Which groups hold one reward only, and so carry no gradient: `[K, B]`."""
  return jnp.max(rewards_KxBxG, axis=-1) == jnp.min(rewards_KxBxG, axis=-1)


def group_advantages(rewards_KxBxG: jax.Array, *, scale: str) -> jax.Array:
  """Rewards relative to the group of completions of the same prompt.

  Statistics never leave a group, so the advantages of different prompts are
  independent, which the unbiased gradient norms rely on.

  Args:
    rewards_KxBxG: float32 rewards.
    scale: 'std' divides by the group's (population) standard deviation;
      'none' only subtracts the mean.

  Returns:
    float32 `[K, B, G]`; exactly 0 in a group of equal rewards, where rounding
    of the mean would otherwise be divided by a deviation of almost 0.

  Raises:
    ValueError: an unknown `scale`.

  References:
    Shao et al., DeepSeekMath, 2024, arXiv 2402.03300 ('std');
    Liu et al., Understanding R1-Zero-Like Training, 2025, arXiv 2503.20783
    ('none').
  """
  if scale not in ('std', 'none'):
    raise ValueError(f"scale={scale!r}: choose 'std' or 'none'.")
  centered = rewards_KxBxG - jnp.mean(rewards_KxBxG, axis=-1, keepdims=True)
  if scale == 'std':
    deviation = jnp.std(rewards_KxBxG, axis=-1, keepdims=True)
    centered = centered / jnp.where(deviation == 0, 1.0, deviation)
  return jnp.where(degenerate_groups(rewards_KxBxG)[..., None], 0.0, centered)
