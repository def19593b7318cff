"""Probe: what goes into the backward pass of a tap, and what comes out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlens.rule import Rule
from gradlens.types import PyTree


class Reading(NamedTuple):
  """What a tap reads of its block's row gradients g_r; None if not asked for.

  Attributes:
    gram_RxR: `<g_r, g_s>`, float32.
    metric_gram_RxR: `<g_r, m * g_s>` with the probe's `metric` m.
    along_R: `<g_r, d>` with the probe's `direction` d.
    sketch_RxN: see `sketch`.
  """

  gram_RxR: jax.Array
  metric_gram_RxR: jax.Array | None = None
  along_R: jax.Array | None = None
  sketch_RxN: jax.Array | None = None


class Given(NamedTuple):
  """What a probe carries into the backward pass of a block."""

  weights_R: jax.Array
  metric: PyTree
  direction: PyTree
  state: PyTree
  extras: Mapping[str, Any]


@jax.tree_util.register_pytree_node_class
class Probe:
  """Carries weights into a tap, and its block's Gram matrix out.

  A pytree: `value_grad_gram` differentiates by its zeros, and their gradient is
  the Gram matrix. One probe serves one block; for blocks under `jax.lax.scan`
  it has `num_layers`, and is scanned beside their parameters.

  Args:
    num_rows: R.
    num_layers: the length of a leading axis of layers; None for one block.
    weights_R: of the rows' gradients in the block's gradient, `[R]`, or
      `[layers, R]`; ones by default.
    rule: what weighs the rows instead, by the block's own Gram matrix.
    state: the rule's weighting state; needs a leading axis where there are
      layers.
    extras: further arguments of the rule's weighting, the same in every layer.
    metric: a pytree like the block's parameters, the diagonal of a
      preconditioner, such as 1 / (sqrt(nu) + eps) of Adam.
    direction: a pytree like the block's parameters.
    sketch_size: length of the sketch of every row; 0 makes none.

  Raises:
    ValueError: if `weights_R` does not fit the rows and layers.

  >>> import gradlens as gl
  >>> gl.Probe(4).reading.gram_RxR.shape
  (4, 4)
  >>> gl.Probe(4, num_layers=6).reading.gram_RxR.shape
  (6, 4, 4)
  """

  def __init__(
      self,
      num_rows: int,
      num_layers: int | None = None,
      *,
      weights_R: jax.Array | None = None,
      rule: Rule | None = None,
      state: PyTree = (),
      extras: Mapping[str, Any] | None = None,
      metric: PyTree = None,
      direction: PyTree = None,
      sketch_size: int = 0,
  ) -> None:
    layers = () if num_layers is None else (num_layers,)

    def zeros(*shape):
      return jnp.zeros((*layers, *shape), jnp.float32)

    def every_layer(leaf):
      return jnp.broadcast_to(leaf, (*layers, *jnp.shape(leaf)))

    square = zeros(num_rows, num_rows)
    self.reading = Reading(
        square,
        None if metric is None else square,
        None if direction is None else zeros(num_rows),
        zeros(num_rows, sketch_size) if sketch_size else None,
    )
    if weights_R is None:
      weights_R = jnp.ones(num_rows)
    if jnp.shape(weights_R) not in ((num_rows,), (*layers, num_rows)):
      raise ValueError(
          f'weights_R has shape {jnp.shape(weights_R)} in a probe of '
          f'num_rows={num_rows}, num_layers={num_layers}'
      )
    weights_R = jnp.broadcast_to(weights_R, (*layers, num_rows))
    extras = jax.tree.map(every_layer, dict(extras or {}))
    self.given = Given(weights_R, metric, direction, state, extras)
    self.rule = rule

  @property
  def num_rows(self) -> int:
    """R."""
    return self.reading.gram_RxR.shape[-1]

  def replace(self, reading: Reading) -> 'Probe':
    """The same probe with other zeros, by which to differentiate."""
    return self.tree_unflatten(self.rule, (reading, self.given))

  def tree_flatten(self) -> tuple[tuple[Reading, Given], Rule | None]:
    """For `jax.tree_util`."""
    return (self.reading, self.given), self.rule

  @classmethod
  def tree_unflatten(cls, rule: Rule | None, children: tuple) -> 'Probe':
    """For `jax.tree_util`."""
    probe = object.__new__(cls)
    probe.reading, probe.given = children
    probe.rule = rule
    return probe


def is_probe(node: PyTree) -> bool:
  """Whether a node of a pytree is a `Probe`."""
  return isinstance(node, Probe)
