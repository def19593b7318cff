"""Every test runs on 8 CPU devices, and a silent rank promotion raises."""

from absl import flags
import jax

# absltest's temporary folders ask for a parsed command line.
flags.FLAGS.mark_as_parsed()

# By jax's own configuration, which programs that a test starts do not inherit.
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
