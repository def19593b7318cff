"""The decoder out of taps: embedding, every layer, and the head.

R rows of N sequences of L tokens. Final norm and head are one block.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

import gradlens as gl
from gradlens.models import attention, positions
from gradlens.models.forward import Model

BLOCKS = ('embed', 'layers', 'head')


def blocks(path: tuple, leaf: jax.ShapeDtypeStruct) -> str | gl.Stacked:
  """The tap of every parameter, one of `BLOCKS`; the layers are stacked."""
  block = gl.by_layer(path, leaf)
  return 'head' if block == 'norm' else block


def tapped(
    model: Model,
    params: Any,
    probes: dict[str, gl.Probe | None] | None,
    tokens_RxNxL: jax.Array,
    mask_RxNxL: jax.Array,
    readout: Callable[..., Any],
    *extra_R: Any,
    start: int = 0,
    remat: bool = False,
) -> Any:
  """What `readout` makes of every row's hidden states, by taps.

  Args:
    model: from `load` or `build`.
    params: its parameters.
    probes: one for each of `BLOCKS`; None is the plain forward pass.
    tokens_RxNxL: int32 tokens.
    mask_RxNxL: bool, False where a position is padding.
    readout: `readout(head, x_NxMxD, *extra) -> y` of one row, M = L - start;
      `head(x) -> logits` (see `scores`), and `y` is a pytree. It must not
      close over what gradients are taken of.
    *extra_R: further arguments of `readout`, each with a leading axis of rows.
    start: positions before it are not read out.
    remat: without probes, keep the inputs of layers and head only and compute
      the rest again on the way back, as taps do with probes.

  Returns:
    `y_R`.
  """
  if probes is None:
    probes = dict.fromkeys(BLOCKS)
  decoder = nnx.merge(model.graphdef, params)
  embed, embed_params = nnx.split(decoder.embed)
  layer, layer_params = nnx.split(decoder.layers)
  tied = model.config.tie_word_embeddings
  head = {'norm': decoder.norm} | ({} if tied else {'head': decoder.head})
  heads = {name: nnx.split(module) for name, module in head.items()}

  def run_layer(params, x_NxLxD, view, kind):
    # Picked here, so that the views are kept once and not for each layer.
    x_NxLxD, _ = nnx.merge(layer, params)(
        x_NxLxD, view.of(kind), attention.attend, None
    )
    return x_NxLxD

  def run_head(params, x_NxMxD, *table_and_extra):
    parts = {
        name: nnx.merge(heads[name][0], own) for name, own in params.items()
    }
    if tied:
      table, *extra = table_and_extra
      project = nnx.merge(embed, table).attend
    else:
      extra = table_and_extra
      project = parts['head']
    return readout(
        lambda x: project(x).astype(jnp.float32), parts['norm'](x_NxMxD), *extra
    )

  if remat:
    run_layer, run_head = jax.checkpoint(run_layer), jax.checkpoint(run_head)
  x_R = gl.tap(
      lambda params, tokens_NxL: nnx.merge(embed, params)(tokens_NxL),
      owns=(lambda table: table) if tied else None,
  )(embed_params, tokens_RxNxL, probes['embed'])
  x_R, table = x_R if tied else (x_R, None)
  tapped_layer = gl.tap(run_layer, extra_axes=(0, None))
  view_R = jax.vmap(functools.partial(positions.view, model.config))(
      mask_RxNxL
  )

  def step(x_R, of_layer):
    own, kind, probe = of_layer
    return tapped_layer(own, x_R, probe, view_R, kind), None

  kinds = positions.kinds_of_layers(model.config)
  x_R, _ = jax.lax.scan(step, x_R, (layer_params, kinds, probes['layers']))
  return gl.tap(run_head)(
      {name: own for name, (_, own) in heads.items()},
      x_R[:, :, start:],
      probes['head'],
      *extra_R,
      shared=table,
  )
