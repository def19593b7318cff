"""The host's memory while a checkpoint of 2 GB is read."""

import json
import os
import pathlib
import subprocess
import sys

from absl.testing import absltest
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from gradlens import models
from gradlens.models import families

_CONFIG = models.DecoderConfig(
    model_type='llama', vocab_size=36_000, hidden_size=2048,
    intermediate_size=8192, num_hidden_layers=6, num_attention_heads=16,
    num_key_value_heads=4, head_dim=128, max_position_embeddings=64,
    tie_word_embeddings=False,
)

# Peak of the resident memory over what there was before, and what is left.
_PROGRAM = """
import json, resource, sys
import jax, jax.numpy as jnp
from gradlens import models

def peak():
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, params = models.load(sys.argv[2])
jax.block_until_ready(params)
before = peak()
model, params = models.load(sys.argv[1], jnp.dtype(sys.argv[3]))
jax.block_until_ready(params)
leaves = jax.tree.leaves(params)
print(json.dumps(dict(
    peak=peak() - before, params=sum(leaf.nbytes for leaf in leaves),
    total=float(sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in leaves)),
)))
"""


def write(config: models.DecoderConfig, folder: pathlib.Path) -> float:
  """Tensors of a repeated pattern, a file for each layer; returns their sum."""
  shapes = jax.eval_shape(
      lambda: models.init(models.build(config), jax.random.key(0))
  )
  files, total = {}, 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    keys = [entry.key for entry in path]
    layers = range(config.num_hidden_layers)
    if keys[0] == 'layers':
      own = config.family.layer['.'.join(keys[1:])]
      names, shape = [f'model.layers.{i}.{own}' for i in layers], leaf.shape[1:]
    else:
      names, shape = [families.TOP['.'.join(keys)]], leaf.shape
    for i, name in enumerate(names):
      pattern = np.arange(-2, 6, dtype=np.float32) * (i + 1)
      shape = shape[::-1] if keys[-1] == 'kernel' and i == 0 else shape
      tensor = np.resize(pattern, shape)
      total += float(pattern.sum()) * tensor.size / 8
      files.setdefault(f'{i}.safetensors', {})[name] = tensor
  for file, tensors in files.items():
    save_file(tensors, folder / file)
  index = {name: file for file, own in files.items() for name in own}
  (folder / 'model.safetensors.index.json').write_text(
      json.dumps(dict(weight_map=index))
  )
  models.to_huggingface(config).save_pretrained(folder)
  return total


@pytest.mark.slow
class MemoryTest(absltest.TestCase):

  def test_about_one_tensor_is_in_memory_beside_the_parameters(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    total = write(_CONFIG, folder)
    size = sum(f.stat().st_size for f in folder.glob('*.safetensors'))
    self.assertGreater(size, 2e9)
    done = subprocess.run(
        [sys.executable, '-c', _PROGRAM, folder, models.WARM, 'float32'],
        capture_output=True, text=True, check=True,
        env=os.environ | dict(
            JAX_PLATFORMS='cpu', PYTHONPATH=os.pathsep.join(sys.path)
        ),
    )
    found = json.loads(done.stdout)
    self.assertAlmostEqual(found['params'], size, delta=1e-3 * size)
    self.assertAlmostEqual(found['total'], total, delta=1e-3 * total)
    largest = 4 * _CONFIG.vocab_size * _CONFIG.hidden_size
    beside = found['peak'] - found['params']
    self.assertLess(beside, largest + 0.1 * found['params'])


if __name__ == '__main__':
  absltest.main()
