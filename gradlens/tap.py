"""Tap: task gradients met, measured and combined inside the backward pass."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlens.first_order import in_metric, inner
from gradlens.gram import gram
from gradlens.probe import Probe, Reading, is_probe
from gradlens.residuals import keep
from gradlens.rule import weighted_sum
from gradlens.shards import Shards
from gradlens.shared import share_leaf
from gradlens.sketch import sketch
from gradlens.turns import rows_in_turn
from gradlens.types import PyTree


def tap(
    fn: Callable[..., PyTree],
    *,
    owns: Callable[[PyTree], PyTree] | None = None,
    extra_axes: int | None | tuple[int | None, ...] = 0,
    shards: Shards | None = None,
    remat: bool = True,
    in_turn: bool = False,
) -> Callable[..., PyTree]:
  r"""Runs a block on all rows, and decomposes its gradient on the way back.

  The result computes `fn` for every row at the same parameters. Its backward
  pass forms the rows' gradients :math:`g_r` of this block only, reads them into
  the probe, and hands on their weighted sum:

  .. math:: G_{rs} = \langle g_r, g_s \rangle, \qquad
    \frac{\partial}{\partial \text{params}} = \sum_r w_r g_r

  so that the stacked gradients of one block at a time are alive. Nothing of the
  forward pass is kept but the block's inputs: it is computed again, as
  `jax.checkpoint` would; or, with `remat=False`, all that is needed is kept.

  A row whose squared norm in this block is not finite takes no part in the sum.

  .. warning:: Parameters used outside of every tap, or inside of two, get the
    right gradient and a wrong Gram matrix; `check_taps` names them. A leaf used
    twice belongs to one block that `owns` it.

  Args:
    fn: `fn(params, x, *extra) -> y` of one row: pytrees in and out. It must not
      close over values that gradients are taken of.
    owns: `owns(params) -> leaf`, a part of `params` that other blocks read too.
      The tap then returns `(y_R, shared)`, for another tap's `shared=`. From
      there to here R x leaf is alive on the way back.
    extra_axes: the row axis of `extra`, or None where all rows share them, such
      as positions and masks. No gradient is taken of them.
    shards: how rows, examples and parameters are spread over the mesh axes of
      an enclosing `shard_map`. `fn` gets whole parameters; all else that is of
      parameters is of this device's shards, and `x_R` of its own rows.
    remat: compute the block again on the way back. If not, a policy says what
      is kept by `fn` in `jax.checkpoint(fn, policy=...)`.
    in_turn: one row after the other, not all at once under `jax.vmap`: for a
      block with large insides.

  Returns:
    `tapped(params, x_R, probe, *extra, shared=None) -> y_R`, with rows on the
    leading axis of every leaf of `x_R` and `y_R`. With `shared`, `fn` is called
    as `fn(params, x, leaf, *extra)`. With `probe=None` the result is `fn` under
    `jax.vmap`, or of one row after the other, and differentiates as such.

  Raises:
    TypeError: when called with a probe that is not one.
    ValueError: `in_turn` without `remat`; or, when called, a probe of another
      number of rows, or of layers that no scan took apart.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> layer = gl.tap(lambda w, x: jnp.sum(w * x))
  >>> def losses_fn(w, probe, x_RxN):
  ...   return layer(w, x_RxN, probe)
  >>> x_RxN = jnp.array([[3., 0.], [1., 2.]])
  >>> losses_R, grad, gram_RxR = gl.value_grad_gram(losses_fn)(
  ...     jnp.ones(2), gl.Probe(2), x_RxN)
  >>> print(grad)
  [4. 2.]
  >>> print(gram_RxR)
  [[9. 3.]
   [3. 5.]]
  """

  if in_turn and not remat:
    raise ValueError('in_turn=True computes again what remat=False would keep')
  over_rows = rows_in_turn if in_turn else jax.vmap

  def whole(params, others):
    """What `fn` gets of the parameters: its own, and leaves that others own."""
    leaves = tuple(other.leaf for other in others)
    if shards is None:
      return params, leaves
    return shards.gather(params, shards.dims(params)), tuple(
        shards.gather(other.leaf, other.dims) for other in others
    )

  def share(params, num_rows):
    dims = () if shards is None else shards.dims(params)
    return share_leaf(owns, params, num_rows, dims)

  def run(params, others, x_R, extra):
    params, leaves = whole(params, others)

    def one_row(x, extra):
      return fn(params, x, *leaves, *extra)

    return over_rows(one_row, (0, _axes(extra, extra_axes)))(x_R, extra)

  @jax.custom_vjp
  def tapped(params, others, x_R, reading, handle, probe, extra):
    del reading, handle
    y_R = run(params, others, x_R, extra)
    return y_R if owns is None else (y_R, share(params, probe.num_rows))

  def pullback(params, leaves, x, *extra):
    return jax.vjp(
        lambda params, leaves, x: fn(params, x, *leaves, *extra),
        params, leaves, x,
    )

  def forward(params, others, x_R, reading, handle, probe, extra):
    if remat:
      y_R = tapped(params, others, x_R, reading, handle, probe, extra)
      return y_R, (params, others, probe, (x_R, extra))
    axes = (None, None, 0, *_axes(extra, extra_axes))
    y_R, saved = keep(pullback, axes, *whole(params, others), x_R, *extra)
    if owns is not None:
      y_R = y_R, share(params, probe.num_rows)
    return y_R, (params, others, probe, saved)

  def pull_rows(params, others, saved, dy_R):
    if not remat:
      return saved.pull(_float_leaves(dy_R), _cotangent)
    x_R, extra = saved
    # Not before dy is there, or the compiler keeps all blocks' insides instead.
    params, others, x_R, dy_R = jax.lax.optimization_barrier(
        (params, others, x_R, _float_leaves(dy_R))
    )
    params, leaves = whole(params, others)

    def one_row(x, dy, extra):
      y, pull = pullback(params, leaves, x, *extra)
      return pull(_cotangent(y, dy))

    return over_rows(one_row, (0, 0, _axes(extra, extra_axes)))(
        x_R, dy_R, extra
    )

  def backward(residuals, cotangent):
    params, others, probe, saved = residuals
    dy_R, dshared = (cotangent, None) if owns is None else cotangent
    grads_RxP, dhandle_RxP, dx_R = pull_rows(params, others, saved, dy_R)
    if shards is not None:
      grads_RxP = shards.exchange(grads_RxP, params, shards.dims(params))
      dhandle_RxP = tuple(
          shards.exchange(rows, other.leaf, other.dims)
          for rows, other in zip(dhandle_RxP, others, strict=True)
      )
    if owns is not None:
      _, place = jax.vjp(owns, params)
      (by_others_RxP,) = jax.vmap(place)(dshared.handle_RxP)
      grads_RxP = jax.tree.map(jnp.add, grads_RxP, by_others_RxP)
    reading = _read(grads_RxP, params, probe, shards)
    weights_R, kept_R = _weigh(reading.gram_RxR, probe)
    grads = jax.tree.map(
        lambda rows, param: weighted_sum(rows, weights_R, kept_R).astype(
            param.dtype
        ),
        grads_RxP,
        params,
    )
    if owns is not None:
      # From a reader outside of every tap: right, though no row's.
      grads = jax.tree.map(jnp.add, grads, *place(dshared.leaf))
    return grads, None, dx_R, reading, dhandle_RxP, None, None

  tapped.defvjp(forward, backward)

  def call(params, x_R, probe, *extra, shared=None):
    others = ()
    if shared is not None:
      others = (dataclasses.replace(shared, handle_RxP=None),)
    if probe is None:
      y_R = run(params, others, x_R, extra)
      return y_R if owns is None else (y_R, share(params, None))
    _check_probe(probe, x_R, 1 if shards is None else shards.num_groups)
    if shared is not None and shared.handle_RxP is None:
      raise ValueError('the tap that owns the shared leaf has no probe')
    handle = () if shared is None else (shared.handle_RxP,)
    return tapped(params, others, x_R, probe.reading, handle, probe, extra)

  return call


def _axes(
    extra: tuple, axis: int | None | tuple[int | None, ...]
) -> tuple[int | None, ...]:
  """Of each further argument; none for none."""
  return axis if extra and isinstance(axis, tuple) else (axis,) * len(extra)


def _float_leaves(tree: PyTree) -> list[jax.Array]:
  return [
      leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != jax.dtypes.float0
  ]


def _cotangent(y: PyTree, float_leaves: list[jax.Array]) -> PyTree:
  """A cotangent of `y`: what has no gradient gets float0, as JAX wants it."""
  remaining = iter(float_leaves)
  return jax.tree.map(
      lambda leaf: next(remaining)
      if jnp.issubdtype(leaf.dtype, jnp.inexact)
      else np.zeros(leaf.shape, jax.dtypes.float0),
      y,
  )


def _read(
    grads_RxP: PyTree, params: PyTree, probe: Probe, shards: Shards | None
) -> Reading:
  """All that the probe asks for, of one block's stacked gradients."""
  asked, given = probe.reading, probe.given
  if shards is not None:
    grads_RxP = shards.once(grads_RxP, shards.dims(params))
  reading = Reading(gram(grads_RxP))
  if asked.metric_gram_RxR is not None:
    scaled_RxP = in_metric(grads_RxP, given.metric)
    reading = reading._replace(metric_gram_RxR=gram(scaled_RxP))
  if asked.along_R is not None:
    reading = reading._replace(along_R=inner(grads_RxP, given.direction))
  if asked.sketch_RxN is not None:
    size = asked.sketch_RxN.shape[-1]
    part = None if shards is None else shards.part
    reading = reading._replace(sketch_RxN=sketch(grads_RxP, size, part))
  return reading if shards is None else shards.total(reading)


def _weigh(gram_RxR: jax.Array, probe: Probe) -> tuple[jax.Array, jax.Array]:
  """Each row's weight, and whether it takes part."""
  rule, given = probe.rule, probe.given
  if rule is None:
    return given.weights_R, jnp.isfinite(jnp.diag(gram_RxR))
  kept_K = rule.finite_tasks(gram_RxR)
  weighed = rule.weigh(gram_RxR, given.state, kept_K, given.extras)
  return rule.rows(weighed.weights_K), rule.rows(kept_K)


def _check_probe(probe: Any, x_R: PyTree, num_groups: int) -> None:
  if not is_probe(probe):
    raise TypeError(f'a tap takes a gl.Probe or None, got {type(probe)}')
  shape = probe.reading.gram_RxR.shape
  if len(shape) != 2:
    raise ValueError(
        f'a probe of {shape[0]} layers serves them one by one: scan it beside '
        'their parameters, as jax.lax.scan(step, x_R, (params, probe))'
    )
  for path, leaf in jax.tree_util.tree_leaves_with_path(x_R):
    if jnp.shape(leaf)[:1] != (probe.num_rows / num_groups,):
      groups = '' if num_groups == 1 else f' in {num_groups} groups of devices'
      raise ValueError(
          f'x_R{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, but '
          f'the probe has {probe.num_rows} rows{groups}, which lead every leaf'
      )
