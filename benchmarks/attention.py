"""Scratch memory of attention kernels, compiled for a TPU that is not there.

    pip install '.[aot]'
    python -m benchmarks.attention --topology=v5e:2x2

The decomposed gradient of two rows of one sequence each, on one chip. There are
4 layers of width 1024, 16 heads of 64 and 4 of keys; products are bfloat16.
"""

from absl import app, flags
import jax
from jax.experimental import topologies
import jax.numpy as jnp

from benchmarks import decoder
import gradlens as gl
from gradlens import models
from gradlens.aot.needs import use_no_device

_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x2', 'Of which one is used.')
_LENGTH = flags.DEFINE_integer('length', 4096, 'Tokens of a row.')
_ROWS = 2
_SIZES = dict(
    vocab_size=32_000, hidden_size=1024, intermediate_size=2816,
    num_hidden_layers=4, num_attention_heads=16, num_key_value_heads=4,
    head_dim=64, max_position_embeddings=8192,
)
_FAMILIES = dict(
    qwen2={},
    gemma3_text=dict(
        layer_types=('sliding_attention',) * 3 + ('full_attention',),
        sliding_window=512, rope_local_base_freq=10_000.0,
    ),
)


def scratch_bytes(
    model: models.Model, sharding: jax.sharding.Sharding, length: int
) -> int:
  """Beside arguments and results, on the chip."""

  def place(tree):
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        tree,
    )

  layers = model.config.num_hidden_layers
  probes = {
      name: gl.Probe(_ROWS, layers if name == 'layers' else None)
      for name in models.BLOCKS
  }
  args = jax.eval_shape(lambda: (
      models.init(model, jax.random.key(0)),
      jnp.zeros((_ROWS, 1, length), jnp.int32),
      jnp.zeros((_ROWS, 1)),
  ))
  step = gl.value_grad_gram(decoder.losses_fn(model))
  compiled = jax.jit(
      lambda params, *batch: step(params, probes, *batch)
  ).lower(*place(args)).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def main(argv: list[str]) -> None:
  """Prints a row for each."""
  del argv
  use_no_device()
  (device, *_) = topologies.get_topology_desc(
      platform='tpu', topology_name=_TOPOLOGY.value
  ).devices
  sharding = jax.sharding.SingleDeviceSharding(device)
  print('| family | tokens | attention | scratch MB |')
  print('|---|---:|---|---:|')
  for family, options in _FAMILIES.items():
    model = models.build(
        models.DecoderConfig(model_type=family, **_SIZES, **options)
    )
    for kernel in ('plain', 'splash'):
      compute = models.Compute(dtype='bfloat16', attention=kernel)
      size = scratch_bytes(
          model._replace(compute=compute), sharding, _LENGTH.value
      )
      print(
          f'| {family} | {_LENGTH.value} | {kernel} | {size / 1e6:.0f} |',
          flush=True,
      )


if __name__ == '__main__':
  app.run(main)
