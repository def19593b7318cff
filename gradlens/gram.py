"""Gram matrices: the inner products of the rows of a stacked gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens.types import Blocks, PyTree, Stacked


def gram(grads_RxP: PyTree) -> jax.Array:
  r"""All inner products of task gradients, over the whole pytree.

  .. math:: G_{rs} = \langle g_r, g_s \rangle

  Products run at `Precision.HIGHEST` with float32 sums. A leaf is contracted
  over its axes as it lies, without a reshape: where it is sharded, each device
  multiplies its own shard, and `[R, R]` is summed across devices.

  Args:
    grads_RxP: a pytree of float arrays with rows on the leading axis. Rows are
      tasks, or (task, split) pairs.

  Returns:
    `gram_RxR`, float32.

  Raises:
    ValueError: if leaves differ in their leading axis, or there are none.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> grads_KxP = {'w': jnp.array([[3., 0.], [1., 2.]]),
  ...              'b': jnp.array([0., 1.])}
  >>> print(gl.gram(grads_KxP))
  [[9. 3.]
   [3. 6.]]
  """
  return sum(_leaf_gram(leaf, None) for _, leaf in _rows(grads_RxP))


def gram_blocks(grads_RxP: PyTree, blocks: Blocks) -> dict[str, jax.Array]:
  """The Gram matrix block by block; over blocks and layers they sum to `gram`.

  Args:
    grads_RxP: as for `gram`.
    blocks: `(path, leaf) -> name`, or `Stacked(name, axis)` for a leaf that
      holds many layers along one of its own axes. `path` is a tuple of JAX
      keys; `leaf` is a struct with the shape of the parameter, without the
      leading axis of rows, so that `correct` can take the same function.

  Returns:
    `{name: gram}`, float32: `[R, R]`, and `[layers, R, R]` for a stacked block.

  Raises:
    ValueError: as `gram`, and if the leaves of one block do not stack alike.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> grads_KxP = {'layers': jnp.ones((2, 6, 5)), 'head': jnp.ones((2, 3))}
  >>> grams = gl.gram_blocks(grads_KxP, gl.by_layer)
  >>> {name: gram.shape for name, gram in grams.items()}
  {'head': (2, 2), 'layers': (6, 2, 2)}
  """
  rows = _rows(grads_RxP)
  params = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), grads_RxP
  )
  grams = {}
  for (_, leaf), place in zip(rows, places(params, blocks), strict=True):
    leaf_gram = _leaf_gram(leaf, place.axis)
    known = grams.get(place.name)
    grams[place.name] = leaf_gram if known is None else known + leaf_gram
  return grams


def by_layer(path: tuple, leaf: jax.ShapeDtypeStruct) -> str | Stacked:
  """Blocks by layer: scanned layers one by one, else the top-level key.

  A leaf below a key named `layers` is `Stacked('layers', axis=0)`, unless an
  index follows (a list of layers): then its block is `layers.<index>`.

  >>> import jax
  >>> import gradlens as gl
  >>> leaves = jax.tree_util.tree_leaves_with_path(
  ...     {'embed': 1., 'layers': [1., 1.]})
  >>> [gl.by_layer(path, leaf) for path, leaf in leaves]
  ['embed', 'layers.0', 'layers.1']
  """
  del leaf
  keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
  if 'layers' in keys:
    following = keys[keys.index('layers') + 1 :][:1]
    if following and following[0].isdigit():
      return f'layers.{following[0]}'
    return Stacked('layers', axis=0)
  return keys[0] if keys else 'params'


def task_gram(
    gram_RxR: jax.Array, num_splits: int, kind: str = 'naive'
) -> jax.Array:
  r"""The `[K, K]` Gram matrix of tasks from that of their rows.

  A task's gradient is the sum of its S rows, each an estimate from prompts of
  its own. With :math:`G_{ks,lt}` the product of row s of task k and row t of
  task l:

  .. math::
    \text{naive}_{kl} &= \sum_{s,t} G_{ks,lt} \\
    \text{unbiased}_{kk} &= \tfrac{S}{S-1} \sum_{s \ne t} G_{ks,kt}, \qquad
    \text{unbiased}_{kl} = \text{naive}_{kl} \\
    \text{cross}_{kl} &= \tfrac{S}{S-1} \sum_{s \ne t} G_{ks,lt}

  The naive diagonal holds the noise: its expectation is the squared norm plus
  the trace of the noise covariance. `'unbiased'` drops a row's product with
  itself. `'cross'` drops equal splits between tasks as well: right also where
  tasks share prompts, at up to twice the variance for S = 2.

  Args:
    gram_RxR: `[..., R, R]`, task-major rows.
    num_splits: S.
    kind: `'naive'`, `'unbiased'` or `'cross'`; these two may be indefinite.

  Returns:
    `[..., K, K]`, the dtype of `gram_RxR`.

  Raises:
    ValueError: if S does not divide R, the kind is unknown, or S = 1 with a
      kind that compares splits.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.array([[5., 1.], [1., 5.]])    # one task, two noisy halves
  >>> print(gl.task_gram(gram_RxR, 2), gl.task_gram(gram_RxR, 2, 'unbiased'))
  [[12.]] [[4.]]
  """
  if kind not in ('naive', 'unbiased', 'cross'):
    raise ValueError(f"kind={kind!r}; use 'naive', 'unbiased' or 'cross'")
  num_rows = gram_RxR.shape[-1]
  if num_splits < 1 or num_rows % num_splits:
    raise ValueError(
        f'gram_RxR has {num_rows} rows, which num_splits={num_splits} does not '
        'divide'
    )
  if kind != 'naive' and num_splits == 1:
    raise ValueError(
        f'kind={kind!r} compares splits of a task: it needs num_splits >= 2'
    )
  num_tasks = num_rows // num_splits
  gram_KxSxKxS = gram_RxR.reshape(
      *gram_RxR.shape[:-2], num_tasks, num_splits, num_tasks, num_splits
  )
  naive_KxK = gram_KxSxKxS.sum(axis=(-3, -1))
  if kind == 'naive':
    return naive_KxK
  same_KxK = jnp.trace(gram_KxSxKxS, axis1=-3, axis2=-1)
  cross_KxK = (naive_KxK - same_KxK) * num_splits / (num_splits - 1)
  if kind == 'cross':
    return cross_KxK
  own_KxK = jnp.broadcast_to(jnp.eye(num_tasks, dtype=bool), naive_KxK.shape)
  return jnp.where(own_KxK, cross_KxK, naive_KxK)


class Place(NamedTuple):
  """The block of a leaf; `axis` and `depth` are None unless it is stacked."""

  name: str
  axis: int | None
  depth: int | None


def places(params: PyTree, blocks: Blocks) -> list[Place]:
  """The place of every leaf, in tree order; refuses blocks that do not fit."""
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    struct = jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
    block = blocks(path, struct)
    where = f'leaf {jax.tree_util.keystr(path)}'
    if isinstance(block, Stacked):
      if not 0 <= block.axis < len(struct.shape):
        raise ValueError(
            f'{where} of shape {struct.shape} has no axis {block.axis} to be '
            f'stacked on, as block {block.name!r} asks'
        )
      place = Place(block.name, block.axis, struct.shape[block.axis])
    elif isinstance(block, str):
      place = Place(block, None, None)
    else:
      raise ValueError(
          f'blocks must return a name or gl.Stacked, got {block!r} for {where}'
      )
    found[path] = place
  depths = {}
  for path, place in found.items():
    if depths.setdefault(place.name, place.depth) != place.depth:
      raise ValueError(
          f'block {place.name!r} mixes leaves of {depths[place.name]} and '
          f'{place.depth} layers, at leaf {jax.tree_util.keystr(path)}'
      )
  return list(found.values())


def _rows(grads_RxP: PyTree) -> list[tuple[tuple, jax.Array]]:
  """The leaves with their paths, all of one leading length."""
  leaves = jax.tree_util.tree_leaves_with_path(grads_RxP)
  if not leaves:
    raise ValueError('a stacked gradient without leaves has no Gram matrix')
  first_path, first = leaves[0]
  for path, leaf in leaves:
    if not leaf.shape or leaf.shape[0] != first.shape[0]:
      raise ValueError(
          'rows lead every leaf: gradient leaf '
          f'{jax.tree_util.keystr(first_path)} has shape {first.shape}, '
          f'leaf {jax.tree_util.keystr(path)} has {leaf.shape}'
      )
  return leaves


def _leaf_gram(leaf_RxP: jax.Array, axis: int | None) -> jax.Array:
  """One leaf's Gram; `axis` (of the parameter) stays, as the leading axis."""
  batch = () if axis is None else (axis + 1,)
  contract = tuple(i for i in range(1, leaf_RxP.ndim) if i not in batch)
  product = jax.lax.dot_general(
      leaf_RxP,
      leaf_RxP,
      ((contract, contract), (batch, batch)),
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=jnp.promote_types(leaf_RxP.dtype, jnp.float32),
  )
  return product.astype(jnp.float32)
