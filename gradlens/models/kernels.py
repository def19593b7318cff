"""Kernels: attention of whole sequences, for each kind of device.

Queries come scaled.

M counts keys, J key-value heads, Q query heads per key-value head, E their
width.
"""

from collections.abc import Callable
import re
from typing import Any, NamedTuple

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
import jax.numpy as jnp

from gradlens.models.positions import in_sight

_MASKED = -1e30  # finite: a row without any key stays finite
_TILE = 128  # what a TPU's kernel takes at least


class KeyValue(NamedTuple):
  """Keys and values of one layer, or of all with a leading axis."""

  k: jax.Array
  v: jax.Array


def grouped(q_BxLxHxE: jax.Array, num_kv_heads: int) -> jax.Array:
  """Splits the heads by the key-value head they share."""
  *lead, heads, width = q_BxLxHxE.shape
  return q_BxLxHxE.reshape(
      *lead, num_kv_heads, heads // num_kv_heads, width
  )


def masked_softmax(
    scores: jax.Array, mask: jax.Array, dtype: Any
) -> jax.Array:
  """Over the keys that the mask shows, in a dtype; all alike if it has none."""
  scores = jnp.where(mask, scores, _MASKED)
  return jax.nn.softmax(scores, axis=-1).astype(dtype)


def _mask(
    segments_BxM: jax.Array, before: int, window: int | None
) -> jax.Array:
  """Which keys of its own segment a query sees, bool `[B, L, M]`."""
  index_M = jnp.arange(segments_BxM.shape[-1])
  back_LxM = index_M[before:, None] - index_M[None, :]
  seen_LxM = (back_LxM >= 0) & in_sight(back_LxM, window)
  same_BxLxM = segments_BxM[:, before:, None] == segments_BxM[:, None, :]
  return seen_LxM[None] & same_BxLxM


def plain(
    q_BxLxHxE: jax.Array, keys: KeyValue, segments_BxM: jax.Array,
    window: int | None,
) -> jax.Array:
  """The reference: all scores at once.

  Args:
    q_BxLxHxE: queries of the last L of M tokens.
    keys: keys and values of all M, `[B, M, J, E]`.
    segments_BxM: int32; each is a run of tokens that see each other only.
    window: how far back a token sees, itself included; None is all the way.

  Returns:
    `[B, L, H, E]`.
  """
  q_BxLxJxQxE = grouped(q_BxLxHxE, keys.k.shape[2])
  scores = jnp.einsum(
      'bljqe,bmje->bjqlm', q_BxLxJxQxE, keys.k,
      preferred_element_type=jnp.float32,
  )
  before = segments_BxM.shape[1] - q_BxLxHxE.shape[1]
  mask_BxLxM = _mask(segments_BxM, before, window)
  weights = masked_softmax(scores, mask_BxLxM[:, None, None], keys.v.dtype)
  out = jnp.einsum('bjqlm,bmje->bljqe', weights, keys.v)
  return out.reshape(q_BxLxHxE.shape)


def tiles(length: int) -> tuple[int, int]:
  """A length in whole tiles, at least one, and how much is done at a time."""
  whole = -(-max(length, 1) // _TILE) * _TILE
  block = next(
      size for size in (4 * _TILE, 2 * _TILE, _TILE) if whole % size == 0
  )
  return whole, block


def splash(
    q_BxLxHxE: jax.Array, keys: KeyValue, segments_BxM: jax.Array,
    window: int | None, *, interpret: bool = False,
) -> jax.Array:
  """Flash attention of Pallas, for TPUs (Dao et al., 2022, arXiv 2205.14135).

  Arguments as those of `plain`; its mask is never whole in memory.
  `interpret` runs it anywhere, slowly.
  """
  length, heads = q_BxLxHxE.shape[1:3]
  before = segments_BxM.shape[1] - length
  (rows, q_block), (columns, block) = map(tiles, (length, before + length))
  shape = (rows, columns)
  mask = splash_attention_mask.CausalMask(shape, before)
  if window is not None:
    mask = splash_attention_mask.LocalMask(shape, (window - 1, 0), before)
  kernel = splash_attention_kernel.make_splash_mha_single_device(
      splash_attention_mask.MultiHeadMask([mask] * heads),
      block_sizes=splash_attention_kernel.BlockSizes(
          block_q=q_block, block_kv=block, block_kv_compute=block,
          block_q_dkv=q_block, block_kv_dkv=block, block_kv_dkv_compute=block,
          block_q_dq=q_block, block_kv_dq=block,
      ),
      interpret=interpret,
  )

  def pad(a, whole):
    rest = [(0, 0)] * (a.ndim - 2)
    return jnp.pad(a, [(0, 0), (0, whole - a.shape[1]), *rest])

  # What is added is seen by nothing that stays: it comes last.
  ids = splash_attention_kernel.SegmentIds(
      pad(segments_BxM[:, before:], rows), pad(segments_BxM, columns)
  )
  out_BxHxLxE = jax.vmap(kernel)(
      pad(q_BxLxHxE, rows).swapaxes(1, 2),
      *(pad(a, columns).swapaxes(1, 2) for a in keys),
      ids,
  )
  return out_BxHxLxE.swapaxes(1, 2)[:, :length].astype(keys.v.dtype)


def _examples(fn: Callable[..., Any]) -> Callable[..., Any]:
  """`fn` of arrays with examples in front: under `vmap`, of more examples."""

  @jax.custom_batching.custom_vmap
  def run(*arrays):
    return fn(*arrays)

  @run.def_vmap
  def _(size, batched, *arrays):
    whole = [
        a if own else jnp.broadcast_to(a, (size, *a.shape))
        for a, own in zip(arrays, batched, strict=True)
    ]
    out = run(*(a.reshape(size * a.shape[1], *a.shape[2:]) for a in whole))
    split = jax.tree.map(
        lambda a: a.reshape(size, a.shape[0] // size, *a.shape[1:]), out
    )
    return split, jax.tree.map(lambda a: True, split)

  return run


def cudnn(
    q_BxLxHxE: jax.Array, keys: KeyValue, segments_BxM: jax.Array,
    window: int | None, *, implementation: str = 'cudnn',
) -> jax.Array:
  """Flash attention of cuDNN, for GPUs, in bfloat16 or float16.

  Arguments as those of `plain`; its mask is whole in memory, once for all
  heads, and the scores are not. With `implementation='xla'` it runs anywhere.
  """
  length = q_BxLxHxE.shape[1]
  before = segments_BxM.shape[1] - length

  def even(a, axis, **options):
    """It takes no odd lengths."""
    pads = [(0, 0)] * a.ndim
    pads[axis] = (0, a.shape[axis] % 2 if a.shape[axis] else 2)
    return jnp.pad(a, pads, **options)

  def run(q, k, v, segments):
    mask_BxLxM = even(
        even(_mask(segments, before, window), 2), 1, constant_values=True
    )
    out = jax.nn.dot_product_attention(
        *(even(a, 1) for a in (q, k, v)), mask=mask_BxLxM[:, None], scale=1.0,
        implementation=implementation,
    )
    return out[:, :length]

  def pull(q, k, v, segments, dout):
    _, back = jax.vjp(lambda *arrays: run(*arrays, segments), q, k, v)
    return back(dout)

  # Its own rule for `vmap` wants a mask for each head. The way back runs it
  # again, for what its own way back is to know.
  attention = jax.custom_vjp(_examples(run))
  attention.defvjp(
      lambda *arrays: (attention(*arrays), arrays),
      lambda arrays, dout: (*_examples(pull)(*arrays, dout), None),
  )
  return attention(q_BxLxHxE, *keys, segments_BxM)


KERNELS = dict(plain=plain, splash=splash, cudnn=cudnn)
_CAPABILITY = 8.0  # compute capability of the first GPUs that have cudnn
_WIDEST, _STEP = 128, 8  # of the heads that all of these take


def _refused(
    kernel: str, device: jax.Device, dtype: str | None, head_dim: int
) -> str:
  """What a kernel needs and does not have there; '' is nothing."""
  platform = dict(splash='tpu', cudnn='gpu').get(kernel, device.platform)
  if device.platform != platform:
    return f'needs a {platform.upper()}, and this is a {device.platform}'
  if kernel != 'cudnn':
    return ''
  capability = device.compute_capability
  # Other makers' GPUs have names there, such as 'gfx942'.
  if not re.fullmatch(r'\d+\.\d+', capability) or (
      float(capability) < _CAPABILITY
  ):
    return (
        f'needs a GPU of compute capability {_CAPABILITY} or more, and this one'
        f' has {capability}'
    )
  if dtype != 'bfloat16':
    return f"needs compute.dtype='bfloat16', and that is {dtype!r}"
  if head_dim > _WIDEST or head_dim % _STEP:
    return (
        f'needs heads that are up to {_WIDEST} wide, in steps of {_STEP}, and'
        f' those of the model are {head_dim}'
    )
  return ''


def choose_attention(
    name: str, device: jax.Device, dtype: str | None, head_dim: int
) -> str:
  """The kernel that a model is computed with.

  Args:
    name: in `KERNELS`; or 'auto', the fastest that there can be.
    device: where.
    dtype: of products, as in `Compute`.
    head_dim: width of a head.

  Raises:
    ValueError: that kernel cannot be there, and why.
  """
  if name == 'auto':
    return next(
        kernel for kernel in ('splash', 'cudnn', 'plain')
        if not _refused(kernel, device, dtype, head_dim)
    )
  refused = _refused(name, device, dtype, head_dim)
  if refused:
    raise ValueError(f"{name!r} {refused}; use 'auto'.")
  return name
