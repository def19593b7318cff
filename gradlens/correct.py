"""Correction: the optax transformation that turns task gradients into one."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from gradlens.blocks import (
    WHOLE,
    all_K,
    by_block_name,
    given_grams,
    repeat,
    transpose,
    weigh_blocks,
)
from gradlens.gram import gram_blocks, places, task_gram
from gradlens.rule import Rule, weighted_sum
from gradlens.state import CorrectState
from gradlens.types import Blocks, PyTree, Weighting

APPLY = ('stacked', 'in_backward', 'two_pass', 'lagged')


class Correction(optax.GradientTransformationExtraArgs):
  """The transformation that `correct` returns; it knows how it was made.

  Attributes:
    rule: the weighting, with the numbers of tasks and splits.
    blocks: as given to `correct`.
    apply: as given to `correct`.
  """

  rule: Rule
  blocks: Blocks | None
  apply: str


def correct(
    weighting: Weighting,
    *,
    num_tasks: int,
    num_splits: int = 1,
    blocks: Blocks | None = None,
    apply: str = 'stacked',
    kind: str = 'naive',
    match_norm: bool = False,
) -> Correction:
  r"""Combines task gradients into one update, weighed by their Gram matrix.

  .. math:: u = \sum_k w_k \sum_s g_{ks}, \qquad w = \text{weighting}(G)

  The first transformation of a chain, so that whatever follows sees a plain
  gradient: `[*param]` leaves in the parameters' dtype. `apply` says how
  gradients arrive, which `value_and_grad_for` computes:

  - `'stacked'`: all rows, `[R, *param]`. For every method; memory holds R
    copies of the parameters.
  - `'in_backward'`: already weighted, block by block, inside the backward pass
    of taps. For `blocks`.
  - `'two_pass'`: already weighted, in a second backward pass. Without `blocks`.
  - `'lagged'`: already weighted, by the weights of the step before (ones in the
    first).

  All but `'stacked'` need `gram=` at `update`, and add nothing to it: there the
  weights are the same function of the same Gram matrix, kept for the record and
  for the next step.

  A task with a non-finite squared norm is skipped: it has a zero row and column
  in the Gram matrix, weight 0, and none of its entries reaches the update. A
  non-finite weight becomes 0. `skipped_K` counts both. In one backward pass
  (`'in_backward'`, `'lagged'`) a task is skipped in the blocks where it is not
  finite; the blocks met before are as they are. A skipped task keeps its lagged
  weight.

  .. warning:: `optax.MultiSteps` and `optax.apply_if_finite` cannot go around
    `correct`; they go after it in the chain. A transformation before `correct`
    would act on stacked gradients. `check` finds these.

  Args:
    weighting: for example `pcgrad()`, or `stateless` of a function.
    num_tasks: K.
    num_splits: S; gradients come as R = K * S task-major rows that add up.
    blocks: as for `gram_blocks`; each block, and each layer of a stacked one,
      is then weighed by its own Gram matrix, with its own weighting state.
    apply: one of the four above.
    kind: which Gram matrix the weighting sees, as in `task_gram`. The unbiased
      ones may be indefinite: put `ema_gram` around the weighting.
    match_norm: rescale the update (with `blocks`, of each block) to the length
      that `total()` would give it.

  Returns:
    An `optax.GradientTransformationExtraArgs`. Its `update` needs `params`;
    `gram` is `[..., R, R]`, or a dict of them by block; other arguments go to
    the weighting, as does `gram_cross_KxK` where there are splits.

  Raises:
    TypeError: if `weighting` is not a `Weighting`.
    ValueError: for arguments out of range, or an `apply` that cannot be exact;
      at `update`, without `params`, if a gradient's shape is not what `apply`
      says, or if a Gram matrix is missing or does not fit.

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
  _check_arguments(weighting, num_tasks, num_splits, blocks, apply)
  rule = Rule(weighting, num_tasks, num_splits, kind, match_norm)
  gram_RxR = jnp.zeros((rule.num_rows, rule.num_rows))
  task_gram(gram_RxR, num_splits, kind)  # Refuses a kind that does not fit.
  block_fn = blocks or (lambda path, leaf: WHOLE)

  def pack(by_block):
    return by_block if blocks else by_block[WHOLE]

  def init_fn(params):
    depths = {place.name: place.depth for place in places(params, block_fn)}
    # Each block has arrays of its own, so that the state can be donated.
    by_block = {
        name: repeat(_init_block(rule), depth)
        for name, depth in depths.items()
    }
    fields = map(pack, transpose(by_block))
    return CorrectState(*fields, jnp.zeros(num_tasks, jnp.int32))

  def update_fn(updates, state, params=None, *, gram=None, **extras):
    _check_gradients(updates, params, rule, apply)
    if gram is not None:
      grams = given_grams(gram, state.gram_RxR, rule.num_rows)
    elif apply == 'stacked':
      grams = gram_blocks(updates, block_fn)
    else:
      raise ValueError(
          f'apply={apply!r} needs the rows\' Gram matrix: tx.update(grads, '
          'state, params, gram=grams), as gl.value_and_grad_for returns it'
      )
    weighed, kept_K = weigh_blocks(
        rule, grams, by_block_name(state.weighting_state, blocks), extras,
        together=apply != 'in_backward',
    )
    skipped_K = state.skipped_K + ~all_K(
        block.used_K for block in weighed.values()
    )
    weights = {name: block.weights_K for name, block in weighed.items()}
    if apply == 'stacked':
      updates = _combine(updates, params, weights, rule, kept_K, block_fn)
    elif apply == 'lagged':
      old = by_block_name(state.weights_K, blocks)
      weights = {
          name: jnp.where(block.used_K, block.weights_K, old[name])
          for name, block in weighed.items()
      }
    new = transpose({
        name: (block.gram_RxR, block.gram_KxK, weights[name], block.state)
        for name, block in weighed.items()
    })
    return updates, CorrectState(*map(pack, new), skipped_K)

  correction = Correction(init_fn, update_fn)
  correction.rule, correction.blocks, correction.apply = rule, blocks, apply
  return correction


def _init_block(rule: Rule) -> tuple:
  return (
      jnp.zeros((rule.num_rows, rule.num_rows), jnp.float32),
      jnp.zeros((rule.num_tasks, rule.num_tasks), jnp.float32),
      jnp.ones(rule.num_tasks, jnp.float32),
      rule.weighting.init(rule.num_tasks),
  )


def _combine(
    grads_RxP: PyTree,
    params: PyTree,
    weights: Mapping[str, jax.Array],
    rule: Rule,
    kept_K: jax.Array,
    block_fn: Blocks,
) -> PyTree:
  """The weighted sum of stacked rows, like `params`."""
  leaves, treedef = jax.tree.flatten(params)
  combined = []
  for rows, param, place in zip(
      jax.tree.leaves(grads_RxP), leaves, places(params, block_fn), strict=True
  ):
    weights_R = rule.rows(weights[place.name])
    update = weighted_sum(rows, weights_R, rule.rows(kept_K), place.axis)
    combined.append(update.astype(jnp.result_type(param)))
  return treedef.unflatten(combined)


def _check_arguments(
    weighting: Weighting,
    num_tasks: int,
    num_splits: int,
    blocks: Blocks | None,
    apply: str,
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
  if apply not in APPLY:
    raise ValueError(f'apply={apply!r}; use one of {", ".join(APPLY)}')
  if apply == 'in_backward' and blocks is None:
    raise ValueError(
        "apply='in_backward' weighs each block before the next is known: give "
        "blocks=, or use apply='two_pass' or 'lagged'"
    )
  if apply == 'two_pass' and blocks is not None:
    raise ValueError(
        "apply='two_pass' has one weight for a task in all blocks: with "
        "blocks=, apply='in_backward' is exact in one pass"
    )


def _check_gradients(
    updates: PyTree, params: PyTree, rule: Rule, apply: str
) -> None:
  if params is None:
    raise ValueError(
        'correct() needs the parameters: tx.update(grads, state, params)'
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
    rows = (rule.num_rows, *own)
    if got == (rows if apply == 'stacked' else own):
      continue
    message = f'gradient leaf {jax.tree_util.keystr(path)} has shape {got}, '
    if apply != 'stacked':
      message += f'expected {own}: with apply={apply!r} rows are summed already'
    else:
      message += (
          f'expected {rows}: num_tasks={rule.num_tasks} times num_splits='
          f'{rule.num_splits} rows before the shape of the parameter'
      )
    if apply == 'stacked' and got == own:
      message += (
          '. It has no task axis: take gradients by gl.task_value_and_grad; '
          'optax.MultiSteps goes after gl.correct, not around it'
      )
    raise ValueError(message)
