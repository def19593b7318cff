"""Attention: the training form, and the cached form.

Queries come scaled.

M counts keys, J key-value heads, Q query heads per key-value head, E their
width; N prompts, G completions, T a prompt's tokens, C a completion's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_MASKED = -1e30  # finite: a row without any key stays finite


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
  scores = jnp.where(mask, scores.astype(jnp.float32), _MASKED)
  return jax.nn.softmax(scores, axis=-1).astype(dtype)


def attend(
    q_BxLxHxE: jax.Array, new: KeyValue, cache: None, mask_BxLxM: jax.Array
) -> jax.Array:
  """Attention of a whole sequence to itself, where the mask allows it."""
  del cache
  q_BxLxJxQxE = _group(q_BxLxHxE, new.k.shape[2])
  scores = jnp.einsum('bljqe,bmje->bjqlm', q_BxLxJxQxE, new.k)
  weights = _softmax(scores, mask_BxLxM[:, None, None], new.v.dtype)
  out = jnp.einsum('bjqlm,bmje->bljqe', weights, new.v)
  return out.reshape(q_BxLxHxE.shape)


def attend_cached(
    q_NxGxHxE: jax.Array,
    new: KeyValue,
    cache: tuple[KeyValue, KeyValue],
    masks: tuple[jax.Array, jax.Array],
) -> jax.Array:
  """Attention of one new token of each completion.

  The completions of a prompt read one copy of its keys.

  Args:
    q_NxGxHxE: queries of the new tokens.
    new: keys and values of the new tokens, `[N, G, J, E]`.
    cache: of the prompts, `[N, T, J, E]`, and of the tokens decoded before,
      `[N, G, C, J, E]`.
    masks: which prompt positions hold a token, `[N, T]`, and which completion
      positions are decoded already, `[N, C]`.

  Returns:
    `[N, G, H, E]`.
  """
  (prompt, completion), (mask_NxT, mask_NxC) = cache, masks
  q = _group(q_NxGxHxE, new.k.shape[2])
  scores = jnp.concatenate([
      jnp.einsum('ngjqe,ntje->ngjqt', q, prompt.k),
      jnp.einsum('ngjqe,ngcje->ngjqc', q, completion.k),
      jnp.einsum('ngjqe,ngje->ngjq', q, new.k)[..., None],
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
