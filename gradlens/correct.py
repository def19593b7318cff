"""Correction: the optax transformation that turns task gradients into one."""

from collections.abc import Iterable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlens.gram import gram_blocks, places, task_gram
from gradlens.types import Blocks, PyTree, Weighting

_WHOLE = ''  # The one block of a correction without `blocks`.


class CorrectState(NamedTuple):
  """State of `correct`, with one structure from `init` on.

  With `blocks`, the first four hold a dict by block; in a stacked block every
  array has a leading axis of layers.

  Attributes:
    gram_RxR: the last step's Gram matrix of rows, float32; the rows and columns
      of a skipped task are zero.
    gram_KxK: that of tasks (naive), which the weighting saw, float32.
    weights_K: the weights that were applied, float32; ones before any step.
    weighting_state: the weighting's own state.
    skipped_K: in how many steps a task was skipped in some block, int32.
  """

  gram_RxR: PyTree
  gram_KxK: PyTree
  weights_K: PyTree
  weighting_state: PyTree
  skipped_K: jax.Array


def correct(
    weighting: Weighting,
    *,
    num_tasks: int,
    num_splits: int = 1,
    blocks: Blocks | None = None,
    apply: str = 'stacked',
    match_norm: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""Combines stacked task gradients into one update, weighed by their Gram.

  .. math:: u = \sum_k w_k \sum_s g_{ks}, \qquad w = \text{weighting}(G)

  The first transformation of a chain: it takes `[R, *param]` leaves and gives
  `[*param]` leaves in the parameters' dtype, so that whatever follows sees a
  plain gradient.

  A task with a non-finite squared norm is skipped: it has a zero row and column
  in the Gram matrix, weight 0, and none of its entries reaches the update. A
  non-finite weight becomes 0. `skipped_K` counts both.

  .. warning:: `optax.MultiSteps` and `optax.apply_if_finite` cannot go around
    `correct`; they go after it in the chain. A transformation before `correct`
    would act on stacked gradients. `check` finds these.

  Args:
    weighting: for example `pcgrad()`, or `stateless` of a function.
    num_tasks: K.
    num_splits: S; gradients come as R = K * S task-major rows that add up.
    blocks: as for `gram_blocks`; each block, and each layer of a stacked one,
      is then weighed by its own Gram matrix, with its own weighting state.
    apply: how gradients arrive; `'stacked'`: all rows, on the leading axis.
    match_norm: rescale the update (with `blocks`, of each block) to the length
      that `total()` would give it.

  Returns:
    An `optax.GradientTransformationExtraArgs`. Its `update` needs `params`, and
    hands extra arguments to the weighting.

  Raises:
    TypeError: if `weighting` is not a `Weighting`.
    ValueError: for arguments out of range; at `update`, without `params` or if
      a gradient's shape is not `[K * S, *param]`.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> import gradlens as gl
  >>> tx = optax.chain(gl.correct(gl.equalize_norms(), num_tasks=2),
  ...                  optax.sgd(1.))
  >>> params = jnp.zeros(2)
  >>> grads_KxP = jnp.array([[4., 0.], [0., 100.]])
  >>> updates, state = tx.update(grads_KxP, tx.init(params), params)
  >>> print(updates, gl.task_weights(state))
  [-0.5 -0.5] [0.125 0.005]
  """
  _check_arguments(weighting, num_tasks, num_splits, apply)
  num_rows = num_tasks * num_splits
  block_fn = blocks or (lambda path, leaf: _WHOLE)

  def pack(by_block):
    return by_block if blocks else by_block[_WHOLE]

  def unpack(tree):
    return tree if blocks else {_WHOLE: tree}

  def init_block():
    return (
        jnp.zeros((num_rows, num_rows), jnp.float32),
        jnp.zeros((num_tasks, num_tasks), jnp.float32),
        jnp.ones(num_tasks, jnp.float32),
        weighting.init(num_tasks),
    )

  def init_fn(params):
    depths = {place.name: place.depth for place in places(params, block_fn)}
    # Each block has arrays of its own, so that the state can be donated.
    by_block = {
        name: _repeat(init_block(), depth) for name, depth in depths.items()
    }
    fields = map(pack, _transpose(by_block))
    return CorrectState(*fields, jnp.zeros(num_tasks, jnp.int32))

  def finite_tasks(gram_RxR):
    # The diagonal only: a bad row spoils its products with good ones as well.
    gram_KxK = task_gram(gram_RxR, num_splits)
    return jnp.isfinite(jnp.diagonal(gram_KxK, axis1=-2, axis2=-1))

  def weigh(gram_RxR, weighting_state, kept_K, extra_args):
    kept_R = jnp.repeat(kept_K, num_splits)
    gram_RxR = jnp.where(kept_R[:, None] & kept_R[None, :], gram_RxR, 0.0)
    gram_KxK = task_gram(gram_RxR, num_splits)
    weights_K, weighting_state = weighting.update(
        gram_KxK, weighting_state, **extra_args
    )
    if jnp.shape(weights_K) != (num_tasks,):
      raise ValueError(
          f'{weighting.name} returned weights of shape {jnp.shape(weights_K)}, '
          f'expected ({num_tasks},)'
      )
    used_K = kept_K & jnp.isfinite(weights_K)
    weights_K = jnp.where(used_K, weights_K, 0.0).astype(jnp.float32)
    if match_norm:
      weights_K = weights_K * _stretch(gram_KxK, weights_K)
    return gram_RxR, gram_KxK, weights_K, weighting_state, used_K

  def update_fn(updates, state, params=None, **extra_args):
    _check_gradients(updates, params, num_tasks, num_splits)
    grams = gram_blocks(updates, block_fn)
    # A gradient is bad as a whole: a task bad in one block is skipped in all.
    kept_K = _all_K(map(finite_tasks, grams.values()))
    weighting_states = unpack(state.weighting_state)
    by_block = {}
    for name, gram_RxR in grams.items():
      step = functools.partial(weigh, kept_K=kept_K, extra_args=extra_args)
      step = jax.vmap(step) if gram_RxR.ndim == 3 else step
      by_block[name] = step(gram_RxR, weighting_states[name])
    *fields, used = _transpose(by_block)
    skipped_K = state.skipped_K + ~_all_K(used.values())

    weights = fields[2]
    kept_R = jnp.repeat(kept_K, num_splits)
    leaves, treedef = jax.tree.flatten(params)
    combined = []
    for grad_RxP, param, place in zip(
        jax.tree.leaves(updates), leaves, places(params, block_fn), strict=True
    ):
      weights_R = jnp.repeat(weights[place.name], num_splits, axis=-1)
      update = _weighted_sum(grad_RxP, weights_R, kept_R, place.axis)
      combined.append(update.astype(jnp.result_type(param)))
    new_state = CorrectState(*map(pack, fields), skipped_K)
    return treedef.unflatten(combined), new_state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def task_weights(state: PyTree) -> PyTree:
  """The weights that `correct` last applied, from any optax state around it.

  Args:
    state: the state of a transformation with one or more `correct` in it.

  Returns:
    The `weights_K` of the one `CorrectState`, a dict by block if it has blocks;
    of several, `{path in the state: weights}`.

  Raises:
    ValueError: if there is none.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> import gradlens as gl
  >>> tx = optax.chain(gl.correct(gl.mean(), num_tasks=2), optax.adam(1e-3))
  >>> print(gl.task_weights(tx.init(jnp.zeros(3))))    # before any step
  [1. 1.]
  """
  found = {
      jax.tree_util.keystr(path): node.weights_K
      for path, node in jax.tree_util.tree_leaves_with_path(
          state, is_leaf=is_correction
      )
      if is_correction(node)
  }
  if not found:
    raise ValueError('this is the state of a transformation without gl.correct')
  return found if len(found) > 1 else next(iter(found.values()))


def is_correction(node: PyTree) -> bool:
  """Whether a node of an optax state is that of `correct`."""
  return isinstance(node, CorrectState)


def _check_arguments(
    weighting: Weighting, num_tasks: int, num_splits: int, apply: str
) -> None:
  if isinstance(weighting, optax.GradientTransformation):
    raise TypeError(
        'correct() takes a weighting such as gl.pcgrad(), not a gradient '
        'transformation; write optax.chain(gl.correct(gl.pcgrad(), '
        'num_tasks=K), transformation)'
    )
  if not isinstance(weighting, Weighting):
    raise TypeError(
        'correct() takes a weighting such as gl.pcgrad() or '
        f'gl.stateless(function), got {weighting!r}'
    )
  if num_tasks < 1 or num_splits < 1:
    raise ValueError(
        f'num_tasks={num_tasks} and num_splits={num_splits} must be positive'
    )
  if apply != 'stacked':
    raise ValueError(f"apply={apply!r}; available: 'stacked'")


def _check_gradients(
    updates: PyTree, params: PyTree, num_tasks: int, num_splits: int
) -> None:
  if params is None:
    raise ValueError(
        'correct() needs the parameters: tx.update(grads_KxP, state, params)'
    )
  got, expected = jax.tree.structure(updates), jax.tree.structure(params)
  if got != expected:
    raise ValueError(
        f'gradients and params differ in structure: {got} and {expected}'
    )
  pairs = zip(
      jax.tree_util.tree_leaves_with_path(updates),
      jax.tree.leaves(params),
      strict=True,
  )
  for (path, grad), param in pairs:
    got, own = jnp.shape(grad), jnp.shape(param)
    expected = (num_tasks * num_splits, *own)
    if got == expected:
      continue
    message = (
        f'gradient leaf {jax.tree_util.keystr(path)} has shape {got}, expected '
        f'{expected}: num_tasks={num_tasks} times num_splits={num_splits} rows '
        'before the shape of the parameter'
    )
    if got == own:
      message += (
          '. It has no task axis: take gradients by gl.task_value_and_grad; '
          'optax.MultiSteps goes after gl.correct, not around it'
      )
    raise ValueError(message)


def _repeat(tree: PyTree, depth: int | None) -> PyTree:
  """One copy per layer on a leading axis, unless there are no layers."""
  if depth is None:
    return tree
  return jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf, (depth, *jnp.shape(leaf))), tree
  )


def _transpose(by_block: dict[str, tuple]) -> list[dict[str, PyTree]]:
  """From a tuple for each block to a dict for each of its fields."""
  fields = zip(*by_block.values(), strict=True)
  return [dict(zip(by_block, field, strict=True)) for field in fields]


def _all_K(flags: Iterable[jax.Array]) -> jax.Array:
  """Whether a task's flag is set in all blocks, and all of their layers."""
  flags = [flag.reshape(-1, flag.shape[-1]) for flag in flags]
  return jnp.concatenate(flags).all(axis=0)


def _stretch(gram_KxK: jax.Array, weights_K: jax.Array) -> jax.Array:
  """The length of the unweighted sum over that of the weighted sum."""
  products_KxK = weights_K[:, None] * gram_KxK * weights_K[None, :]
  own_sq = jnp.sum(products_KxK)
  # Below the rounding of its terms a length is unknown, and is left as it is.
  terms = jnp.sum(jnp.sqrt(jnp.maximum(jnp.diag(products_KxK), 0.0)))
  known = own_sq > jnp.finfo(jnp.float32).eps * terms**2
  total_sq = jnp.maximum(jnp.sum(gram_KxK), 0.0)
  ratio = jnp.sqrt(total_sq) / jnp.sqrt(jnp.where(known, own_sq, 1.0))
  return jnp.where(known, ratio, 1.0)


def _weighted_sum(
    grads_RxP: jax.Array,
    weights: jax.Array,
    kept_R: jax.Array,
    axis: int | None,
) -> jax.Array:
  """The sum over rows; `weights` is `[R]`, or `[layers, R]` with an `axis`."""
  num_rows, *shape = grads_RxP.shape
  layers = [size if i == axis else 1 for i, size in enumerate(shape)]
  weights_RxP = jnp.moveaxis(weights, -1, 0).reshape(num_rows, *layers)
  kept_RxP = kept_R.reshape(num_rows, *[1] * len(shape))
  # A skipped row is replaced, not multiplied by 0: 0 * inf is NaN. One fused
  # pass over the rows, local on every shard.
  dtype = jnp.promote_types(grads_RxP.dtype, jnp.float32)
  rows = jnp.where(kept_RxP, grads_RxP, 0).astype(dtype)
  return jnp.sum(weights_RxP * rows, axis=0)
