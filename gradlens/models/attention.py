"""Attention: the training form, and the cached form.

Queries come scaled.

M counts keys, J key-value heads, Q query heads per key-value head, E their
width; N prompts, G completions, T a prompt's tokens, C a completion's.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from gradlens.models.kernels import KERNELS, KeyValue, grouped, masked_softmax
from gradlens.models.positions import View

TENSOR = 'tensor'  # the axis of a mesh that divides heads


def _by_heads(
    kernel: Callable[[jax.Array, KeyValue, jax.Array], jax.Array]
) -> Callable[[jax.Array, KeyValue, jax.Array], jax.Array]:
  """Each device's own heads, where the mesh divides them.

  Kernels cannot be divided automatically.
  """
  mesh = jax.sharding.get_abstract_mesh()
  types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  if types.get(TENSOR) != AxisType.Auto:
    return kernel
  heads = PartitionSpec(None, None, TENSOR)
  return jax.shard_map(
      kernel, in_specs=(heads, heads, PartitionSpec()), out_specs=heads,
      axis_names={TENSOR}, check_vma=False,
  )


def attend(
    q_BxLxHxE: jax.Array, new: KeyValue, cache: None, view: View, *,
    kernel: str, windows: tuple[int | None, ...],
) -> jax.Array:
  """Attention of whole sequences to themselves.

  Args:
    q_BxLxHxE: queries.
    new: keys and values, `[B, M, J, E]`.
    cache: nothing.
    view: what is seen are segments, int32 `[B, L]`; or the masks of prompts
      and of their completions, bool `[B, T]` and `[B, G, C]`, of which
      L = T + G x C tokens there are: a completion sees its prompt and itself.
    kernel: a name in `KERNELS`.
    windows: of the kinds of attention, of which the view says which it is.

  Returns:
    `[B, L, H, E]`.
  """
  del cache
  of_kinds = [
      _by_heads(functools.partial(KERNELS[kernel], window=window))
      for window in windows
  ]

  def run(q_BxLxHxE, keys, segments_BxM):
    if view.kind is None:
      return of_kinds[0](q_BxLxHxE, keys, segments_BxM)
    # The kernels want to know their window when they are compiled.
    return jax.lax.switch(view.kind, of_kinds, q_BxLxHxE, keys, segments_BxM)

  if isinstance(view.seen, tuple):
    return _attend_groups(run, q_BxLxHxE, new, *view.seen)
  return run(q_BxLxHxE, new, view.seen)


def _attend_groups(
    run: Callable[[jax.Array, KeyValue, jax.Array], jax.Array],
    q_BxLxHxE: jax.Array,
    new: KeyValue,
    mask_BxT: jax.Array,
    mask_BxGxC: jax.Array,
) -> jax.Array:
  """By two runs: prompts, and completions behind copies of their keys."""
  b, g, c = mask_BxGxC.shape
  t = mask_BxT.shape[1]

  def own(a):
    """Of completions, `[B * G, C, ...]`."""
    return a[:, t:].reshape(b * g, c, *a.shape[2:])

  def with_prompt(a):
    return jnp.concatenate([jnp.repeat(a[:, :t], g, axis=0), own(a)], axis=1)

  of_prompts = run(
      q_BxLxHxE[:, :t], jax.tree.map(lambda a: a[:, :t], new),
      mask_BxT.astype(jnp.int32),
  )
  masks_BxL = jnp.concatenate([mask_BxT, mask_BxGxC.reshape(b, -1)], axis=1)
  of_completions = run(
      own(q_BxLxHxE), jax.tree.map(with_prompt, new),
      with_prompt(masks_BxL).astype(jnp.int32),
  )
  return jnp.concatenate(
      [of_prompts, of_completions.reshape(b, g * c, *of_prompts.shape[2:])],
      axis=1,
  )


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
      `[N, G, J, C, E]`.
    view: what is seen are positions of the prompt, bool `[N, T]`, and of the
      completions, `[N, C]`.

  Returns:
    `[N, G, H, E]`.
  """
  (prompt, completion), (mask_NxT, mask_NxC) = cache, view.seen
  q = grouped(q_NxGxHxE, new.k.shape[2])
  score = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  scores = jnp.concatenate([
      score('ngjqe,ntje->ngjqt', q, prompt.k),
      score('ngjqe,ngjce->ngjqc', q, completion.k),
      score('ngjqe,ngje->ngjq', q, new.k)[..., None],
  ], axis=-1)
  mask = jnp.concatenate([
      mask_NxT, mask_NxC, jnp.ones((len(mask_NxT), 1), bool)
  ], axis=-1)
  weights = masked_softmax(scores, mask[:, None, None, None], new.v.dtype)
  t, c = mask_NxT.shape[1], mask_NxC.shape[1]
  of_prompt, of_completion, of_new = jnp.split(weights, [t, t + c], -1)
  out = (
      jnp.einsum('ngjqt,ntje->ngjqe', of_prompt, prompt.v)
      + jnp.einsum('ngjqc,ngjce->ngjqe', of_completion, completion.v)
      + of_new * new.v[:, :, :, None]
  )
  return out.reshape(q_NxGxHxE.shape)
