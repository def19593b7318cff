"""What a run keeps on its device, and how often it compiles its step."""

import collections
import gc
import tempfile

from absl.testing import absltest, parameterized
import jax
import pytest
import tiny_config

from gradlens import train

pytestmark = pytest.mark.slow

_QUICK = (
    'num_steps=3,evaluate.every=99,checkpoint.every=1,evaluate.num_completions=1'
)


class Stop(Exception):
  """Ends a run from inside, as a host that is lost would."""


class Writer:
  """Looks around once a step is written down, and ends the run if asked to."""

  def __init__(self, look, at, stop=False):
    self.look, self.at, self.stop, self.seen = look, at, stop, None

  def write_scalars(self, step, scalars):
    if step == self.at:
      self.seen = self.look()
      if self.stop:
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
    first = Writer(matrices, 2, stop=True)
    with self.assertRaises(Stop):  # the checkpoint of step 1 is there
      train.train(config, workdir, writers=[first])
    resumed = Writer(matrices, 2)
    train.train(config, workdir, writers=[resumed])
    self.assertNotEmpty(first.seen - before)
    self.assertEqual(resumed.seen - before, first.seen - before)

  def test_a_step_is_compiled_once(self):
    config = tiny_config.get_config(
        f'{_QUICK},init_from=warm,rollout.max_prompt_tokens=24'
    )
    names = collections.Counter()

    def count(event, seconds, fun_name='', **unused):
      if event.endswith('backend_compile_duration'):
        names[fun_name] += 1

    jax.monitoring.register_event_duration_secs_listener(count)
    self.addCleanup(jax.monitoring.unregister_event_duration_listener, count)
    workdir = self.enterContext(tempfile.TemporaryDirectory())
    train.train(config, workdir)
    self.assertEqual(names['jit(train_step)'], 1)
    self.assertEqual(names['jit(generate)'], 2)  # in training, in evaluations


if __name__ == '__main__':
  absltest.main()
