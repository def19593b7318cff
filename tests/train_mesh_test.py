"""A run on a mesh is the run on one device, and goes on on another mesh."""

import os
import pathlib
import signal
import tempfile

from absl.testing import absltest, parameterized
import jax
import numpy as np
import pytest
import tiny_config

from gradlens import train
from gradlens.report import history
from gradlens.setup import build, sampling
from gradlens.step.optimizer import make_optimizer
from gradlens.workdir import checkpoint

pytestmark = pytest.mark.slow


def _config(**mesh):
  """Norms and weights through taps; `mesh` has devices of each axis."""
  config = tiny_config.get_config()
  config.model.update(num_attention_heads=2, num_key_value_heads=2)
  config.correction.update(dict(name='pcgrad', apply='two_pass'))
  config.mesh.update(mesh)
  return config


class _Ending:
  """Asks the process to end after the second step's evaluation."""

  def write_scalars(self, step, scalars):
    if step == 2 and 'heldout/long' in scalars:
      os.kill(os.getpid(), signal.SIGTERM)

  def write_texts(self, step, texts):
    pass

  def flush(self):
    pass


class TrainMeshTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.alone = train.train(_config(), root / 'alone')
    cls.workdir = root / 'mesh'
    config = _config(task=2, fsdp=4)
    config.rollout.tensor = 2
    train.train(config, cls.workdir, writers=[_Ending()])
    cls.ended = history.load(cls.workdir)
    cls.restored = [
        cls.restore(task=2, fsdp=4), cls.restore(task=2, fsdp=2, tensor=2)
    ]
    config = _config(task=2, fsdp=2, tensor=2)
    config.rollout.tensor = 2
    cls.resumed = train.train(config, cls.workdir)

  @classmethod
  def restore(cls, **mesh):
    """The state that the run ended with, on a mesh."""
    config = _config(**mesh)
    setup = build.setup(config)
    optimizer = make_optimizer(config, len(setup.tasks), None)
    like = train.first_state(setup, optimizer, jax.random.key(0))
    with checkpoint.Checkpoints(cls.workdir) as saved:
      return saved.restore(like)[0]

  def test_what_is_restored_is_the_same(self):
    ours, theirs = map(jax.tree.leaves, self.restored)
    for a, b in zip(ours, theirs, strict=True):
      if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = map(jax.random.key_data, (a, b))
      np.testing.assert_array_equal(a, b)
    moments, _ = (r.opt_state[2][0].mu for r in self.restored)
    self.assertGreater(
        max(float(abs(m).max()) for m in jax.tree.leaves(moments)), 0
    )
    gates = [
        r.opt_state[2][0].nu['layers']['feed_forward']['gate']['kernel']
        for r in self.restored
    ]
    self.assertEqual(
        [gate.addressable_shards[0].data.shape for gate in gates],
        [(2, 2, 16), (2, 4, 8)],
    )

  def test_what_is_measured_is_the_same(self):
    for tag, values in self.alone.scalars.items():
      if tag.startswith('seconds/'):
        continue
      got = self.resumed.scalars[tag]
      self.assertEqual(list(got), list(values), tag)
      for step in (s for s in values if s <= 2):
        np.testing.assert_allclose(
            got[step], values[step], rtol=2e-3, atol=1e-6, err_msg=tag
        )

  def test_it_went_on_from_the_other_mesh(self):
    self.assertEqual(max(self.ended.scalars['reward/long']), 2)
    self.assertEqual(max(self.resumed.scalars['reward/long']), 4)

  def test_state_lies_in_shards(self):
    setup = build.setup(_config(task=2, fsdp=2, tensor=2))
    kernel = setup.params['layers']['feed_forward']['gate']['kernel']
    self.assertLen(kernel.sharding.device_set, 8)
    shards = {s.data.size for s in kernel.addressable_shards}
    self.assertEqual(shards, {kernel.size // 8})
    alone = build.setup(_config())
    jax.tree.map(np.testing.assert_array_equal, setup.params, alone.params)

  def test_parameters_are_read_by_one_device(self):
    _, params, _ = checkpoint.load_model(self.workdir)
    for leaf in jax.tree.leaves(params):
      self.assertLen(leaf.sharding.device_set, 1)


class RefusedTest(parameterized.TestCase):

  @parameterized.parameters(
      (3, 'config.rollout.tensor=3: 3 devices cannot .* 2 x 2 x 2 .* divides'),
      (4, 'num_key_value_heads = 2 cannot be divided by the 4 devices'),
  )
  def test_devices_that_cannot_sample_together(self, tensor, sentence):
    config = _config(task=2, fsdp=2, tensor=2)
    config.rollout.tensor = tensor
    setup = build.setup(config)
    with self.assertRaisesRegex(ValueError, sentence):
      sampling.sampler(config, setup)

  def test_sampling_together_without_a_mesh(self):
    config = _config()
    config.rollout.tensor = 2
    setup = build.setup(config)
    with self.assertRaisesRegex(ValueError, 'rollout.tensor=2: .* no mesh'):
      sampling.sampler(config, setup)

  def test_other_devices_than_there_are(self):
    with self.assertRaisesRegex(
        ValueError, 'config.mesh: .* 2 x 1 x 1 = 2 devices'
    ):
      build.setup(_config(task=2))

  @parameterized.parameters(
      ('hidden_size', 18, 4), ('vocab_size', 385, 2),
      ('intermediate_size', 15, 2),
  )
  def test_sizes_that_do_not_divide(self, name, size, devices):
    config = _config(fsdp=4, tensor=2)
    config.model[name] = size
    with self.assertRaisesRegex(
        ValueError, f'config.mesh: {name} = {size} .* {devices} devices'
    ):
      build.setup(config)

  def test_prompts_that_do_not_divide(self):
    with self.assertRaisesRegex(
        ValueError, 'config.mesh: the prompts of a row = 4 .* 8 devices'
    ):
      build.setup(_config(fsdp=8))

  def test_slots_that_do_not_divide(self):
    config = _config(task=2, fsdp=4)
    config.rollout.num_slots = 4
    setup = build.setup(config)
    with self.assertRaisesRegex(ValueError, 'num_slots=4 .* 8 devices'):
      sampling.sampler(config, setup)


if __name__ == '__main__':
  absltest.main()
