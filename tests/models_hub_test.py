"""Models by their name on the Hugging Face hub, from a hub made here."""

import os
import pathlib
import subprocess
import sys

from absl.testing import absltest
import hub
import numpy as np
import random_models
from transformers import ByT5Tokenizer

from gradlens import models

_PROGRAM = """
import sys
import jax.numpy as jnp
from gradlens import models
try:
  model, params = models.load(sys.argv[1])
except FileNotFoundError as error:
  sys.exit(f'refused: {error}')
tokenizer = models.load_tokenizer(sys.argv[1])
print(models.logits(model, params, jnp.arange(3, 9)[None]).sum())
print(tokenizer('ab').input_ids)
"""


class HubTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.model, self.params = random_models.with_params(
        random_models.config('llama', 1)
    )
    models.save(self.model, self.params, self.folder, ByT5Tokenizer())

  def run_program(self, address, name):
    return subprocess.run(
        [sys.executable, '-c', _PROGRAM, name], text=True, capture_output=True,
        cwd=self.create_tempdir().full_path,
        env=os.environ | dict(
            HF_ENDPOINT=address, HF_HOME=self.create_tempdir().full_path,
            JAX_PLATFORMS='cpu', PYTHONPATH=os.pathsep.join(sys.path),
        ),
    )

  def test_loads_what_the_hub_has_and_neither_pickles_nor_code(self):
    for name in ('pytorch_model.bin', 'modeling_own.py'):
      (self.folder / name).write_bytes(b'not to be fetched')
    with hub.serve('owner/small-model', self.folder) as (address, asked):
      done = self.run_program(address, 'owner/small-model')
    self.assertEqual(done.returncode, 0, done.stderr)
    total, ids = done.stdout.splitlines()
    want = models.logits(self.model, self.params, np.arange(3, 9)[None]).sum()
    self.assertAlmostEqual(float(total), float(want), delta=1e-2)
    self.assertEqual(ids, str(ByT5Tokenizer()('ab').input_ids))
    self.assertTrue(any('model.safetensors' in path for path in asked))
    for path in asked:
      self.assertNotRegex(path, r'\.bin|\.py')

  def test_a_name_that_the_hub_does_not_have_is_one_sentence(self):
    with hub.serve('owner/small-model', self.folder) as (address, _):
      done = self.run_program(address, 'owner/another')
    self.assertRegex(
        done.stderr,
        r'refused: owner/another is no directory here, and the Hugging Face hub'
        ' does not give it: ',
    )
    self.assertNotIn('Traceback', done.stderr)


if __name__ == '__main__':
  absltest.main()
