"""Every test runs on 8 CPU devices, and a silent rank promotion raises."""

from absl import flags
import jax
import pytest

# absltest's temporary folders ask for a parsed command line.
flags.FLAGS.mark_as_parsed()

# By jax's own configuration, which programs that a test starts do not inherit.
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(autouse=True, scope='class')
def forget_programs():
  """Unloads what a class of tests compiled.

  The system allows a process some 65,000 memory maps. All programs of the suite
  together take more, and the compiler that gets none ends the process.
  """
  yield
  jax.clear_caches()
