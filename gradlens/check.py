"""Check: finds what is wrong with an optimizer before any step."""

import collections
from typing import Any

import jax
import optax

from gradlens.state import correct_states, is_correction
from gradlens.types import PyTree


def check(
    tx: optax.GradientTransformation | optax.MultiSteps,
    params: PyTree,
    *,
    num_tasks: int,
    num_splits: int = 1,
    apply: str = 'stacked',
    **extras: Any,
) -> None:
  """Finds what is wrong with a chain, by `jax.eval_shape`, before any step.

  Several wrong chains run under jit without an error: Adam on stacked gradients
  lets the parameters grow, clipping before `correct` clips all tasks as one.

  Args:
    tx: the whole optimizer.
    params: the parameters, or structs of them; nothing is computed.
    num_tasks: K.
    num_splits: S.
    apply: as in `correct`; for all but `'stacked'`, gradients of the shape of
      `params` come with a Gram matrix.
    **extras: what the update is given for the weighting, such as `losses_K`.

  Raises:
    ValueError: naming the fault and the fix, if `tx` has no `correct`, or has
      it behind another transformation, or inside `optax.MultiSteps` or
      `optax.apply_if_finite`; if the number of rows differs; if updates differ
      from `params` in shape or dtype; if the state changes its structure,
      shapes or dtypes.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> import gradlens as gl
  >>> params = jnp.zeros(3)
  >>> correct = gl.correct(gl.pcgrad(), num_tasks=2)
  >>> gl.check(optax.chain(correct, optax.adam(1e-3)), params, num_tasks=2)
  >>> tx = optax.chain(optax.clip_by_global_norm(1.), correct)
  >>> gl.check(tx, params, num_tasks=2)
  Traceback (most recent call last):
  ValueError: gl.correct is number 2 of its chain; put it first, ...
  """

  def init(params):
    # Looked at before eval_shape rebuilds it, which sorts the keys of dicts.
    state = tx.init(params)
    if not _holds_correction(state):
      raise ValueError(
          'there is no gl.correct in this transformation, which would take the '
          'task axis for one of the parameters; put gl.correct(..., '
          f'num_tasks={num_tasks}) first in optax.chain'
      )
    _check_place(state)
    return state

  rows = (num_tasks * num_splits,) if apply == 'stacked' else ()

  def gradient(param):
    return jax.ShapeDtypeStruct((*rows, *param.shape), param.dtype)

  params, state = jax.eval_shape(lambda params: (params, init(params)), params)
  grads = jax.tree.map(gradient, params)
  if apply != 'stacked':
    first = next(iter(correct_states(state).values()))
    extras = {'gram': first.gram_RxR, **extras}
  try:
    updates, new_state = jax.eval_shape(
        tx.update, grads, state, params, **extras
    )
  except TypeError as error:
    shape = f'[{", ".join([*map(str, rows), "*param"])}]'
    raise ValueError(
        f'the update fails on gradients of shape {shape}: {error}'
    ) from error
  _check_same('updates', updates, 'params', params)
  _check_same('the new state', new_state, 'the initial state', state)


def _holds_correction(state: PyTree) -> bool:
  nodes = jax.tree.leaves(state, is_leaf=is_correction)
  return any(map(is_correction, nodes))


_AROUND = {
    optax.MultiStepsState: (
        'optax.MultiSteps accumulates updates of one shape, but gl.correct '
        'changes it'
    ),
    optax.ApplyIfFiniteState: (
        'optax.apply_if_finite returns zeros of the shape it is given, but '
        'gl.correct changes it'
    ),
}


def _check_place(state: PyTree) -> None:
  """Walks down to each CorrectState; every node on the way must allow it."""
  if is_correction(state) or not _holds_correction(state):
    return
  for wrapper, reason in _AROUND.items():
    if isinstance(state, wrapper):
      raise ValueError(
          f'{reason}; put it after gl.correct: optax.chain(gl.correct(...), it)'
      )
  children = jax.tree.leaves(state, is_leaf=lambda node: node is not state)
  # The states of optax.chain and of optax.named_chain, in order.
  if type(state) in (tuple, collections.OrderedDict):
    for number, child in enumerate(children[1:], start=2):
      if _holds_correction(child):
        raise ValueError(
            f'gl.correct is number {number} of its chain; put it first, since '
            'what comes before it acts on stacked gradients [K * S, *param]'
        )
  for child in children:
    _check_place(child)


def _check_same(
    name: str, tree: PyTree, other_name: str, other: PyTree
) -> None:
  got, expected = jax.tree.structure(tree), jax.tree.structure(other)
  if got != expected:
    raise ValueError(
        f'{name} and {other_name} differ in structure: {got} and {expected}'
    )
  pairs = zip(
      jax.tree_util.tree_leaves_with_path(tree),
      jax.tree.leaves(other),
      strict=True,
  )
  for (path, leaf), target in pairs:
    if (leaf.shape, leaf.dtype) != (target.shape, target.dtype):
      raise ValueError(
          f'{name} {jax.tree_util.keystr(path)}: {leaf.dtype}{leaf.shape}, in '
          f'{other_name}: {target.dtype}{target.shape}'
      )
