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

  Linux allows a process some 65,000 memory maps, and programs take several
  each: kept to the end, they ended the suite inside the compiler.
  """
  yield
  jax.clear_caches()
