"""Apply: gradients and Gram matrices of rows, as a correction takes them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlens.blocks import WHOLE, weigh_blocks, whole_gram
from gradlens.correct import Correction
from gradlens.decompose import task_value_and_grad
from gradlens.gram import by_layer, gram_blocks, places
from gradlens.probe import Probe
from gradlens.sketch import sketch_gram
from gradlens.state import CorrectState, correct_states
from gradlens.types import Blocks, PyTree
from gradlens.value_grad import pullback, value_grad_readings


def value_and_grad_for(
    correction: Correction,
    losses_fn: Callable[..., Any],
    *,
    has_aux: bool = False,
    blocks: Blocks | None = None,
    num_micro_batches: int | None = None,
    sketch_size: int = 4096,
    spmd_axis_name: str | None = None,
    placed: Callable[[PyTree], PyTree] = lambda grads_RxP: grads_RxP,
) -> Callable[..., Any]:
  r"""Losses, gradients and Gram matrices, in the way `correct` was told.

  One function of the loss serves every `apply=`; to change the way is to change
  that word.

  **Micro-batches.** Gradients of rows are then sums over M micro-batches.
  `'stacked'` adds them up, exact. A tap sees one micro-batch at a time, so that
  products of different ones are met by nobody: Gram matrices come from sketches
  of `sketch_size` numbers a row, which add up, and are unbiased with a relative
  standard error of at most :math:`\sqrt{2 / \text{size}}` (see `sketch`). The
  gradient itself is exact for the weights that follow from it. `'two_pass'`
  computes the forward pass twice. `'in_backward'` has to weigh before the next
  micro-batch is known, and refuses.

  Args:
    correction: from `correct`, the one whose state is in `opt_state`.
    losses_fn: `losses_fn(params, probes, *batch) -> losses_R`, a function made
      of taps, where `probes` holds one for each block, or None for each.
    has_aux: whether it returns `(losses_R, aux_R)`.
    blocks: the blocks of the probes, if the correction has none of its own; by
      default `by_layer`.
    num_micro_batches: M; leaves of `batch` are then `[M, R, ...]`, losses are
      sums and `aux` leads with M.
    sketch_size: numbers per row and block, for micro-batches through taps.
    spmd_axis_name: for `'stacked'`, the mesh axis of rows, as in `jax.vmap`;
      taps are told by their `shards`.
    placed: for `'stacked'`, says where rows' gradients lie, before they are
      multiplied, by `jax.lax.with_sharding_constraint`.

  Returns:
    `f(params, opt_state, *batch, **extras) -> (values, grads, grams)`, where
    leaves of `batch` have the row axis first, and extras are those of the
    weighting. To be followed by
    `tx.update(grads, opt_state, params, gram=grams, **extras)`.

  Raises:
    TypeError: if `correction` is not from `correct`.
    ValueError: for `'in_backward'` with micro-batches.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> import optax
  >>> import gradlens as gl
  >>> layer = gl.tap(lambda w, x: jnp.sum(w * x))
  >>> def losses_fn(params, probes, x_RxN):
  ...   return layer(params['w'], x_RxN, probes['w'])
  >>> correction = gl.correct(
  ...     gl.equalize_norms(), num_tasks=2, apply='two_pass')
  >>> tx = optax.chain(correction, optax.sgd(1.))
  >>> params = {'w': jnp.zeros(2)}
  >>> state = tx.init(params)
  >>> losses_R, grads, grams = gl.value_and_grad_for(correction, losses_fn)(
  ...     params, state, jnp.array([[4., 0.], [0., 100.]]))
  >>> updates, state = tx.update(grads, state, params, gram=grams)
  >>> print(updates['w'], gl.task_weights(state))
  [-0.5 -0.5] [0.125 0.005]
  """
  if not isinstance(correction, Correction):
    raise TypeError(
        'value_and_grad_for takes what gl.correct returned, before optax.chain '
        f'wraps it, got {type(correction)}'
    )
  if num_micro_batches is not None and correction.apply == 'in_backward':
    raise ValueError(
        "apply='in_backward' weighs by the Gram matrix of one micro-batch, not "
        "of their sum: use 'stacked' or 'lagged', or num_micro_batches=None"
    )
  plan = _Plan(
      correction, losses_fn, has_aux, correction.blocks or blocks or by_layer,
      sketch_size if num_micro_batches else None, spmd_axis_name, placed,
  )
  run = {
      'stacked': _stacked,
      'in_backward': _in_backward,
      'two_pass': _two_pass,
      'lagged': _lagged,
  }[correction.apply]

  def value_and_grad_fn(params, opt_state, *batch, **extras):
    states = correct_states(opt_state)
    if len(states) > 1:
      raise ValueError(
          f'opt_state holds {len(states)} corrections ({", ".join(states)}): '
          'give the state of one'
      )
    (state,) = states.values()
    if num_micro_batches:
      for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if jnp.shape(leaf)[:1] != (num_micro_batches,):
          raise ValueError(
              f'batch{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}; '
              f'num_micro_batches={num_micro_batches} lead every leaf'
          )
    return run(plan, params, state, batch, extras)

  return value_and_grad_fn


class _Plan(NamedTuple):
  """What `value_and_grad_for` was given; without a sketch, one batch."""

  correction: Correction
  losses_fn: Callable[..., Any]
  has_aux: bool
  block_fn: Blocks
  sketch_size: int | None
  spmd_axis_name: str | None
  placed: Callable[[PyTree], PyTree]

  def probes(self, params: PyTree, **by_block: Mapping[str, Any]) -> Any:
    """A probe for each block; `by_block` has arguments of each, by name."""
    return {
        place.name: Probe(
            self.correction.rule.num_rows,
            place.depth,
            sketch_size=self.sketch_size or 0,
            **{key: own[place.name] for key, own in by_block.items()},
        )
        for place in places(params, self.block_fn)
    }

  def names(self, params: PyTree) -> list[str]:
    """Of the blocks."""
    return [place.name for place in places(params, self.block_fn)]


def _stacked(
    plan: _Plan, params: PyTree, state: CorrectState, batch: tuple,
    extras: Mapping[str, Any],
) -> tuple:
  del state, extras
  none = dict.fromkeys(plan.names(params))

  def one_row(params, row):
    row_of_one = jax.tree.map(lambda leaf: leaf[None], row)
    return jax.tree.map(
        lambda leaf: leaf[0], plan.losses_fn(params, none, *row_of_one)
    )

  rows_fn = task_value_and_grad(
      one_row, has_aux=plan.has_aux, spmd_axis_name=plan.spmd_axis_name
  )

  def placed_fn(batch):
    values, grads_RxP = rows_fn(params, batch)
    return values, plan.placed(grads_RxP)

  if plan.sketch_size is None:
    values, grads_RxP = placed_fn(batch)
  else:
    values, grads_RxP = _accumulate(plan, placed_fn, batch)
  return values, grads_RxP, gram_blocks(grads_RxP, plan.block_fn)


def _in_backward(
    plan: _Plan, params: PyTree, state: CorrectState, batch: tuple,
    extras: Mapping[str, Any],
) -> tuple:
  names = plan.names(params)
  probes = plan.probes(
      params,
      rule=dict.fromkeys(names, plan.correction.rule),
      state=state.weighting_state,
      extras=dict.fromkeys(names, extras),
  )
  return _measure(plan, params, probes, batch)


def _lagged(
    plan: _Plan, params: PyTree, state: CorrectState, batch: tuple,
    extras: Mapping[str, Any],
) -> tuple:
  del extras
  weights_R = jax.tree.map(plan.correction.rule.rows, state.weights_K)
  if plan.correction.blocks is None:
    weights_R = dict.fromkeys(plan.names(params), weights_R)
  probes = plan.probes(params, weights_R=weights_R)
  return _measure(plan, params, probes, batch)


def _two_pass(
    plan: _Plan, params: PyTree, state: CorrectState, batch: tuple,
    extras: Mapping[str, Any],
) -> tuple:
  rule = plan.correction.rule

  def weights_of(grams):
    weighed, _ = weigh_blocks(
        rule, {WHOLE: whole_gram(grams)}, {WHOLE: state.weighting_state},
        extras, together=True,
    )
    return rule.rows(weighed[WHOLE].weights_K)

  if plan.sketch_size is not None:
    values, _, grams = _measure(plan, params, plan.probes(params), batch)
    weights_R = dict.fromkeys(plan.names(params), weights_of(grams))
    probes = plan.probes(params, weights_R=weights_R)
    _, grads, _ = _measure(plan, params, probes, batch)
    return values, grads, grams
  values, pull = pullback(plan.losses_fn, plan.has_aux)(
      params, plan.probes(params), *batch
  )
  # Of each pass the compiler drops what is not used: first the gradient.
  _, readings = pull(jnp.ones(rule.num_rows))
  grams = {name: reading.gram_RxR for name, reading in readings.items()}
  grads, _ = pull(weights_of(grams))
  return values, grads, grams


def _measure(
    plan: _Plan, params: PyTree, probes: Mapping[str, Probe], batch: tuple
) -> tuple:
  """One pass over the batch, or over its micro-batches by sketches."""
  readings_fn = value_grad_readings(plan.losses_fn, plan.has_aux)
  if plan.sketch_size is None:
    values, grads, readings = readings_fn(params, probes, *batch)
    grams = {name: reading.gram_RxR for name, reading in readings.items()}
    return values, grads, grams

  def one(micro):
    values, grads, readings = readings_fn(params, probes, *micro)
    sketches = {name: own.sketch_RxN for name, own in readings.items()}
    return values, (grads, sketches)

  values, (grads, sketches) = _accumulate(plan, one, batch)
  return values, grads, jax.tree.map(sketch_gram, sketches)


def _accumulate(
    plan: _Plan, value_and_sum: Callable[[tuple], tuple], batch: tuple
) -> tuple:
  """Runs micro-batches one by one: values of all, and the sum of the rest.

  Losses are added up; what comes beside them stays as it is, `[M, ...]`.
  """
  first = jax.tree.map(lambda leaf: leaf[0], batch)
  _, shapes = jax.eval_shape(value_and_sum, first)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(total, micro):
    values, own = value_and_sum(micro)
    return jax.tree.map(jnp.add, total, own), values

  total, values = jax.lax.scan(add, zeros, batch)
  if plan.has_aux:
    losses_MxR, aux = values
    return (losses_MxR.sum(axis=0), aux), total
  return values.sum(axis=0), total
