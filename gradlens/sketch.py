"""Sketch: rows of a gradient in a few numbers that keep inner products."""

import jax
import jax.numpy as jnp

from gradlens.types import PyTree

_LARGEST = 2**32  # entries of a leaf: they are counted in 32 bits


def sketch(
    grads_RxP: PyTree, size: int, part: jax.Array | None = None
) -> jax.Array:
  r"""A count sketch of every row; sketches of micro-batches add up.

  Entry i of a leaf goes, with a random sign, to one of `size` buckets, the same
  for all rows and in every call:

  .. math:: z_b = \sum_{i: h(i) = b} \sigma(i) \, g_i

  Inner products of sketches are unbiased estimates of those of the rows. By the
  Johnson-Lindenstrauss property of the count sketch,

  .. math:: \operatorname{Var} \langle z, z' \rangle \le
    \frac{\|g\|^2 \|g'\|^2 + \langle g, g' \rangle^2}{\text{size}}

  so that a squared norm has a relative standard error of at most
  :math:`\sqrt{2 / \text{size}}`, 2.2% for 4096.

  Buckets come a run of `size` entries at a time, turned by a random shift: two
  entries meet with probability 1/size at most, as if each had its own bucket,
  and nothing is scattered.

  Args:
    grads_RxP: a pytree of `[R, *param]`.
    size: numbers per row.
    part: the number of the shard, if leaves are shards of parameters: sketches
      of all shards add up to one of the whole. None is no shard.

  Returns:
    `[R, size]`, float32.

  Raises:
    ValueError: if `size` is not positive, or a leaf of a row has more than 2^32
      entries.

  References:
    Charikar, Chen and Farach-Colton, Finding Frequent Items in Data Streams,
    2002; Weinberger et al., Feature Hashing for Large Scale Multitask Learning,
    2009, arXiv:0902.2206 (the variance)

  >>> import jax
  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> grads_RxP = jax.random.normal(jax.random.key(0), (2, 100_000))
  >>> sketch_RxN = gl.sketch(grads_RxP, 4096)
  >>> ratio = jnp.diag(sketch_RxN @ sketch_RxN.T) / jnp.diag(gl.gram(grads_RxP))
  >>> print(bool(jnp.all(abs(ratio - 1) < 0.1)))
  True
  """
  if size < 1:
    raise ValueError(f'a sketch of size={size} holds nothing')
  return sum(
      _leaf_sketch(leaf, size, salt, part)
      for salt, leaf in enumerate(jax.tree.leaves(grads_RxP))
  )


def sketch_gram(sketch_RxN: jax.Array) -> jax.Array:
  """The estimate of `gram` from sketches: `[..., R, size]` to `[..., R, R]`."""
  return jnp.einsum(
      '...rn,...sn->...rs',
      sketch_RxN,
      sketch_RxN,
      precision=jax.lax.Precision.HIGHEST,
  )


def _leaf_sketch(
    leaf_RxP: jax.Array, size: int, salt: int, part: jax.Array | None
) -> jax.Array:
  num_rows = leaf_RxP.shape[0]
  flat_RxN = leaf_RxP.reshape(num_rows, -1)
  num_entries = flat_RxN.shape[1]
  if num_entries > _LARGEST:
    raise ValueError(f'a leaf of {num_entries} entries exceeds {_LARGEST}')
  num_runs = -(-num_entries // size)
  padding = num_runs * size - num_entries
  own = jnp.uint32(0)  # Entries of other shards have other numbers.
  if part is not None:
    own = _hash(part.astype(jnp.uint32), 2 * salt)

  def add_run(total_RxN, run):
    start = run * size
    run_RxN = jax.lax.dynamic_slice_in_dim(padded_RxN, start, size, axis=1)
    index_N = start.astype(jnp.uint32) + jnp.arange(size, dtype=jnp.uint32)
    odd_N = _hash(index_N + own, 2 * salt) & 1
    signed_RxN = jnp.where(odd_N == 1, -run_RxN, run_RxN).astype(jnp.float32)
    shift = _hash(run.astype(jnp.uint32) + own, 2 * salt + 1) % size
    twice_RxN = jnp.concatenate([signed_RxN, signed_RxN], axis=1)
    turned_RxN = jax.lax.dynamic_slice_in_dim(twice_RxN, shift, size, axis=1)
    return total_RxN + turned_RxN, None

  padded_RxN = jnp.pad(flat_RxN, ((0, 0), (0, padding)))
  total_RxN = jnp.zeros((num_rows, size), jnp.float32)
  return jax.lax.scan(add_run, total_RxN, jnp.arange(num_runs))[0]


def _hash(index_N: jax.Array, salt: int) -> jax.Array:
  """32 well-mixed bits for each index (the finalizer of MurmurHash3)."""
  # Added between the rounds as well, or one salt's bits were another's, moved.
  offset = jnp.uint32(0x9E3779B9 * (salt + 1) % _LARGEST)
  bits = index_N + offset
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    bits = (bits ^ (bits >> shift)) * jnp.uint32(factor) + offset
  return bits ^ (bits >> 16)
