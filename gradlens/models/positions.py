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
    seen: what `attend` finds out from which keys are seen.
    kind: the layer's place in `DecoderConfig.kinds`; None if there is one only.
  """

  cos: jax.Array
  sin: jax.Array
  seen: Any
  kind: jax.Array | None = None

  def of(self, kind: jax.Array | None) -> 'View':
    """That of one kind; None where there is one only."""
    at = 0 if kind is None else kind
    own = jax.tree.map(
        lambda a: jax.lax.dynamic_index_in_dim(a, at, keepdims=False), self
    )
    return own._replace(kind=kind)


def kinds_of_layers(config: DecoderConfig) -> jax.Array | None:
  """Each layer's place in `config.kinds`; None where there is one only."""
  if len(config.kinds) == 1:
    return None
  return jnp.array([config.kinds.index(kind) for kind in config.layer_types])


def positions(segments: jax.Array) -> jax.Array:
  """Counts from the beginning of each segment: padding on the left is one.

  `[..., L]`, as the segments, or as a mask.
  """
  axis = segments.ndim - 1
  index = jax.lax.broadcasted_iota(jnp.int32, segments.shape, axis)
  begins = segments != jnp.roll(segments, 1, axis)
  return index - jax.lax.cummax(jnp.where(begins, index, 0), axis)


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


def in_sight(steps_back: jax.Array, window: int | None) -> jax.Array:
  """Which keys are near enough, by how far back they are."""
  if window is None:
    return jnp.ones(steps_back.shape, bool)
  return steps_back < window


def view(config: DecoderConfig, segments_BxL: jax.Array) -> View:
  """Of whole sequences; what is seen are the segments, `[kinds, B, L]`."""
  shape = (len(config.kinds), *segments_BxL.shape)
  return View(
      *rotations(config, positions(segments_BxL)),
      jnp.broadcast_to(segments_BxL.astype(jnp.int32), shape),
  )


def group_view(
    config: DecoderConfig, mask_NxT: jax.Array, mask_NxGxC: jax.Array
) -> View:
  """Of prompts, each with G completions behind it, T + G x C tokens.

  What is seen are tokens of the prompts, bool `[kinds, N, T]`, and of the
  completions, `[kinds, N, G, C]`.
  """
  n, g, c = mask_NxGxC.shape
  length_Nx1 = jnp.sum(mask_NxT, axis=-1, keepdims=True)
  completion_1xGC = jnp.tile(jnp.arange(c), g)[None]
  places_NxL = jnp.concatenate(
      [positions(mask_NxT), length_Nx1 + completion_1xGC], axis=1
  )
  return View(
      *rotations(config, places_NxL),
      tuple(
          jnp.broadcast_to(mask, (len(config.kinds), *mask.shape))
          for mask in (mask_NxT, mask_NxGxC)
      ),
  )


def decode_view(
    config: DecoderConfig, mask_NxT: jax.Array, num_decoded: int,
    index_N: jax.Array,
) -> View:
  """Of one new token of each completion, on all before it.

  What is seen are tokens of the prompt, bool `[kinds, N, T]`, and tokens
  decoded before, `[kinds, N, C]`.

  Args:
    config: of the model.
    mask_NxT: which prompt positions hold a token.
    num_decoded: C, the room for decoded tokens.
    index_N: how many tokens each prompt's completions have already.
  """
  index_Nx1 = index_N[:, None]
  place_Nx1 = jnp.sum(mask_NxT, axis=-1, keepdims=True) + index_Nx1
  of_prompt_NxT = place_Nx1 - positions(mask_NxT)
  of_decoded_NxC = index_Nx1 - jnp.arange(num_decoded)[None]
  return View(
      *rotations(config, place_Nx1),
      (
          jnp.stack([
              mask_NxT & in_sight(of_prompt_NxT, window)
              for window in config.windows
          ]),
          jnp.stack([
              (of_decoded_NxC > 0) & in_sight(of_decoded_NxC, window)
              for window in config.windows
          ]),
      ),
  )
