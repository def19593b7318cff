"""Value and gradient of a function made of taps, with what the taps read."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlens.probe import Reading, is_probe
from gradlens.types import PyTree


def value_grad_gram(
    losses_fn: Callable[..., Any], has_aux: bool = False
) -> Callable[..., Any]:
  """Losses, gradient and Gram matrices of rows, of a function made of taps.

  Args:
    losses_fn: `losses_fn(params, probes, *batch) -> losses_R`, or
      `(losses_R, aux)` with `has_aux`: one number for each row, neither summed
      nor divided, since loss / K scales a Gram matrix by 1 / K^2.
    has_aux: as in `jax.value_and_grad`.

  Returns:
    A function of `losses_fn`'s arguments that returns `(losses_R, grads,
    grams)`, or `((losses_R, aux), grads, grams)`. `grads` are the weighted sums
    of rows, like `params`; `grams` are like `probes`, with an array `[R, R]`,
    or `[layers, R, R]`, in place of each probe.

  Raises:
    ValueError: when called, if there is no probe, or if losses are not one for
      each row.

  References:
    The Gram matrix of per-example gradients is old (Goodfellow, 2015,
    arXiv:1510.01799, has the norms); what is new is where it is taken.

  See `tap` for an example.
  """
  value_grad_readings_fn = value_grad_readings(losses_fn, has_aux)

  def value_grad_gram_fn(params, probes, *batch):
    values, grads, readings = value_grad_readings_fn(params, probes, *batch)
    grams = jax.tree.map(
        lambda reading: reading.gram_RxR, readings, is_leaf=_is_reading
    )
    return values, grads, grams

  return value_grad_gram_fn


def value_grad_readings(
    losses_fn: Callable[..., Any], has_aux: bool = False
) -> Callable[..., Any]:
  """As `value_grad_gram`, with all that the probes read: a `Reading` for each.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> layer = gl.tap(lambda w, x: jnp.sum(w * x))
  >>> probe = gl.Probe(2, direction=jnp.array([1., -1.]))
  >>> x_RxN = jnp.array([[3., 0.], [1., 2.]])
  >>> _, _, reading = gl.value_grad_readings(
  ...     lambda w, probe, x_RxN: layer(w, x_RxN, probe))(
  ...     jnp.ones(2), probe, x_RxN)
  >>> print(reading.along_R)
  [ 3. -1.]
  """

  def value_grad_readings_fn(params, probes, *batch):
    values, pull = pullback(losses_fn, has_aux)(params, probes, *batch)
    losses_R = values[0] if has_aux else values
    grads, readings = pull(jnp.ones_like(losses_R))
    return values, grads, readings

  return value_grad_readings_fn


def pullback(
    losses_fn: Callable[..., Any], has_aux: bool
) -> Callable[..., Any]:
  """One forward pass; returns `values` and `pull(losses' cotangent_R)`."""

  def pullback_fn(params, probes, *batch):
    found = [
        probe for probe in jax.tree.leaves(probes, is_leaf=is_probe)
        if is_probe(probe)
    ]
    if not found:
      raise ValueError('there is no gl.Probe among the probes')

    def losses(params, readings):
      own = jax.tree.map(
          lambda probe, reading: probe.replace(reading),
          probes, readings, is_leaf=is_probe,
      )
      return losses_fn(params, own, *batch)

    readings = jax.tree.map(
        lambda probe: probe.reading, probes, is_leaf=is_probe
    )
    losses_R, pull, *aux = jax.vjp(losses, params, readings, has_aux=has_aux)
    if jnp.shape(losses_R) != (found[0].num_rows,):
      raise ValueError(
          f'losses_fn returned losses of shape {jnp.shape(losses_R)}, expected '
          f'({found[0].num_rows},): one for each row, not their sum or mean'
      )
    return ((losses_R, *aux) if has_aux else losses_R), pull

  return pullback_fn


def _is_reading(node: PyTree) -> bool:
  return isinstance(node, Reading)
