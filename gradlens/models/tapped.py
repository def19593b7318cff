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
from gradlens.models import adapters, positions, vocabulary
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


@jax.custom_vjp
def _cast_before(wide: jax.Array, narrow: jax.Array) -> jax.Array:
  """`wide` in the dtype of `narrow`, which it was cast to outside of a loop."""
  del wide
  return narrow


_cast_before.defvjp(
    lambda wide, narrow: (narrow, jnp.zeros((), wide.dtype)),
    lambda like, cotangent: (cotangent.astype(like.dtype), None),
)


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
    num_stacked: int = 1,
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
      `states` and the `Head`; `y` is a pytree. It must not close over what
      gradients are taken of.
    *extra_R: further arguments of `readout`, each with a leading axis of rows.
    shards: of an enclosing `shard_map`, from `models.shards`: parameters are
      this device's shards, rows and their prompts its own.
    mesh: that the compiler is to divide rows and prompts over, where there are
      no `shards`; rows are under `jax.vmap` with the name of their axis.
    num_stacked: how many rows of a device an enclosing `jax.vmap` has.

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

  def run_head(params, x, *extra):
    if tied:
      own, *extra = extra
    else:
      own = params['head']
    # Gradients of some tokens after others add up in float32.
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), own)
    narrow = jax.lax.stop_gradient(cast(own))

    def project(x):
      weights = jax.tree.map(_cast_before, wide, narrow)
      if tied:
        return nnx.merge(embed, weights).attend(x)
      return nnx.merge(heads['head'][0], weights)(x)

    norm = nnx.merge(heads['norm'][0], cast(params['norm']))
    return readout(
        vocabulary.Head(project, model.config.vocab_size, logits_of_row),
        norm(x), *extra,
    )

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
  states_R = jax.vmap(lambda own, x: own.states(x))(
      layout_R, placed(x_R, None, 'fsdp')
  )
  num_rows, *_, width = states_R.shape
  some = vocabulary.MAX_LOGITS // num_stacked
  all_at_once = states_R.size // width * model.config.vocab_size <= some
  # Rows' gradients are large: all tokens of one are added up, then the next's.
  in_turn = probes['head'] is not None and num_rows > 1 and not all_at_once
  logits_of_row = some if in_turn else some // num_rows
  tapped_head = gl.tap(run_head, shards=shards, in_turn=in_turn)
  if probes['head'] is None:
    tapped_head = jax.checkpoint(tapped_head)  # logits are too large to be kept
  return tapped_head(
      {name: own for name, (_, own) in heads.items()},
      states_R,
      probes['head'],
      *extra_R,
      shared=table,
  )
