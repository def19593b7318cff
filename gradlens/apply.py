"""Apply: gradients and Gram matrices of rows, as a correction takes them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradlens.blocks import WHOLE, weigh_blocks, whole_gram
from gradlens.correct import Correction
from gradlens.decompose import task_value_and_grad
from gradlens.gram import by_layer, gram_blocks, places
from gradlens.probe import Probe, Reading
from gradlens.sketch import sketch_gram
from gradlens.state import CorrectState, correct_states
from gradlens.types import Blocks, PyTree
from gradlens.value_grad import pullback, value_grad_readings

# (params, state, batch, extras) -> (values, grads, grams)
_Apply = Callable[[PyTree, CorrectState, tuple, Mapping[str, Any]], tuple]


def value_and_grad_for(
    correction: Correction,
    losses_fn: Callable[..., Any],
    *,
    has_aux: bool = False,
    blocks: Blocks | None = None,
    num_micro_batches: int | None = None,
    sketch_size: int = 4096,
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
  block_fn = correction.blocks or blocks or by_layer
  make = {
      'stacked': _stacked,
      'in_backward': _in_backward,
      'two_pass': _two_pass,
      'lagged': _lagged,
  }[correction.apply]
  run = make(
      correction, losses_fn, has_aux, block_fn,
      sketch_size if num_micro_batches else 0,
  )

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
    return run(params, state, batch, extras)

  return value_and_grad_fn


def _stacked(
    correction: Correction, losses_fn: Callable[..., Any], has_aux: bool,
    block_fn: Blocks, sketch_size: int,
) -> _Apply:
  def one_row(params, row):
    none = dict.fromkeys(place.name for place in places(params, block_fn))
    row_of_one = jax.tree.map(lambda leaf: leaf[None], row)
    return jax.tree.map(
        lambda leaf: leaf[0], losses_fn(params, none, *row_of_one)
    )

  rows_fn = task_value_and_grad(one_row, has_aux=has_aux)

  def run(params, state, batch, extras):
    del state, extras
    if not sketch_size:
      values, grads_RxP = rows_fn(params, batch)
    else:
      zeros_RxP = jax.tree.map(
          lambda leaf: jnp.zeros(
              (correction.rule.num_rows, *leaf.shape), leaf.dtype
          ),
          params,
      )

      def add(total_RxP, micro):
        values, grads_RxP = rows_fn(params, micro)
        return jax.tree.map(jnp.add, total_RxP, grads_RxP), values

      grads_RxP, values = jax.lax.scan(add, zeros_RxP, batch)
      values = _summed(values, has_aux)
    return values, grads_RxP, gram_blocks(grads_RxP, block_fn)

  return run


def _in_backward(
    correction: Correction, losses_fn: Callable[..., Any], has_aux: bool,
    block_fn: Blocks, sketch_size: int,
) -> _Apply:
  rule, measure = correction.rule, _measure(losses_fn, has_aux, sketch_size)

  def run(params, state, batch, extras):
    probes = {
        name: Probe(
            rule.num_rows, depth, rule=rule, extras=extras,
            state=state.weighting_state[name],
        )
        for name, depth in _depths(params, block_fn).items()
    }
    return measure(params, probes, batch)

  return run


def _lagged(
    correction: Correction, losses_fn: Callable[..., Any], has_aux: bool,
    block_fn: Blocks, sketch_size: int,
) -> _Apply:
  rule, measure = correction.rule, _measure(losses_fn, has_aux, sketch_size)

  def run(params, state, batch, extras):
    del extras
    weights, by_block = state.weights_K, correction.blocks is not None
    probes = {
        name: Probe(
            rule.num_rows, depth, sketch_size=sketch_size,
            weights_R=rule.rows(weights[name] if by_block else weights),
        )
        for name, depth in _depths(params, block_fn).items()
    }
    return measure(params, probes, batch)

  return run


def _two_pass(
    correction: Correction, losses_fn: Callable[..., Any], has_aux: bool,
    block_fn: Blocks, sketch_size: int,
) -> _Apply:
  rule, measure = correction.rule, _measure(losses_fn, has_aux, sketch_size)

  def weights_of(grams, state, extras):
    weighed, _ = weigh_blocks(
        rule, {WHOLE: whole_gram(grams)}, {WHOLE: state.weighting_state},
        extras, together=True,
    )
    return rule.rows(weighed[WHOLE].weights_K)

  def run(params, state, batch, extras):
    def probes(weights_R):
      return {
          name: Probe(
              rule.num_rows, depth, weights_R=weights_R, sketch_size=sketch_size
          )
          for name, depth in _depths(params, block_fn).items()
      }

    if sketch_size:
      values, _, grams = measure(params, probes(None), batch)
      weights_R = weights_of(grams, state, extras)
      _, grads, _ = measure(params, probes(weights_R), batch)
      return values, grads, grams
    values, pull = pullback(losses_fn, has_aux)(params, probes(None), *batch)
    # Of each pass the compiler drops what is not used: first the gradient.
    _, readings = pull(jnp.ones(rule.num_rows))
    grams = _each(readings, lambda r: r.gram_RxR)
    grads, _ = pull(weights_of(grams, state, extras))
    return values, grads, grams

  return run


def _depths(params: PyTree, block_fn: Blocks) -> dict[str, int | None]:
  """How many layers every block has; None for a block that is not stacked."""
  return {place.name: place.depth for place in places(params, block_fn)}


def _measure(
    losses_fn: Callable[..., Any], has_aux: bool, sketch_size: int
) -> Callable[..., Any]:
  """One pass over the batch, or over its micro-batches if there is a sketch."""
  readings_fn = value_grad_readings(losses_fn, has_aux)

  def measure(params, probes, batch):
    if not sketch_size:
      values, grads, readings = readings_fn(params, probes, *batch)
      return values, grads, _each(readings, lambda r: r.gram_RxR)

    def add(total, micro):
      values, grads, readings = readings_fn(params, probes, *micro)
      added = grads, _each(readings, lambda r: r.sketch_RxN)
      return jax.tree.map(jnp.add, total, added), values

    zeros = jax.tree.map(jnp.zeros_like, params), {
        name: probe.reading.sketch_RxN for name, probe in probes.items()
    }
    (grads, sketches), values = jax.lax.scan(add, zeros, batch)
    grams = {name: sketch_gram(own) for name, own in sketches.items()}
    return _summed(values, has_aux), grads, grams

  return measure


def _each(
    readings: Mapping[str, Reading], field: Callable[[Reading], jax.Array]
) -> dict[str, jax.Array]:
  return {name: field(reading) for name, reading in readings.items()}


def _summed(values: PyTree, has_aux: bool) -> PyTree:
  """Losses over micro-batches; what comes beside them stays as it is."""
  if has_aux:
    losses_MxR, aux = values
    return losses_MxR.sum(axis=0), aux
  return values.sum(axis=0)
