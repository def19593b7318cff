"""Layouts: what a row's tokens are to each other.

N sequences of L tokens; or N prompts of T tokens with G completions of C, of
which the first M = C - 1 are computed: L = T + G x M.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens.models import positions
from gradlens.models.config import DecoderConfig
from gradlens.models.positions import View


class Sequences(NamedTuple):
  """Sequences, each by itself.

  Attributes:
    tokens_NxL: int32.
    mask_NxL: bool, False where a position is padding, on either side.
  """

  tokens_NxL: jax.Array
  mask_NxL: jax.Array

  @property
  def tokens(self) -> jax.Array:
    """What the decoder is given, `[N, L]`."""
    return self.tokens_NxL

  def view(self, config: DecoderConfig) -> View:
    """Where these stand and what they see."""
    return positions.view(config, self.mask_NxL)

  def states(self, x_NxLxD: jax.Array) -> jax.Array:
    """Their hidden states."""
    return x_NxLxD


class Groups(NamedTuple):
  """Prompts, each with its completions; it is computed once for all of them.

  Attributes:
    prompts_NxT: int32, padded on the left.
    prompt_mask_NxT: bool.
    tokens_NxGxC: int32, padded on the right.
    mask_NxGxC: bool.
  """

  prompts_NxT: jax.Array
  prompt_mask_NxT: jax.Array
  tokens_NxGxC: jax.Array
  mask_NxGxC: jax.Array

  @property
  def tokens(self) -> jax.Array:
    """What the decoder is given, `[N, T + G * (C - 1)]`.

    Nothing is read from the last token of a completion.
    """
    n = len(self.prompts_NxT)
    return jnp.concatenate(
        [self.prompts_NxT, self.tokens_NxGxC[..., :-1].reshape(n, -1)], axis=1
    )

  def view(self, config: DecoderConfig) -> View:
    """Where these stand and what they see."""
    return positions.group_view(
        config, self.prompt_mask_NxT, self.mask_NxGxC[..., :-1]
    )

  def states(self, x_NxLxD: jax.Array) -> jax.Array:
    """Hidden states from which each completion's tokens follow.

    `[N, G, C, D]`.
    """
    n, g, c = self.mask_NxGxC.shape
    t, size = self.prompts_NxT.shape[1], x_NxLxD.shape[-1]
    last_NxGx1xD = jnp.broadcast_to(
        x_NxLxD[:, None, t - 1 : t], (n, g, 1, size)
    )
    rest_NxGxMxD = x_NxLxD[:, t:].reshape(n, g, c - 1, size)
    return jnp.concatenate([last_NxGx1xD, rest_NxGxMxD], axis=2)
