"""The real training step, compiled for a slice of TPUs that is not there.

    pip install 'gradlens[aot]'
    python -m benchmarks.pods --topology=v5e:8x8 --mesh=8x8x1

With the decomposition (`lagged`, by taps) and without it, of a published
model's shapes in bfloat16: memory of a chip and floating-point operations as
the compiler reports them (a loop's body once, no attention kernel, the same for
both), and what a chip sends in collectives, from the traced step, loops
included; not where 'tensor' divides it, of which the trace knows nothing. Times
are not known without a TPU.
"""

import collections
import math
import os
import time
from typing import Any

os.environ['TPU_SKIP_MDS_QUERY'] = '1'  # there is no TPU to ask for

from absl import app, flags
import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gradlens import models, placement, train_step
from gradlens.configs import default
from gradlens.experience import Batch
from gradlens.optimizer import make_optimizer

_SHAPES = dict(
    qwen2_5_3b=dict(
        hidden_size=2048, intermediate_size=11008, num_hidden_layers=36,
        num_attention_heads=16, num_key_value_heads=2, vocab_size=151_936,
        tie_word_embeddings=True,
    ),
    qwen2_5_7b=dict(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, vocab_size=152_064,
        tie_word_embeddings=False,
    ),
)
_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:8x8', 'A slice of TPUs.')
_MESH = flags.DEFINE_string('mesh', '8x8x1', 'task x fsdp x tensor.')
_MODEL = flags.DEFINE_enum('model', 'qwen2_5_7b', list(_SHAPES), 'Its shapes.')
_TASKS = flags.DEFINE_integer('tasks', 4, 'K.')
_SPLITS = flags.DEFINE_integer('splits', 2, 'S.')
_PROMPTS = flags.DEFINE_integer('prompts', 1, 'Of a row, on each chip.')
_COMPLETIONS = flags.DEFINE_integer('completions', 2, 'Of a prompt.')
_PROMPT, _COMPLETION = 1024, 3072  # tokens

# What a chip of a group of n sends, of the bytes that go in.
_SENT = dict(
    all_gather=lambda n: n - 1,
    reduce_scatter=lambda n: (n - 1) / n,
    all_to_all=lambda n: (n - 1) / n,
    psum=lambda n: 2 * (n - 1) / n,
)


def sent(jaxpr: Any, sizes: dict[str, int]) -> collections.Counter:
  """Bytes that a chip sends, by kind of collective; loops included.

  Of the collectives that gradlens writes itself, as if 'tensor' had one device.
  """
  total = collections.Counter()
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name in _SENT:
      axes = params.get('axes') or params['axis_name']
      axes = axes if isinstance(axes, tuple) else (axes,)
      group = math.prod(sizes[axis] for axis in axes)
      total[name] += _SENT[name](group) * sum(
          math.prod(var.aval.shape) * var.aval.dtype.itemsize
          for var in equation.invars
      )
    inner = [
        found for found in jax.tree.leaves(
            list(params.values()), is_leaf=lambda a: hasattr(a, 'eqns')
        )
        if hasattr(getattr(found, 'jaxpr', found), 'eqns')
    ]
    for own in inner:
      own = sent(getattr(own, 'jaxpr', own), sizes)
      for kind, size in own.items():
        total[kind] += size * params.get('length', 1)
  return total


def arguments(
    mesh: jax.sharding.Mesh, optimizer: Any, model: models.Model,
    num_tasks: int, num_splits: int,
) -> tuple[train_step.TrainState, Batch]:
  """Shapes of a step's, in their shards."""

  def first():
    params = models.init(model, jax.random.key(0))
    return train_step.TrainState(
        params, optimizer.corrected.init(params), jax.random.key(0), {}
    )

  state = jax.eval_shape(first)
  state = jax.tree.map(
      lambda a, own: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=own),
      state, models.shardings(mesh, placement.state_specs(state)),
  )
  everywhere = NamedSharding(mesh, PartitionSpec())
  k, b = num_tasks, _PROMPTS.value * mesh.shape['fsdp'] * num_splits
  g = _COMPLETIONS.value
  shapes = (
      ((k, b, _PROMPT), jnp.int32), ((k, b, _PROMPT), bool),
      ((k, b, g, _COMPLETION), jnp.int32), ((k, b, g, _COMPLETION), bool),
      ((k, b, g, _COMPLETION), jnp.float32), ((k, b, g), jnp.float32),
  )
  return state, Batch(*(
      jax.ShapeDtypeStruct(*own, sharding=everywhere) for own in shapes
  ))


def main(argv: list[str]) -> None:
  """Prints a row for each step, and the ratios of the two."""
  del argv
  num_tasks, num_splits = _TASKS.value, _SPLITS.value
  devices = topologies.get_topology_desc(
      platform='tpu', topology_name=_TOPOLOGY.value
  ).devices
  mesh = models.make_mesh(
      *map(int, _MESH.value.split('x')), num_rows=num_tasks * num_splits,
      devices=devices,
  )
  config = default.get_config()
  config.num_splits, config.correction.apply = num_splits, 'lagged'
  optimizer = make_optimizer(config, num_tasks, None)
  model = models.build(models.DecoderConfig(
      model_type='qwen2', head_dim=128, max_position_embeddings=32_768,
      **_SHAPES[_MODEL.value],
  ))
  model = model._replace(
      compute=models.Compute(dtype='bfloat16', attention='splash')
  )
  print(
      '| decomposition | arguments GB | temporary GB | TFLOP | sent GB |'
      ' compile seconds |\n|---|---:|---:|---:|---:|---:|'
  )
  found = []
  for instrument in (False, True):
    step = jax.jit(train_step.make_train_step(
        model, optimizer,
        train_step.grpo(advantage_scale='std', clip_low=0.2, clip_high=0.2),
        num_splits=num_splits, temperature=1.0, aggregate='sequence_mean',
        normalize='batch', instrument=instrument, mesh=mesh,
    ), donate_argnums=0)
    traced = step.trace(
        *arguments(mesh, optimizer, model, num_tasks, num_splits)
    )
    start = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    held, scratch = (
        memory.argument_size_in_bytes / 1e9, memory.temp_size_in_bytes / 1e9
    )
    row = dict(
        memory=held + scratch, flops=compiled.cost_analysis()['flops'] / 1e12
    )
    if mesh.shape['tensor'] == 1:
      moved = sent(traced.jaxpr.jaxpr, dict(mesh.shape))
      row['sent'] = sum(moved.values()) / 1e9
    found.append(row)
    print(
        f'| {"on" if instrument else "off"} | {held:.2f} | {scratch:.2f} |'
        f' {row["flops"]:.3f} | {row.get("sent", math.nan):.2f} |'
        f' {seconds:.0f} |',
        flush=True,
    )
  off, on = found
  print('\non / off: ' + ', '.join(
      f'{name} {on[name] / off[name]:.4f}x' for name in off
  ))


if __name__ == '__main__':
  app.run(main)
