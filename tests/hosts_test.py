"""A run on several hosts is the run on one; what ends one host ends all."""

import pathlib
import re
import shutil
import signal
import socket
import tempfile
import time
from typing import NamedTuple
from unittest import mock

from absl.testing import absltest, parameterized
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
from program import Program
import pytest
import tiny_config

from gradlens import hosts, train
from gradlens.report import history
from gradlens.workdir import checkpoint

_MESH = 'mesh.task=4,mesh.fsdp=2,model.num_key_value_heads=2'
# A key of its own, weights from a Gram matrix over all hosts; a completion's
# length is no other's; quotas that are learned, prompts that are replaced;
# checkpoints after steps 2, 4, 6.
_ARG = (
    f'{_MESH},correction=pcgrad,correction.apply=two_pass,num_steps=6,'
    'mixture.kind=sec,mixture.max_prompts=12,mixture.refill_rounds=1,seed=3'
)
_ADAPTERS = (
    f'{_MESH},correction.apply=lagged,lora.rank=2,rollout.num_slots=8,'
    'num_steps=500'
)


def _port():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return free.getsockname()[1]


class Hosts:
  """As many processes as hosts, with 8 devices together."""

  def __init__(self, count, workdir, args):
    coordinator = f'--coordinator=127.0.0.1:{_port()}'
    args = [args] * count if isinstance(args, str) else args
    self.workdir = workdir
    self.all = [
        Program(
            workdir, arg, coordinator, f'--num_hosts={count}',
            f'--host={host}', JAX_NUM_CPU_DEVICES=str(8 // count),
        )
        for host, arg in enumerate(args)
    ]

  def end(self, *codes):
    """Their outputs; each must end with one of the codes."""
    try:
      return [program.ends(*codes) for program in self.all]
    finally:
      for program in self.all:
        program.process.kill()
        program.process.communicate()

  def wait_for(self, condition):
    while not condition(self.workdir):
      for program in self.all:
        assert program.process.poll() is None, program.process.communicate()[0]
      time.sleep(1e-3)


def _saved(step):
  return lambda workdir: (workdir / 'checkpoints' / str(step)).exists()


def _scalars(workdir):
  """Without what the clock says."""
  return {
      tag: values for tag, values in history.load(workdir).scalars.items()
      if not tag.startswith('seconds/')
  }


@pytest.mark.slow
class HostsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.two = cls.root / 'two'
    cls.outputs = Hosts(2, cls.two, _ARG).end(0)

  def assert_same_end(self, workdir):
    """That of the run on two hosts, bit for bit."""
    np.testing.assert_equal(_scalars(workdir), _scalars(self.two))
    got, expected = (
        checkpoint.load_model(path)[1] for path in (workdir, self.two)
    )
    jax.tree.map(np.testing.assert_array_equal, got, expected)

  def assert_close(self, workdir):
    got, expected = map(_scalars, (workdir, self.two))
    self.assertEqual(got.keys(), expected.keys())
    for tag, values in expected.items():
      self.assertEqual(list(got[tag]), list(values), tag)
      np.testing.assert_allclose(
          list(got[tag].values()), list(values.values()), rtol=1e-5,
          atol=1e-7, err_msg=tag,
      )
    self.assertGreater(expected['update_norm'][6], 1e-3)

  def test_one_host_writes_and_prints(self):
    first, other = self.outputs
    self.assertIn('Report: ', first)
    self.assertNotIn('Report: ', other)
    lines = (self.two / 'metrics.jsonl').read_text().splitlines()
    self.assertLen([line for line in lines if '"update_norm"' in line], 6)

  def test_quotas_are_learned_and_prompts_replaced(self):
    run = history.load(self.two)
    quotas = run.per_task('prompts')
    np.testing.assert_array_equal(quotas.sum(1), 16)
    self.assertGreater(len(np.unique(quotas, axis=0)), 1)
    self.assertGreater(run.per_task('refilled').sum(), 0)

  def test_it_is_the_run_of_one_host(self):
    config = tiny_config.get_config(_ARG)
    train.train(config, self.root / 'one')
    self.assert_close(self.root / 'one')

  def test_a_lost_host_ends_all_and_the_run_goes_on(self):
    workdir = self.root / 'lost'
    run = Hosts(2, workdir, _ARG)
    run.wait_for(_saved(2))
    run.all[1].process.kill()
    # The first to notice are the devices that compute together, or else, after
    # 100 seconds, jax.
    output, _ = run.end(1, -signal.SIGABRT, -signal.SIGKILL)
    self.assertRegex(output, 'was a host lost|another task died')
    self.assertFalse(_saved(6)(workdir))
    Hosts(2, workdir, _ARG).end(0)
    self.assert_same_end(workdir)

  def test_it_goes_on_with_other_hosts(self):
    workdir = self.root / 'four'
    shutil.copytree(self.two, workdir)
    shutil.rmtree(workdir / 'checkpoints' / '6')
    outputs = Hosts(4, workdir, _ARG).end(0)
    self.assertIn('resuming', outputs[0])
    self.assertIn('at step 4', outputs[0])
    self.assert_close(workdir)

  def test_what_was_sampled_ahead_is_resumed_with(self):
    workdir = self.root / 'ahead'
    arg = f'{_ARG},rollout.lag=1'
    Hosts(2, workdir, arg).end(0)
    expected = _scalars(workdir)
    params = checkpoint.load_model(workdir)[1]
    self.assertEqual(expected['policy_lag'][5], 1)
    self.assertNotEqual(
        expected['update_norm'][5], _scalars(self.two)['update_norm'][5]
    )
    shutil.rmtree(workdir / 'checkpoints' / '6')
    arg += ',rollout.overlap=False'
    outputs = Hosts(2, workdir, arg).end(0)
    self.assertIn('at step 4', outputs[0])
    np.testing.assert_equal(_scalars(workdir), expected)
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.load_model(workdir)[1], params
    )

  def test_one_is_asked_to_end_and_all_do(self):
    workdir = self.root / 'asked'
    run = Hosts(2, workdir, _ADAPTERS)
    run.wait_for(_saved(2))
    run.all[1].process.terminate()
    outputs = run.end(143)
    found = [
        re.search(r'saved step (\d+); run again to go on', output)
        for output in outputs
    ]
    with checkpoint.Checkpoints(workdir) as saved:
      self.assertEqual([str(saved.latest)] * 2, [match[1] for match in found])
    # What is frozen was written whole.
    checkpoint.load_model(workdir)

  def test_hosts_that_differ_are_refused(self):
    workdir = self.root / 'differ'
    args = [_ARG, _ARG + ',optimizer.learning_rate=0.5']
    for output in Hosts(2, workdir, args).end(1):
      self.assertIn(
          'gradlens: host 1 was started with something else:'
          ' config.optimizer.learning_rate is 0.5, and 0.001 on host 0.',
          output,
      )
    self.assertFalse(workdir.exists())


class _Place(NamedTuple):
  process_index: int
  device: int


class _Shard(NamedTuple):
  index: tuple
  data: np.ndarray


class _Spread:
  """An array of 8 rows over 4 hosts: 0 and 1 have the first half, 2 and 3 the
  other; of each half every host has two devices, the same on both."""

  shape = (8, 3)
  values = np.arange(24).reshape(8, 3)
  sharding = property(lambda self: self)

  def __len__(self):
    return 8

  def devices_indices_map(self, shape):
    assert shape == self.shape
    return {
        _Place(host, device): (slice(start, start + 2), slice(None))
        for host in range(4) for device, start in enumerate(
            (4 * (host // 2), 4 * (host // 2) + 2)
        )
    }

  @property
  def addressable_shards(self):
    return [
        _Shard(index, self.values[index])
        for place, index in reversed(self.devices_indices_map((8, 3)).items())
        if place.process_index == jax.process_index()
    ]


class RowsTest(parameterized.TestCase):

  def test_rows_of_several_hosts_are_each_row_once(self):
    found = []
    for host in range(4):
      with (
          mock.patch.object(jax, 'process_index', lambda host=host: host),
          mock.patch.object(jax, 'process_count', lambda: 4),
          mock.patch.object(hosts, '_addressable', lambda array: False),
      ):
        rows = hosts.own_rows(_Spread())
        values = hosts.read(_Spread(), rows)
      np.testing.assert_array_equal(values, _Spread.values[rows])
      found.append(rows.tolist())
    self.assertEqual(found, [[0, 2], [1, 3], [4, 6], [5, 7]])

  @parameterized.parameters(('x',), (('x', 'y'),), (None,))
  def test_rows_of_one_host_are_all(self, axes):
    mesh = Mesh(np.reshape(jax.devices(), (4, 2)), ('x', 'y'))
    values = np.arange(48.0).reshape(16, 3)
    array = hosts.spread(values, NamedSharding(mesh, PartitionSpec(axes)))
    rows = hosts.own_rows(array)
    np.testing.assert_array_equal(rows, np.arange(16))
    np.testing.assert_array_equal(hosts.read(array, rows[::3]), values[::3])
    np.testing.assert_array_equal(hosts.share(values, rows, 16), values)
    np.testing.assert_array_equal(hosts.whole(array), values)

  @parameterized.parameters(
      (('h:1', None, 0), '--num_hosts must be given too'),
      ((None, 2, None), '--coordinator and --host must be given too'),
      (('h:1', 2, 2), '--host=2 must be from 0 to 1'),
  )
  def test_flags_that_make_no_sense(self, given, sentence):
    with self.assertRaisesRegex(ValueError, sentence):
      hosts.start(*given)


if __name__ == '__main__':
  absltest.main()
