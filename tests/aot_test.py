"""Ahead of time: what the compiled program of a TPU does, by hand."""

import importlib
import json
import pathlib
import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized
import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

from gradlens.aot import chips, compiler, hlo, loops, products, programs
from gradlens.aot.count import count
from gradlens.aot.needs import needs, use_no_device
from gradlens.models.kernels import KeyValue, splash

ROOT = pathlib.Path(__file__).parents[1]
CHIP = chips.CHIPS['v5e']
AXIS = 'x'


def setUpModule():
  global MESH
  use_no_device()
  MESH = Mesh(np.array(programs.find_devices('v5e:2x4')), (AXIS,))


def tearDownModule():
  jax.config.update('jax_enable_compilation_cache', True)
  compilation_cache.reset_cache()


def on_tpus(f, *shapes, axis=None):
  """The program of 8 chips; dtypes are float32."""
  return hlo.of_compiled(jax.jit(f).trace(*(
      jax.ShapeDtypeStruct(
          shape, jnp.float32,
          sharding=NamedSharding(MESH, PartitionSpec(axis)),
      )
      for shape in shapes
  )).lower().compile())


def on_cpu(f, *shapes):
  return hlo.of_compiled(jax.jit(f).trace(*(
      jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes
  )).lower().compile())


def counted(program, data_trips=None):
  return count(program, CHIP, 8, data_trips)


def layers(x, w_LxDxD):
  return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w_LxDxD)[0]


def until_small(x, w):
  return jax.lax.while_loop(
      lambda x: jnp.sum(x) > 1, lambda x: jnp.tanh(x @ w), x
  )


@pytest.mark.slow
class ProductsTest(parameterized.TestCase):

  @parameterized.product(where=(on_tpus, on_cpu))
  def test_of_a_loop_over_layers(self, where):
    # A body alone would be 7 times too few.
    got = counted(where(layers, (256, 512), (7, 512, 512)))
    self.assertEqual(7 * 2 * 256 * 512 * 512, got.products.flops)

  def test_none_is_read_from_a_cache(self):
    # Which warns that it cannot be, and a warning is an error.
    self.assertIsNotNone(jax.config.jax_compilation_cache_dir)
    for _ in range(2):
      jax.clear_caches()
      got = counted(on_tpus(layers, (8, 128), (2, 128, 128)))
      self.assertEqual(2 * 2 * 8 * 128 * 128, got.products.flops)

  @parameterized.product(where=(on_tpus, on_cpu))
  def test_of_gradients(self, where):
    def loss(w, x):
      return jnp.sum(layers(x, w))

    # The way there; and back for the input and the weights, of all layers but
    # the first one's input, which the loop computes all the same.
    got = counted(where(jax.grad(loss), (3, 256, 256), (128, 256)))
    self.assertEqual(3 * 3 * 2 * 128 * 256 * 256, got.products.flops)

  @parameterized.parameters(
      # Batched, both sides transposed, and of batch dimensions in the middle:
      # a TPU makes convolutions of all of them.
      ('bij,bjk->bik', (6, 128, 256), (6, 256, 384), 6 * 128 * 256 * 384),
      ('ji,kj->ik', (256, 128), (384, 256), 128 * 256 * 384),
      ('ibj,jbk->bik', (128, 6, 256), (256, 6, 384), 6 * 128 * 256 * 384),
      ('nlhe,nmhe->nhlm', (2, 128, 4, 64), (2, 96, 4, 64),
       2 * 4 * 128 * 96 * 64),
      # Two dimensions are summed over.
      ('bij,ijk->bk', (128, 4, 64), (4, 64, 96), 128 * 4 * 64 * 96),
  )
  def test_of_einsums(self, subscripts, left, right, multiplications):
    def f(a, b):
      return jnp.einsum(subscripts, a, b)

    for where in (on_tpus, on_cpu):
      got = counted(where(f, left, right)).products.flops
      self.assertEqual(2 * multiplications, got)

  def test_highest_precision_goes_through_six_times(self):
    def f(a, b):
      return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    got = counted(on_tpus(f, (256, 512), (512, 1024))).products
    self.assertEqual(2 * 256 * 512 * 1024, got.flops)
    self.assertEqual(6 * got.flops, got.passes)

  def test_convolution_over_an_edge(self):
    def f(x, kernel):
      return jax.lax.conv_general_dilated(
          x, kernel, (2,), [(1, 1)], dimension_numbers=('NWC', 'WIO', 'NWC')
      )

    # 5 outputs of 3 places each; the first's first and the last's last place
    # are at the edge (inputs 0 to 8, windows from -1 to 9).
    got = counted(on_cpu(f, (4, 9, 16), (3, 16, 32))).products.flops
    self.assertEqual(2 * (5 * 3 - 2) * 4 * 16 * 32, got)


@pytest.mark.slow
class AttentionTest(parameterized.TestCase):

  def test_of_kernels(self):
    # 1024 queries behind 1024 keys, in blocks of 512: they see 3 and 4 of 4.
    blocks = 7 * 512 * 512

    def loss(q, k, v):
      segments = jnp.zeros((1, 2048), jnp.int32)
      return jnp.sum(splash(q, KeyValue(k, v), segments, None))

    grad = jax.shard_map(
        jax.grad(loss, argnums=(0, 1, 2)), mesh=MESH,
        in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False,
    )
    program = on_tpus(grad, (1, 1024, 4, 128), *[(1, 2048, 2, 128)] * 2)
    got = counted(program).products
    # 2 products on the way there, 3 and 4 on the way back.
    expected = (2 + 3 + 4) * 2 * 4 * blocks * 128
    self.assertEqual(expected, got.attention_flops)
    self.assertEqual(expected, got.flops)
    self.assertEmpty(counted(program).uncounted)

  def test_of_one_block(self):
    # A block is whole tiles of 128, seen or not.
    got = products.attention('splash_mha_dq', (2, 3, 128, 64), (2, 1, 128, 64))
    self.assertEqual(3 * 2 * 2 * 3 * 128 * 128 * 64, got)


@pytest.mark.slow
class LoopsTest(parameterized.TestCase):

  @parameterized.product(where=(on_tpus, on_cpu))
  def test_nested(self, where):
    def f(x, w):
      def body(x, _):
        return jax.lax.fori_loop(0, 5, lambda i, x: jnp.tanh(x @ w), x), None
      return jax.lax.scan(body, x, None, length=3)[0]

    got = counted(where(f, (256, 256), (256, 256)))
    self.assertEqual(3 * 5 * 2 * 256**3, got.products.flops)

  @parameterized.parameters(
      # From, by, below: 0 3 6; 2 5 8; 2 3 4 5 6 7 8; -1 8.
      (0, 3, 9, 3), (2, 3, 9, 3), (2, 1, 9, 7), (-1, 9, 9, 2),
  )
  def test_count(self, start, step, limit, expected):
    def f(x):
      return jax.lax.while_loop(
          lambda own: own[0] < limit,
          lambda own: (own[0] + step, jnp.sin(own[1]) + own[0]), (start, x),
      )[1]

    program = on_tpus(f, (512, 512))
    [(computation, loop)] = [
        (each, own) for each in program.computations.values()
        for own in each.instructions.values() if own.opcode == 'while'
    ]
    self.assertEqual(
        expected, loops.trip_count(program, computation, loop)
    )

  @parameterized.product(where=(on_tpus, on_cpu))
  def test_data_decide(self, where):
    program = where(until_small, (256, 256), (256, 256))
    with self.assertRaisesRegex(ValueError, 'how often the loop .*while'):
      counted(program)
    self.assertEqual(0, counted(program, 0).products.flops)
    self.assertEqual(11 * 2 * 256**3, counted(program, 11).products.flops)

  @parameterized.product(where=(on_tpus, on_cpu))
  def test_branches_count_as_the_longest(self, where):
    def f(x, w):
      return jax.lax.cond(x[0, 0] > 0, lambda: jnp.tanh(x @ w @ w), lambda: x)

    got = counted(where(f, (256, 256), (256, 256)))
    self.assertEqual(2 * 2 * 256**3, got.products.flops)


# Of 8 chips that hold n numbers of 4 bytes each.
COLLECTIVES = (
    ('all-gather', lambda x: jax.lax.all_gather(x, AXIS), lambda n: 7 * n),
    ('all-reduce', lambda x: jax.lax.psum(x, AXIS), lambda n: 2 * 7 / 8 * n),
    ('reduce-scatter',
     lambda x: jax.lax.psum_scatter(x, AXIS, tiled=True), lambda n: 7 / 8 * n),
    ('all-to-all',
     lambda x: jax.lax.all_to_all(x, AXIS, 0, 0, tiled=True),
     lambda n: 7 / 8 * n),
    ('collective-permute',
     lambda x: jax.lax.ppermute(x, AXIS, [(i, (i + 1) % 8) for i in range(8)]),
     lambda n: n),
)


@pytest.mark.slow
class CollectivesTest(parameterized.TestCase):

  @parameterized.named_parameters(*(
      (each[0].replace('-', '_'), *each) for each in COLLECTIVES
  ))
  def test_bytes(self, kind, f, expected):
    def local(x):
      return f(jnp.sin(x))

    run = jax.shard_map(
        local, mesh=MESH, in_specs=PartitionSpec(AXIS),
        out_specs=PartitionSpec(AXIS), check_vma=False,
    )
    got = counted(on_tpus(run, (64 * 8, 1024), axis=AXIS))
    self.assertEqual({kind: 1}, dict(got.collectives))
    self.assertEqual(expected(64 * 1024 * 4), got.sent[kind])

  @parameterized.product(of=COLLECTIVES[:4], axis=(('a', 4), ('b', 2)))
  def test_among_some_of_the_devices(self, of, axis):
    kind, f, _ = of
    name, size = axis
    mesh = Mesh(MESH.devices.reshape(4, 2), ('a', 'b'))
    both = PartitionSpec(('a', 'b'))

    def local(x):
      with mock.patch(f'{__name__}.AXIS', name):
        return f(jnp.sin(x))

    run = jax.shard_map(
        local, mesh=mesh, in_specs=both, out_specs=both, check_vma=False
    )
    got = counted(hlo.of_compiled(jax.jit(run).trace(jax.ShapeDtypeStruct(
        (64 * 8, 1024), jnp.float32, sharding=NamedSharding(mesh, both)
    )).lower().compile()))
    share = {'all-gather': size - 1, 'all-reduce': 2 * (size - 1) / size}
    expected = share.get(kind, (size - 1) / size) * 64 * 1024 * 4
    self.assertEqual({kind: expected}, dict(got.sent))

  def test_in_a_loop_and_beside_products(self):
    # Parameters are gathered for each layer, while the one before is computed.
    def f(x, w_LxDxD):
      def body(x, w):
        whole = jax.lax.with_sharding_constraint(
            w, NamedSharding(MESH, PartitionSpec())
        )
        return jnp.tanh(x @ whole), None
      return jax.lax.scan(body, x, w_LxDxD)[0]

    def place(shape, *spec):
      own = NamedSharding(MESH, PartitionSpec(*spec))
      return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=own)

    program = hlo.of_compiled(jax.jit(f).trace(
        place((8 * 1024, 2048), AXIS), place((6, 2048, 2048), None, AXIS)
    ).lower().compile())
    got = counted(program)
    self.assertEqual({'all-gather': 6}, dict(got.collectives))
    self.assertEqual(6 * 7 * 2048 * 2048 / 8 * 2, got.sent['all-gather'])
    self.assertEqual(6 * 2 * 1024 * 2048 * 2048, got.products.flops)


@pytest.mark.slow
class TrafficTest(parameterized.TestCase):

  def test_operands_and_result(self):
    got = counted(on_tpus(lambda a, b: a * b + 1, *[(8192, 8192)] * 2))
    self.assertEqual(3 * 8192 * 8192 * 4, got.hbm_traffic)

  def test_a_slice_is_what_is_read(self):
    def f(w_LxDxD):
      def body(total, w):
        return total + jnp.sum(w * w), None
      return jax.lax.scan(body, 0.0, w_LxDxD)[0]

    # All of it once, not all of it at every step.
    whole = 16 * 2048 * 2048 * 4
    got = counted(on_tpus(f, (16, 2048, 2048))).hbm_traffic
    self.assertBetween(got, whole, 1.01 * whole)

  def test_an_update_is_what_is_written(self):
    def f(x):
      def body(x, _):
        x = jnp.sin(x)
        return x, x
      return jax.lax.scan(body, x, None, length=64)[1]

    # 64 results, each once; not the stack of them at every step. What is
    # carried stays on the chip.
    one = 2048 * 2048 * 4
    got = counted(on_tpus(f, (2048, 2048))).hbm_traffic
    self.assertBetween(got, 64 * one, 66 * one)

  def test_time_is_of_what_takes_longer(self):
    got = counted(on_tpus(lambda a, b: a * b + 1, *[(8192, 8192)] * 2))
    self.assertAlmostEqual(
        3 * 8192 * 8192 * 4 / 819e9, got.busy_seconds, delta=1e-9
    )
    got = counted(on_tpus(jnp.matmul, *[(8192, 8192)] * 2))
    self.assertAlmostEqual(
        2 * 8192**3 / 197e12, got.busy_seconds, delta=1e-5
    )


class RefusalTest(absltest.TestCase):

  def test_names_the_largest(self):
    found = compiler.refusal(
        'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory'
        ' in memory space hbm. Used 20.25G of 15.75G hbm. Exceeded hbm capacity'
        ' by 4.50G.\n\nLargest program allocations in hbm:\n\n  1. Size: 2.50G'
        '\n     Operator: op_name="jit(f)/dot"\n     Shape: f32[8,2048]{1,0}'
        '\n     Unpadded size: 2.50G\n  2. Size: 512.00M\n     Shape:'
        ' bf16[16]{0}\n', 1.5,
    )
    self.assertEqual(20.25 * 2**30, found.hbm_bytes)
    self.assertEqual(15.75 * 2**30, found.hbm_limit)
    self.assertTrue(found.with_arguments)
    self.assertEqual(
        [(2.5 * 2**30, 'f32[8,2048]'), (2**29, 'bf16[16]')], found.largest
    )

  def test_a_shorter_one(self):
    found = compiler.refusal(
        'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory'
        ' required for HLO temporaries (16.18G) exceeds available HBM'
        ' (15.75G).', 1.5,
    )
    self.assertEqual(16.18 * 2**30, found.hbm_bytes)
    self.assertEqual(15.75 * 2**30, found.hbm_limit)
    self.assertFalse(found.with_arguments)

  def test_another_error(self):
    self.assertIsNone(compiler.refusal('INTERNAL: Used 2G of 1G hbm', 1.0))
    self.assertIsNone(compiler.refusal('RESOURCE_EXHAUSTED: threads', 1.0))


def run(*args):
  return subprocess.run(
      [sys.executable, '-m', 'gradlens.aot', *args], capture_output=True,
      text=True, cwd=ROOT,
  )


def changed(name, **keys):
  config = importlib.import_module(name).get_config()
  with config.unlocked():
    config.update_from_flattened_dict(keys)
  return config


class NeedsTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ('mesh', 'v5e:2x4', {'mesh.task': 3, 'mesh.fsdp': 2},
       'config.mesh: a mesh of 3 x 2 x 1 = 6 .* and there are 8'),
      ('rest', 'v5e:2x4', {'mesh.task': 3, 'mesh.fsdp': -1},
       'config.mesh: 8 devices cannot be divided by task x tensor = 3 x 1'),
      ('chip', 'v9:2x4', {}, 'topology=v9:2x4: there are figures of v5e, v5p'),
      ('topology', 'v5e:3x5', {}, '--topology=v5e:3x5: .+'),
      ('heads', 'v5e:2x4', {'mesh.fsdp': -1, 'mesh.tensor': 8},
       'num_key_value_heads = 1 cannot be divided by the 8 devices'),
      ('slots', 'v5e:2x4', {
          'mesh.fsdp': -1, 'correction.apply': 'lagged', 'prompts_per_task': 16,
          'rollout.num_slots': 12,
      }, 'rollout.num_slots=12 cannot be divided by the 8 devices'),
      ('none', 'v5e:2x4', {'mesh.fsdp': 0}, 'config.mesh: a mesh of 1 x 0'),
  )
  def test_refuses(self, topology, keys, message):
    config = changed('tiny_config', **keys)
    with self.assertRaisesRegex(ValueError, message) as caught:
      needs(config, topology, compare=False)
    self.assertNotIn('\n', str(caught.exception))

  @parameterized.parameters((0, True), (2, False))
  def test_a_reference_policy_lies_where_the_parameters_do(self, rank, kept):
    config = changed('tiny_config', **{
        'mesh.fsdp': -1, 'loss.kl_coef': 0.1, 'prompts_per_task': 16,
        'lora.rank': rank,
    })
    devices = programs.find_devices('v5e:2x4')
    state = programs.plan(config, devices).state
    if not kept:
      self.assertEqual(state.reference, {})
      return
    jax.tree.map(
        lambda a, b: self.assertEqual((a.shape, a.sharding),
                                      (b.shape, b.sharding)),
        state.reference, state.params,
    )


class ProgramTest(absltest.TestCase):

  def test_one_sentence(self):
    done = run(
        '--config=configs/toy.py', '--topology=v5e:2x4', '--config.mesh.task=3'
    )
    self.assertEqual(1, done.returncode)
    self.assertEmpty(done.stdout)
    self.assertNotIn('Traceback', done.stderr)
    self.assertRegex(
        done.stderr, '(?m)^gradlens: config.mesh: a mesh of 3 x 1 x 1 = 3'
    )

  def test_without_libtpu(self):
    done = subprocess.run(
        [sys.executable, '-c',
         'import runpy, sys; sys.modules["libtpu"] = None;'
         ' runpy.run_module("gradlens.aot", run_name="__main__")'],
        capture_output=True, text=True, cwd=ROOT,
    )
    self.assertEqual(1, done.returncode)
    self.assertIn(
        "libtpu is not installed; run pip install 'gradlens[aot]'", done.stderr
    )

  @pytest.mark.slow
  def test_does_not_fit(self):
    done = run(
        '--config=tests/tiny_config.py', '--topology=v5e:2x4', '--json',
        '--config.mesh.fsdp=-1', '--config.correction.apply=lagged',
        '--config.prompts_per_task=16', '--config.model.hidden_size=8192',
        '--config.model.intermediate_size=65536',
        '--config.model.num_hidden_layers=20',
    )
    self.assertEqual(1, done.returncode, done.stderr)
    self.assertNotIn('Traceback', done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    self.assertFalse(found['on']['fits'])
    held = 3 * 4 * 20 * 3 * 8192 * 65_536 / 8  # of a chip
    self.assertGreater(found['on']['hbm_bytes'], held)
    self.assertRegex(
        done.stdout,
        r'does not fit: [\d.]+ GB of 16.00 GB\n  5.37 GB  .*feed_forward',
    )

  @pytest.mark.slow
  def test_three_billion_parameters_on_sixteen_chips(self):
    done = run(
        '--config=configs/multidomain.py:model=qwen2_5_3b,'
        'prompts_per_task=4,num_completions=2',
        '--topology=v5e:4x4', '--compare', '--json',
    )
    self.assertEqual(0, done.returncode, done.stderr[-2000:])
    self.assertIn('ESTIMATE', done.stdout)
    found = json.loads(done.stdout.splitlines()[-1])
    self.assertCountEqual(['on', 'off'], found)
    on, off = found['on'], found['off']
    for key, most in (
        ('flops', 1.01), ('hbm_bytes', 1.10), ('collective_bytes', 1.15),
        ('step_seconds', 1.08),
    ):
      self.assertLessEqual(on[key], most * off[key], key)
    self.assertTrue(on['fits'] and off['fits'])
    self.assertGreater(on['headroom'], 0.1)
    # The sampler has all parameters in bfloat16, and moments beside it, two of
    # four bytes: of matrices on sixteen chips, of norms and biases on each,
    # with counts and the Grams of eight rows.
    sampler = on['sampler']
    vectors = 36 * (2 * 2048 + 2048 + 2 * 256) + 2048
    matrices = 36 * 2048 * (2 * 2048 + 512 + 3 * 11_008) + 151_936 * 2048
    self.assertEqual(sampler['copy_bytes'], 2 * (matrices + vectors))
    rest = sampler['moments_bytes'] - 8 * (matrices // 16 + vectors)
    self.assertBetween(rest, 4 * 64, 1000)
    self.assertGreater(
        sampler['hbm_bytes'],
        sum(sampler[f'{name}_bytes'] for name in ('copy', 'moments', 'cache')),
    )
    self.assertGreater(sampler['headroom'], 0.1)
    # All layers and the head, each token there, again, and back: 8 times.
    tokens, per_layer = 1024 + 2 * 3072, 2048 * (2 * 2048 + 512 + 3 * 11_008)
    expected = 8 * 36 * per_layer * tokens
    for own in found.values():
      inside = own['flops'] - own['attention_flops']
      self.assertBetween(inside, expected, 1.1 * expected)
      # Bfloat16 parameters are gathered there and back.
      whole = 36 * per_layer + 151_936 * 2048
      self.assertAlmostEqual(
          1, own['collectives']['all-gather']['bytes'] / (
              2 * 2 * whole * 15 / 16
          ), delta=0.01,
      )


if __name__ == '__main__':
  absltest.main()
