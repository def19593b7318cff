"""Attention: the training form, and the cached form.

Queries come scaled.

M counts keys, J key-value heads, Q query heads per key-value head, E their
width; N prompts, G completions, T a prompt's tokens, C a completion's.
"""

import functools
from typing import NamedTuple

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
import jax.numpy as jnp

from gradlens.models.positions import View, in_sight

_MASKED = -1e30  # finite: a row without any key stays finite
_TILE = 128  # what a TPU's kernel takes at least


class KeyValue(NamedTuple):
  """Keys and values of one layer, or of all with a leading axis."""

  k: jax.Array
  v: jax.Array


def _group(q_BxLxHxE: jax.Array, num_kv_heads: int) -> jax.Array:
  """Splits the heads by the key-value head they share."""
  *lead, heads, width = q_BxLxHxE.shape
  grouped = (*lead, num_kv_heads, heads // num_kv_heads, width)
  return q_BxLxHxE.reshape(grouped)


def _softmax(scores: jax.Array, mask: jax.Array, dtype) -> jax.Array:
  scores = jnp.where(mask, scores, _MASKED)
  return jax.nn.softmax(scores, axis=-1).astype(dtype)


def _mask(segments_BxL: jax.Array, window: int | None) -> jax.Array:
  """Which keys of its own segment a token sees, bool `[B, L, M]`."""
  index_L = jnp.arange(segments_BxL.shape[-1])
  back_LxM = index_L[:, None] - index_L[None, :]
  seen_LxM = (back_LxM >= 0) & in_sight(back_LxM, window)
  same_BxLxM = segments_BxL[:, :, None] == segments_BxL[:, None, :]
  return seen_LxM[None] & same_BxLxM


def plain(
    q_BxLxHxE: jax.Array, new: KeyValue, segments_BxL: jax.Array,
    window: int | None,
) -> jax.Array:
  """The reference: all scores at once; arguments as those of `attend`."""
  q_BxLxJxQxE = _group(q_BxLxHxE, new.k.shape[2])
  scores = jnp.einsum(
      'bljqe,bmje->bjqlm', q_BxLxJxQxE, new.k,
      preferred_element_type=jnp.float32,
  )
  mask_BxLxM = _mask(segments_BxL, window)
  weights = _softmax(scores, mask_BxLxM[:, None, None], new.v.dtype)
  out = jnp.einsum('bjqlm,bmje->bljqe', weights, new.v)
  return out.reshape(q_BxLxHxE.shape)


def splash(
    q_BxLxHxE: jax.Array, new: KeyValue, segments_BxL: jax.Array,
    window: int | None, *, interpret: bool = False,
) -> jax.Array:
  """Flash attention of Pallas, for TPUs (Dao et al., 2022, arXiv 2205.14135).

  Arguments as those of `attend`; its mask is never whole in memory.
  `interpret` runs it anywhere, slowly.
  """
  length, heads = q_BxLxHxE.shape[1:3]
  whole = -(-length // _TILE) * _TILE
  block = next(size for size in (4 * _TILE, 2 * _TILE, _TILE)
               if whole % size == 0)
  shape = (whole, whole)
  mask = splash_attention_mask.CausalMask(shape)
  if window is not None:
    mask = splash_attention_mask.LocalMask(shape, (window - 1, 0), offset=0)
  kernel = splash_attention_kernel.make_splash_mha_single_device(
      splash_attention_mask.MultiHeadMask([mask] * heads),
      block_sizes=splash_attention_kernel.BlockSizes(
          *[block] * 3, *[block] * 3, *[block] * 2
      ),
      interpret=interpret,
  )

  def to_tiles(a_BxLxHxE):
    padding = [(0, 0), (0, whole - length), (0, 0), (0, 0)]
    return jnp.pad(a_BxLxHxE, padding).swapaxes(1, 2)

  # What is added is seen by nothing that stays: it comes last.
  segments = jnp.pad(segments_BxL, [(0, 0), (0, whole - length)])
  ids = splash_attention_kernel.SegmentIds(segments, segments)
  out_BxHxLxE = jax.vmap(kernel)(
      to_tiles(q_BxLxHxE), to_tiles(new.k), to_tiles(new.v), ids
  )
  return out_BxHxLxE.swapaxes(1, 2)[:, :length].astype(new.v.dtype)


KERNELS = dict(plain=plain, splash=splash)


def fastest_attention(platform: str) -> str:
  """The kernel for devices of a platform."""
  return 'splash' if platform == 'tpu' else 'plain'


def attend(
    q_BxLxHxE: jax.Array, new: KeyValue, cache: None, view: View, *,
    kernel: str, windows: tuple[int | None, ...],
) -> jax.Array:
  """Attention of whole sequences to themselves.

  Args:
    q_BxLxHxE: queries.
    new: keys and values, `[B, M, J, E]`.
    cache: nothing.
    view: what is seen are segments, int32 `[B, L]`: each a run of tokens that
      see each other only.
    kernel: a name in `KERNELS`.
    windows: of the kinds of attention, of which the view says which it is.

  Returns:
    `[B, L, H, E]`.
  """
  del cache
  of_kinds = [
      functools.partial(KERNELS[kernel], window=window) for window in windows
  ]
  if view.kind is None:
    return of_kinds[0](q_BxLxHxE, new, view.seen)
  # The kernels want to know their window when they are compiled.
  return jax.lax.switch(view.kind, of_kinds, q_BxLxHxE, new, view.seen)


def attend_cached(
    q_NxGxHxE: jax.Array,
    new: KeyValue,
    cache: tuple[KeyValue, KeyValue],
    view: View,
) -> jax.Array:
  """Attention of one new token of each completion.

  The completions of a prompt read one copy of its keys.

  Args:
    q_NxGxHxE: queries of the new tokens.
    new: keys and values of the new tokens, `[N, G, J, E]`.
    cache: of the prompts, `[N, T, J, E]`, and of the tokens decoded before,
      `[N, G, C, J, E]`.
    view: what is seen are positions of the prompt, bool `[N, T]`, and of the
      completions, `[N, C]`.

  Returns:
    `[N, G, H, E]`.
  """
  (prompt, completion), (mask_NxT, mask_NxC) = cache, view.seen
  q = _group(q_NxGxHxE, new.k.shape[2])
  score = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  scores = jnp.concatenate([
      score('ngjqe,ntje->ngjqt', q, prompt.k),
      score('ngjqe,ngcje->ngjqc', q, completion.k),
      score('ngjqe,ngje->ngjq', q, new.k)[..., None],
  ], axis=-1)
  mask = jnp.concatenate([
      mask_NxT, mask_NxC, jnp.ones((len(mask_NxT), 1), bool)
  ], axis=-1)
  weights = _softmax(scores, mask[:, None, None, None], new.v.dtype)
  t, c = mask_NxT.shape[1], mask_NxC.shape[1]
  of_prompt, of_completion, of_new = jnp.split(weights, [t, t + c], -1)
  out = (
      jnp.einsum('ngjqt,ntje->ngjqe', of_prompt, prompt.v)
      + jnp.einsum('ngjqc,ngcje->ngjqe', of_completion, completion.v)
      + of_new * new.v[:, :, :, None]
  )
  return out.reshape(q_NxGxHxE.shape)
