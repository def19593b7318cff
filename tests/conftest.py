"""Every test runs on 8 CPU devices, and a silent rank promotion raises.

With JAX_PLATFORMS=cuda they run on a GPU, where those of many devices fail.
"""

import os
import tempfile

# For the programs that tests start as well. Most of them run a few steps, and
# compiling takes longer: without optimizations and without the fusion emitters
# the tests of apply_test that are in_backward take a fifth of the CPU time.
os.environ |= dict(
    # Products of float32 are less precise there, unless it is told.
    JAX_DEFAULT_MATMUL_PRECISION='highest',
    XLA_PYTHON_CLIENT_PREALLOCATE='false',
) if os.environ.get('JAX_PLATFORMS') == 'cuda' else dict(
    JAX_PLATFORMS='cpu',
    JAX_DISABLE_MOST_OPTIMIZATIONS='1',
    XLA_FLAGS=(
        '--xla_cpu_use_fusion_emitters=false '
        '--xla_cpu_parallel_codegen_split_count=1'
    ),
    # XLA's threads. A device that waits for others holds one, and may hold a
    # second for a loop; with as many threads as devices all may wait for ever.
    NPROC='32',
)

from absl import flags
import jax
import pytest

# absltest's temporary folders ask for a parsed command line.
flags.FLAGS.mark_as_parsed()

# By jax's own configuration, which programs that a test starts do not inherit.
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(autouse=True, scope='session')
def keep_compiled():
  """Tests compile the same small programs many times; one of them is enough.

  What other processes write, and may be killed at, is kept by itself.
  """
  with tempfile.TemporaryDirectory() as folder:
    os.environ |= dict(
        JAX_COMPILATION_CACHE_DIR=f'{folder}/programs',
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
    )
    jax.config.update('jax_compilation_cache_dir', f'{folder}/own')
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    yield


@pytest.fixture(autouse=True, scope='class')
def forget_programs():
  """Unloads what a class of tests compiled.

  Linux allows a process some 65,000 memory maps, and programs take several
  each: kept to the end, they ended the suite inside the compiler.
  """
  yield
  jax.clear_caches()
