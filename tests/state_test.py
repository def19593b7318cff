"""What a run keeps on its device, and how often it compiles its step."""

import collections
import gc
import tempfile

from absl.testing import absltest, parameterized
import compiles
import jax
import pytest
import tiny_config

from gradlens import train

pytestmark = pytest.mark.slow

_QUICK = (
    'num_steps=4,evaluate.every=99,checkpoint.every=2,evaluate.num_completions=1'
)


class Stop(Exception):
  """Ends a run from inside, as a host that is lost would."""


class Writer:
  """Looks around once a step is written down, and ends the run if asked to."""

  def __init__(self, look, at, end=None):
    self.look, self.at, self.end, self.seen = look, at, end, None

  def write_scalars(self, step, scalars):
    if step == self.at:
      self.seen = self.look()
    if step == self.end:
      raise Stop

  def write_texts(self, step, texts):
    pass

  def flush(self):
    pass


def matrices():
  """How many arrays there are of every shape, and of which dtype."""
  gc.collect()
  return collections.Counter(
      (a.shape, str(a.dtype)) for a in jax.live_arrays()
      if a.ndim > 1 and a.dtype in ('float32', 'bfloat16')
  )


class StateTest(parameterized.TestCase):

  @parameterized.parameters(
      'loss.kl_coef=0.1', 'lora.rank=2,compute.dtype=bfloat16'
  )
  def test_a_resumed_run_keeps_no_more_than_a_new_one(self, keys):
    config = tiny_config.get_config(f'{_QUICK},{keys}')
    workdir = self.enterContext(tempfile.TemporaryDirectory())
    before = matrices()
    # Both in the step after their first, when nothing is being saved.
    first, resumed = Writer(matrices, 1, end=3), Writer(matrices, 3)
    with self.assertRaises(Stop):
      train.train(config, workdir, writers=[first])
    train.train(config, workdir, writers=[resumed])
    self.assertNotEmpty(first.seen - before)
    self.assertEqual(resumed.seen - before, first.seen - before)

  def test_a_step_is_compiled_once(self):
    config = tiny_config.get_config(
        f'{_QUICK},init_from=warm,rollout.max_prompt_tokens=24'
    )
    workdir = self.enterContext(tempfile.TemporaryDirectory())
    with compiles.counted() as names:
      train.train(config, workdir)
    self.assertEqual(names['jit(train_step)'], 1)
    self.assertEqual(names['jit(generate)'], 2)  # in training, in evaluations


if __name__ == '__main__':
  absltest.main()
