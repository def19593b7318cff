"""The package as a user gets it: a wheel, in an environment of its own."""

import functools
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile

from absl.testing import absltest, parameterized
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROGRAMS = ('main', 'measure', 'evaluate', 'export', 'report', 'aot')

# What the library band must never pull in, installed or not.
HEAVY = (
    'clu', 'flax', 'grain', 'ml_collections', 'orbax', 'pyarrow',
    'reasoning_gym', 'safetensors', 'tensorflow',
    'tensorflow_datasets', 'torch', 'transformers',
)

IMPORT = """
import sys
import gradlens
print(*sorted({name.partition('.')[0] for name in sys.modules}))
"""

# From a loss to an update, with numbers worked out by hand.
LIBRARY = """
import jax, jax.numpy as jnp, optax
import gradlens as gl

# loss_k = mean_b (w - x_kb)^2 / 2, so that g_k = w - mean_b x_kb.
def loss_fn(params, batch_B):
  return jnp.mean((params['w'] - batch_B) ** 2) / 2

params = {'w': jnp.array(1.0)}
batch_N, task_N = jnp.array([-3.0, 1.5, -1.0, 0.5]), jnp.array([0, 1, 0, 1])
batch_KxB, mask_KxB = gl.partition(batch_N, task_N, num_tasks=2, size=2)
assert mask_KxB.all()
losses_K, grads_K = gl.task_value_and_grad(loss_fn)(params, batch_KxB)
assert jnp.allclose(grads_K['w'], jnp.array([3.0, 0.0])), grads_K

# Now g_1 = -3, straight against g_0.
batch_KxB += jnp.array([[0.0], [3.0]])
losses_K, grads_K = gl.task_value_and_grad(loss_fn)(params, batch_KxB)
gram_KxK = gl.gram(grads_K)
assert jnp.allclose(gram_KxK, jnp.array([[9.0, -9.0], [-9.0, 9.0]])), gram_KxK
blocks = gl.gram_blocks(grads_K, gl.by_layer)
assert jnp.allclose(blocks['w'], gram_KxK), blocks
print(gl.summarize(gram_KxK, jnp.ones(2), num_splits=1, names=['a', 'b']))

# w - (2 * 3 - 1 * 3) / 2; what conflicts with nothing left over cancels.
for weighting, w in ((gl.constant([2.0, 1.0]), -0.5), (gl.pcgrad(), 1.0)):
  tx = optax.chain(gl.correct(weighting, num_tasks=2), optax.sgd(0.5))
  gl.check(tx, params, num_tasks=2)
  updates, state = jax.jit(tx.update)(grads_K, tx.init(params), params)
  assert gl.task_weights(state).shape == (2,)
  params_1 = optax.apply_updates(params, updates)
  assert jnp.allclose(params_1['w'], w), params_1
print(jax.__version__, optax.__version__)
"""


def run(*command: object, **kwargs: object) -> subprocess.CompletedProcess:
  return subprocess.run(
      [str(part) for part in command], text=True, capture_output=True, **kwargs)


def environment(path: pathlib.Path, *requirements: object) -> pathlib.Path:
  """A new virtual environment with the requirements; its python."""
  venv.create(path)
  python = path / 'bin' / 'python'
  done = run(
      sys.executable, '-m', 'pip', '--python', python, 'install', '-q',
      *requirements)
  assert not done.returncode, done.stderr
  return python


def setUpModule():
  global SCRATCH
  SCRATCH = pathlib.Path(tempfile.mkdtemp())


def tearDownModule():
  shutil.rmtree(SCRATCH)


@functools.cache
def wheel() -> pathlib.Path:
  # From a copy: setuptools builds in place, and puts what an earlier build left
  # behind into the wheel as well.
  source = SCRATCH / 'source'
  for name in ('gradlens', 'configs', 'tests'):
    shutil.copytree(
        ROOT / name, source / name,
        ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  done = run(
      sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', SCRATCH,
      source)
  assert not done.returncode, done.stderr
  [built] = SCRATCH.glob('*.whl')
  return built


@pytest.mark.slow
class WheelTest(absltest.TestCase):

  def test_holds_the_package_and_the_configs_and_no_more(self):
    with zipfile.ZipFile(wheel()) as archive:
      sizes = {info.filename: info.file_size for info in archive.infolist()}
    inside = {name for name in sizes if '.dist-info/' not in name}
    expected = set()
    for folder, prefix in (('gradlens', 'gradlens'),
                           ('configs', 'gradlens/configs')):
      for file in (SCRATCH / 'source' / folder).rglob('*'):
        if file.is_file():
          relative = file.relative_to(SCRATCH / 'source' / folder)
          expected.add(f'{prefix}/{relative.as_posix()}')
    self.assertEqual(expected, inside)
    self.assertIn('gradlens/configs/toy.py', inside)
    weights = [name for name in inside if name.endswith('.safetensors')]
    self.assertLen(weights, 1)
    self.assertStartsWith(weights[0], 'gradlens/models/warm/')
    self.assertLess(sizes[weights[0]], 8 * 2**20)


class ImportTest(absltest.TestCase):

  def test_pulls_in_jax_and_optax_only(self):
    # All of them are here to be imported, or the test could not fail.
    for name in HEAVY:
      self.assertIsNotNone(importlib.util.find_spec(name), name)
    done = run(sys.executable, '-I', '-c', IMPORT)
    self.assertEqual(0, done.returncode, done.stderr)
    loaded = set(done.stdout.split())
    self.assertIn('jax', loaded)
    self.assertEmpty(loaded & set(HEAVY))


@pytest.mark.slow
class BareTest(parameterized.TestCase):
  """`pip install gradlens`, without an extra."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.python = environment(
        SCRATCH / 'bare', '-c', ROOT / 'constraints.txt', wheel())

  def test_import(self):
    done = run(self.python, '-I', '-c', IMPORT, cwd=SCRATCH)
    self.assertEqual(0, done.returncode, done.stderr)
    self.assertIn('jax', done.stdout.split())

  @parameterized.parameters(*HEAVY)
  def test_does_not_install(self, name):
    done = run(self.python, '-I', '-c', f'import {name}', cwd=SCRATCH)
    self.assertIn(f"No module named '{name}'", done.stderr)

  @parameterized.parameters(*PROGRAMS)
  def test_program_names_its_extra(self, name):
    done = run(self.python, '-I', '-m', f'gradlens.{name}', cwd=SCRATCH)
    self.assertNotEqual(0, done.returncode)
    self.assertLen(done.stderr.splitlines(), 1, done.stderr)
    self.assertIn("pip install 'gradlens[train]'", done.stderr)


@pytest.mark.slow
class LowestTest(absltest.TestCase):

  def test_library_runs_at_the_lower_bounds(self):
    with zipfile.ZipFile(wheel()) as archive:
      [metadata] = [
          archive.read(name).decode()
          for name in archive.namelist() if name.endswith('/METADATA')]
    # Every requirement without an extra, and `>=` is all that it may have.
    bounds = dict(re.findall(
        r'^Requires-Dist: ([\w-]+) ?>=([\d.]+)$', metadata, re.MULTILINE))
    self.assertLen(
        re.findall(r'^Requires-Dist: [^;\n]+$', metadata, re.MULTILINE),
        len(bounds))
    self.assertEqual({'jax', 'optax'}, set(bounds))
    lowest = [f'{name}=={version}' for name, version in bounds.items()]
    python = environment(SCRATCH / 'lowest', wheel(), *lowest)
    done = run(python, '-I', '-c', LIBRARY, cwd=SCRATCH)
    self.assertEqual(0, done.returncode, done.stderr)
    self.assertEqual(
        f'{bounds["jax"]} {bounds["optax"]}', done.stdout.splitlines()[-1])


if __name__ == '__main__':
  absltest.main()
