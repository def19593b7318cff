"""Check of taps: parameters that are outside of all, or inside of two."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlens.probe import Probe, is_probe
from gradlens.types import PyTree
from gradlens.value_grad import value_grad_gram


def check_taps(
    losses_fn: Callable[..., Any], params: PyTree, probes: PyTree, *batch: Any
) -> None:
  """Finds parameters whose gradients a Gram matrix would miss, or miss in part.

  To be called once, on a small batch: it runs the loss forward and back once or
  twice for every block. Gradients are compared with single blocks switched on
  by their probes' weights. A parameter whose gradient is zero on this batch
  passes unseen.

  Args:
    losses_fn: as for `value_grad_gram`.
    params: the parameters.
    probes: one for each block; their weights do not matter.
    *batch: further arguments of `losses_fn`.

  Raises:
    ValueError: naming each parameter that is used outside of every tap, or in
      more than one, and what to do.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> layer = gl.tap(lambda w, x: w * x)
  >>> def losses_fn(params, probes, x_RxN):
  ...   y_RxN = layer(params['w'], x_RxN, probes['w'])
  ...   return jnp.sum(y_RxN * params['scale'], axis=1)
  >>> params = {'w': jnp.ones(3), 'scale': jnp.array(2.)}
  >>> gl.check_taps(losses_fn, params, {'w': gl.Probe(2)}, jnp.ones((2, 3)))
  Traceback (most recent call last):
  ValueError: params['scale'] is used outside of every tap: ...
  """
  leaves, treedef = jax.tree.flatten(probes, is_leaf=is_probe)
  grad_fn = jax.jit(
      lambda probes: value_grad_gram(losses_fn)(params, probes, *batch)[1]
  )

  def used_by(switched):
    """Which entries have a gradient when these blocks and layers are on."""
    own = treedef.unflatten([
        _switched(probe, switched.get(i)) for i, probe in enumerate(leaves)
    ])
    return jax.tree.map(lambda grad: grad != 0, grad_fn(own))

  faults = []
  outside = used_by({})
  names = [
      jax.tree_util.keystr(path)
      for path, _ in jax.tree_util.tree_leaves_with_path(
          probes, is_leaf=is_probe
      )
  ]
  uses = [
      (name, used_by({i: part}))
      for i, (name, probe) in enumerate(zip(names, leaves, strict=True))
      for part in _parts(probe)
  ]
  for number, (path, elsewhere) in enumerate(
      jax.tree_util.tree_leaves_with_path(outside)
  ):
    where = f'params{jax.tree_util.keystr(path)}'
    if elsewhere.any():
      faults.append(
          f'{where} is used outside of every tap: move its use into one'
      )
      continue
    own = [(name, jax.tree.leaves(used)[number]) for name, used in uses]
    if sum(used.astype(int) for _, used in own).max(initial=0) > 1:
      within = dict.fromkeys(name for name, used in own if used.any())
      faults.append(
          f'{where} is used more than once, in probes{", probes".join(within)}:'
          ' let one block own it, by gl.tap(fn, owns=...), and give it to the'
          ' others as shared='
      )
  if faults:
    raise ValueError('; '.join(faults))


def _parts(probe: Probe) -> list[jax.Array]:
  """Of layers the even and the odd ones: neighbors must not share a leaf."""
  layers = probe.given.weights_R.shape[:-1]
  if not layers:
    return [jnp.ones(())]
  odd = jnp.arange(layers[0]) % 2
  return [odd, 1 - odd] if layers[0] > 1 else [1 - odd]


def _switched(probe: Probe, part: jax.Array | None) -> Probe:
  """The probe with weights 1 where `part` is, and 0 elsewhere."""
  weights = jnp.zeros_like(probe.given.weights_R)
  if part is not None:
    weights = weights + part[..., None]
  own = Probe.tree_unflatten(None, probe.tree_flatten()[0])
  own.given = probe.given._replace(weights_R=weights, state=(), extras={})
  return own
