"""The decoder out of taps: embedding, every layer, and the head.

R rows, each with a layout of its tokens. Final norm and head are one block.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradlens as gl
from gradlens.models import adapters, positions
from gradlens.models.attention import TENSOR
from gradlens.models.forward import Model
from gradlens.models.layouts import Groups, Sequences

BLOCKS = ('embed', 'layers', 'head')

# What is kept of a layer for the way back: its inputs; products of matrices
# too; or everything.
REMAT = dict(
    full=jax.checkpoint,
    dots=functools.partial(
        jax.checkpoint,
        policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    ),
    none=lambda block: block,
)


def _tap(
    model: Model, block: Callable[..., Any], probe: gl.Probe | None,
    **options: Any,
) -> Callable[..., Any]:
  """The tap of a block of which is kept what the model says."""
  kept = REMAT[model.compute.remat]
  if probe is None:
    # Around the tap, so that what it gathers is not kept either.
    return kept(gl.tap(block, **options))
  if model.compute.remat == 'full':
    return gl.tap(block, **options)
  return gl.tap(kept(block), remat=False, **options)


def blocks(path: tuple, leaf: jax.ShapeDtypeStruct) -> str | gl.Stacked:
  """The tap of every parameter, one of `BLOCKS`; the layers are stacked."""
  block = gl.by_layer(path, leaf)
  return 'head' if block == 'norm' else block


def tapped(
    model: Model,
    params: Any,
    probes: dict[str, gl.Probe | None] | None,
    layout_R: Sequences | Groups,
    readout: Callable[..., Any],
    *extra_R: Any,
    shards: gl.Shards | None = None,
    mesh: Mesh | None = None,
) -> Any:
  """What `readout` makes of every row's hidden states, by taps.

  Args:
    model: from `load` or `build`.
    params: its parameters. Of a model with adapters only these are trained:
      there is no gradient of others in its taps.
    probes: one for each of `BLOCKS`, or for the layers of a model with
      adapters; None is the plain forward pass.
    layout_R: the tokens, and what they see.
    readout: `readout(head, x, *extra) -> y` of one row, with the layout's
      `states`; `head(x) -> logits` (see `scores`), and `y` is a pytree. It must
      not close over what gradients are taken of.
    *extra_R: further arguments of `readout`, each with a leading axis of rows.
    shards: of an enclosing `shard_map`, from `models.shards`: parameters are
      this device's shards, rows and their prompts its own.
    mesh: that the compiler is to divide rows and prompts over, where there are
      no `shards`; rows are under `jax.vmap` with the name of their axis.

  Returns:
    `y_R`.
  """
  if probes is None:
    probes = dict.fromkeys(BLOCKS)
  if model.lora is not None:
    probes = dict.fromkeys(BLOCKS) | probes
  decoder = nnx.merge(model.graphdef, params)
  embed, embed_params = nnx.split(decoder.embed)
  layer, trained, frozen = nnx.split(
      decoder.layers,
      nnx.Param if model.lora is None else adapters.is_adapter,
      ...,
  )
  tied, cast = model.config.tie_word_embeddings, model.compute.cast
  head = {'norm': decoder.norm} | ({} if tied else {'head': decoder.head})
  heads = {name: nnx.split(module) for name, module in head.items()}

  def placed(array, *spec):
    if mesh is None:
      return array
    own = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.lax.with_sharding_constraint(array, own)

  def run_layer(params, x_NxLxD, view, kind, frozen):
    if shards is not None:
      frozen = shards.gather(frozen, shards.dims(frozen))
    # Picked here, so that the views are kept once and not for each layer.
    x_NxLxD, _ = nnx.merge(layer, cast(params), cast(frozen))(
        x_NxLxD, view.of(kind), model.attend, None
    )
    return x_NxLxD

  def run_head(params, x, *table_and_extra):
    parts = {
        name: nnx.merge(heads[name][0], cast(own))
        for name, own in params.items()
    }
    if tied:
      table, *extra = table_and_extra
      project = nnx.merge(embed, cast(table)).attend
    else:
      extra = table_and_extra
      project = parts['head']
    return readout(project, parts['norm'](x), *extra)

  def run_embed(params, tokens_NxL):
    # Cast last, so that the gradients of a token add up in float32.
    params = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    # Whole: the compiler would look up parts, for all rows on every device.
    params = jax.tree.map(lambda a: placed(a, TENSOR), params)
    return cast(nnx.merge(embed, params)(tokens_NxL))

  x_R = gl.tap(
      run_embed, owns=(lambda table: table) if tied else None, shards=shards
  )(embed_params, jax.vmap(lambda own: own.tokens)(layout_R), probes['embed'])
  x_R, table = x_R if tied else (x_R, None)
  tapped_layer = _tap(
      model, run_layer, probes['layers'], extra_axes=(0, None, None),
      shards=shards,
  )
  view_R = jax.vmap(lambda own: own.view(model.config))(layout_R)

  def step(x_R, of_layer):
    own, others, kind, probe = of_layer
    x_R = placed(x_R, None, 'fsdp')
    return tapped_layer(own, x_R, probe, view_R, kind, others), None

  kinds = positions.kinds_of_layers(model.config)
  x_R, _ = jax.lax.scan(
      step, x_R, (trained, frozen, kinds, probes['layers'])
  )
  tapped_head = gl.tap(run_head, shards=shards)
  if probes['head'] is None:
    tapped_head = jax.checkpoint(tapped_head)  # logits are too large to be kept
  return tapped_head(
      {name: own for name, (_, own) in heads.items()},
      jax.vmap(lambda own, x: own.states(x))(
          layout_R, placed(x_R, None, 'fsdp')
      ),
      probes['head'],
      *extra_R,
      shared=table,
  )
