"""Where tokens stand, how that turns them, and which others they see."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlens.models.config import SLIDING, DecoderConfig, RopeScaling


class View(NamedTuple):
  """What a layer is told of its tokens' places.

  With an axis of the kinds of attention in front (`DecoderConfig.kinds`) until
  a layer has picked its own.

  Attributes:
    cos: of the rotary angles, float32 `[B, L, 1, E / 2]`.
    sin: of the same.
    mask: which keys are seen; what `attend` takes.
  """

  cos: jax.Array
  sin: jax.Array
  mask: Any

  def of(self, kind: jax.Array | None) -> 'View':
    """That of one kind; None where there is one only."""
    at = 0 if kind is None else kind
    return jax.tree.map(
        lambda a: jax.lax.dynamic_index_in_dim(a, at, keepdims=False), self
    )


def kinds_of_layers(config: DecoderConfig) -> jax.Array | None:
  """Each layer's place in `config.kinds`; None where there is one only."""
  if len(config.kinds) == 1:
    return None
  return jnp.array([config.kinds.index(kind) for kind in config.layer_types])


def positions(mask: jax.Array) -> jax.Array:
  """Counts real tokens only, so that padding on the left is not seen.

  `[..., L]`, as the mask.
  """
  return jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)


def _stretched(
    frequencies: np.ndarray, scaling: RopeScaling | None
) -> np.ndarray:
  """Rotary frequencies for a longer context than the original one."""
  if scaling is None:
    return frequencies
  slow = frequencies / scaling.factor
  if scaling.rope_type == 'linear':
    return slow
  # Llama 3.1: waves longer than the original context are slowed, short ones
  # are kept.
  turns = scaling.original_max_position_embeddings * frequencies / (2 * np.pi)
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  kept = np.clip((turns - low) / (high - low), 0, 1)
  return kept * frequencies + (1 - kept) * slow


def frequencies(config: DecoderConfig, kind: str) -> np.ndarray:
  """Radians a position of each pair of a head's entries, float32 `[E / 2]`."""
  half = config.head_dim // 2
  powers = -np.arange(half) / half
  if kind == SLIDING and config.rope_local_base_freq is not None:
    return np.float32(config.rope_local_base_freq**powers)
  return np.float32(_stretched(config.rope_theta**powers, config.rope_scaling))


def rotations(
    config: DecoderConfig, positions_BxL: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Cosine and sine of rotary angles, float32 `[kinds, B, L, 1, E / 2]`."""
  of_kinds = np.stack([frequencies(config, kind) for kind in config.kinds])
  angles = positions_BxL[None, ..., None, None] * of_kinds[:, None, None, None]
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BxLxHxE: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotary position embedding, halves paired as in Llama (Su et al., 2021)."""
  a, b = jnp.split(x_BxLxHxE.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return rotated.astype(x_BxLxHxE.dtype)


def in_sight(config: DecoderConfig, steps_back: jax.Array) -> jax.Array:
  """Which keys are near enough, `[kinds, ...]`, by how far back they are."""
  return jnp.stack([
      steps_back < config.sliding_window
      if kind == SLIDING else jnp.ones(steps_back.shape, bool)
      for kind in config.kinds
  ])


def view(config: DecoderConfig, mask_BxL: jax.Array) -> View:
  """Of a whole sequence on itself; the mask becomes `[kinds, B, L, L]`."""
  positions_BxL = positions(mask_BxL)
  index_L = jnp.arange(mask_BxL.shape[-1])
  before_LxM = index_L[:, None] >= index_L[None, :]
  seen_BxLxM = before_LxM[None] & mask_BxL[:, None, :]
  back_BxLxM = positions_BxL[:, :, None] - positions_BxL[:, None, :]
  return View(
      *rotations(config, positions_BxL),
      seen_BxLxM[None] & in_sight(config, back_BxLxM),
  )


def decode_view(
    config: DecoderConfig, mask_NxT: jax.Array, num_decoded: int,
    index_N: jax.Array,
) -> View:
  """Of one new token of each completion, on all before it.

  The mask becomes that of the prompt, `[kinds, N, T]`, and that of the tokens
  decoded before, `[kinds, N, C]`.

  Args:
    config: of the model.
    mask_NxT: which prompt positions hold a token.
    num_decoded: C, the room for decoded tokens.
    index_N: how many tokens each prompt's completions have already.
  """
  index_Nx1 = index_N[:, None]
  place_Nx1 = jnp.sum(mask_NxT, axis=-1, keepdims=True) + index_Nx1
  back_NxC = index_Nx1 - jnp.arange(num_decoded)[None]
  return View(
      *rotations(config, place_Nx1),
      (
          mask_NxT[None] & in_sight(config, place_Nx1 - positions(mask_NxT)),
          (back_NxC > 0)[None] & in_sight(config, back_NxC),
      ),
  )
