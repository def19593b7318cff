"""Sampling ahead: whose completions a step learns from, and to which end."""

import pathlib
import signal
import tempfile
import time
import types
from unittest import mock

from absl.testing import absltest, parameterized
import feed_test
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from gradlens import experience, models, rollout, tasks, train
from gradlens.feed import ahead
from gradlens.report import history
from gradlens.setup import build
from gradlens.step.train_step import TrainState
from gradlens.workdir import checkpoint

# Quotas that are learned, prompts that are replaced by the policy that had
# sampled them, and a correction with a key of its own.
_ARG = (
    'num_steps=6,evaluate.every=99,checkpoint.every=99,mixture.kind=sec,'
    'mixture.max_prompts=12,mixture.refill_rounds=1,correction=pcgrad,'
    'optimizer.learning_rate=1e-2,seed=3'
)


class Feed:
  """Writes down what it is asked; a policy is the list of its updates."""

  def __init__(self, events, refills):
    self.events, self.refills, self.policies = events, refills, []

  def begin(self, params, key):
    self.events.append(f'sample {int(params["a"])}')
    return params['a'] + 0, key

  def finish(self, begun, params):
    sampled, _ = begun
    self.events.append(f'score {int(sampled)}')
    if self.refills:
      self.policies.append({name: int(a) for name, a in params.items()})
    return types.SimpleNamespace(batch=int(sampled))

  def learn(self, sampled, measured):
    self.events.append(f'learn {sampled.batch} {measured}')


class Keys:
  """A feed of nothing, which keeps the keys that it is given."""

  def __init__(self):
    self.keys = []

  def begin(self, params, key):
    self.keys.append(key)

  def finish(self, begun, params):
    return types.SimpleNamespace(batch=None)

  def learn(self, sampled, measured):
    pass


class Late:

  def __init__(self):
    self.parts = []

  def begin(self, part):
    self.parts.append(part)


def turns(num_steps, refills=False, reads=False, **options):
  """What is done in which order; `params['a']` counts updates."""
  events, late = [], Late()
  feed = Feed(events, reads)
  turn = ahead.Turns(
      feed, late, None, end=num_steps, refills=refills,
      meanwhile=lambda: events.append('meanwhile'), **options
  )
  add = jax.jit(
      lambda state: state._replace(
          params=jax.tree.map(lambda a: a + 1, state.params)
      ), donate_argnums=0,
  )
  state = TrainState(
      dict(a=jnp.float32(0)), {}, jax.random.key(0), dict(b=jnp.float32(7)), {}
  )

  def step(state, batch):
    events.append(f'update {int(state.params["a"])} by {batch}')
    return add(state), batch

  for number in range(num_steps):
    _, state, _ = turn(state, number, step)
  return events, late.parts, feed


class OrderTest(parameterized.TestCase):

  @parameterized.parameters(True, False)
  def test_without_a_lag(self, overlap):
    events, parts, _ = turns(2, lag=0, overlap=overlap)
    self.assertEqual(events, [
        'sample 0', 'score 0', 'update 0 by 0', 'meanwhile', 'learn 0 0',
        'sample 1', 'score 1', 'update 1 by 1', 'meanwhile', 'learn 1 1',
    ])
    self.assertEqual(parts, ['step 0', 'step 1'])

  def test_with_a_lag_one_after_the_other(self):
    events, parts, _ = turns(3, lag=1, overlap=False)
    self.assertEqual(events, [
        'sample 0', 'score 0',
        'sample 0', 'score 0', 'update 0 by 0', 'meanwhile', 'learn 0 0',
        'sample 1', 'score 1', 'update 1 by 0', 'meanwhile', 'learn 0 0',
        'update 2 by 1', 'meanwhile', 'learn 1 1',
    ])
    self.assertEqual(parts, ['step 0', 'step 1', 'step 2'])

  def test_with_a_lag_side_by_side(self):
    events, parts, _ = turns(3, lag=1, overlap=True)
    self.assertEqual(events, [
        'sample 0', 'score 0',
        'sample 0', 'update 0 by 0', 'meanwhile', 'score 0', 'learn 0 0',
        'sample 1', 'update 1 by 0', 'meanwhile', 'score 1', 'learn 0 0',
        'update 2 by 1', 'meanwhile', 'learn 1 1',
    ])
    self.assertEqual(parts, ['step 0', 'step 1', 'step 2'])

  def test_prompts_are_replaced_by_the_policy_that_sampled_the_others(self):
    for overlap in (True, False):
      *_, feed = turns(4, lag=1, overlap=overlap, refills=True, reads=True)
      self.assertEqual(
          feed.policies, [dict(a=a, b=7) for a in (0, 0, 1, 2)]
      )
    # Where none are, nothing is kept, and what is gone cannot be used.
    with self.assertRaisesRegex(RuntimeError, 'deleted'):
      turns(4, lag=1, overlap=True, reads=True)

  @parameterized.parameters(1, 2)
  def test_nothing_is_sampled_in_vain(self, num_steps):
    for overlap in (True, False):
      events, *_ = turns(num_steps, lag=1, overlap=overlap)
      sampled = [event for event in events if event.startswith('sample')]
      self.assertLen(sampled, num_steps)

  def test_keys_do_not_wait_for_a_step(self):
    state = TrainState({}, {}, jax.random.key(7), {}, {})
    feed = Keys()
    turn = ahead.Turns(
        feed, Late(), None, end=2, lag=0, overlap=False, refills=False,
        meanwhile=lambda: None,
    )
    with jax.default_device(jax.devices()[3]):
      for step in range(2):
        turn(state, step, lambda state, batch: (state._replace(key=None), None))
    for step, key in enumerate(feed.keys):
      self.assertEqual(key.device, jax.devices()[0])
      self.assertEqual(key, jax.random.fold_in(state.key, step))


class LearnTest(parameterized.TestCase):

  def quotas(self, lag, overlap, at):
    """Of every step, with another measurement at one."""
    # The rate is 1: only what was learned last counts.
    feed, _ = feed_test.make(
        'sec', engine=feed_test.Engine((10**9,) * 3), learning_rate=1.0
    )
    turn = ahead.Turns(
        feed, Late(), None, end=8, lag=lag, overlap=overlap, refills=False,
        meanwhile=lambda: None,
    )
    state = TrainState({}, {}, jax.random.key(7), {}, {})
    found = []
    for step in range(8):
      advantages = np.ones((3, 14, feed_test.G)) * np.random.default_rng(
          [step, step == at]).uniform(size=(3, 1, 1))
      sampled, *_ = turn(state, step, lambda state, batch, a=advantages: (
          state, types.SimpleNamespace(advantages_KxBxG=a, grams=None)))
      found.append(sampled.filled_KxB.sum(1).tolist())
    return found

  @parameterized.product(
      lag_overlap=((0, True), (1, True), (1, False)), at=(0, 3)
  )
  def test_a_step_tells_after_two_steps_and_the_lag(self, lag_overlap, at):
    lag, overlap = lag_overlap
    expected = self.quotas(lag, overlap, None)
    found = self.quotas(lag, overlap, at)
    differ = [t for t in range(8) if found[t] != expected[t]]
    self.assertEqual(differ, [at + 2 + lag])


def sampled_by_hand():
  """No value and no type of it is like another's."""
  k, b, g, t, c = 2, 3, 4, 5, 6
  rng = np.random.default_rng(0)
  batch = experience.Batch(
      rng.integers(9, size=(k, b, t)).astype(np.int32),
      rng.integers(2, size=(k, b, t)) > 0,
      jnp.asarray(rng.integers(9, size=(k, b, g, c)), jnp.int32),
      jnp.asarray(rng.integers(2, size=(k, b, g, c)) > 0),
      jnp.asarray(rng.normal(size=(k, b, g, c)), jnp.float32),
      rng.uniform(size=(k, b, g)).astype(np.float32),
      rng.uniform(size=(k, b, g, 2)).astype(np.float32),
  )
  drawn = experience.Drawn(
      rng.uniform(size=(k, b, g)).astype(np.float32),
      rng.integers(9, size=(k, b, g)), rng.integers(2, size=(k, b, g)) > 0,
      rng.uniform(size=(k, b, g, 2)).astype(np.float32),
      rng.integers(2, size=(k, b)) > 0,
  )
  return experience.Sampled(
      batch, rng.integers(2, size=(k, b)) > 0, drawn,
      rng.integers(9, size=(k, b, g)), rng.integers(2, size=(k, b)) > 0,
      *rng.integers(9, size=(2, k)), rng.uniform(size=k),
      *rng.integers(9, size=(2, k)), dict(rollout=0.1, verify=1 / 3),
  )


class Fixed:
  """A feed of one batch."""

  def __init__(self, sampled):
    self.sampled = sampled

  def begin(self, params, key):
    return None

  def finish(self, begun, params):
    return self.sampled

  def learn(self, sampled, measured):
    pass


class SavedTest(absltest.TestCase):

  def turn(self, mesh=None, lag=1):
    return ahead.Turns(
        Fixed(sampled_by_hand()), Late(), mesh, end=3, lag=lag, overlap=True,
        refills=False, meanwhile=lambda: None,
    )

  def after_a_step(self, turn, step=0):
    """The batch of the step after."""
    state = TrainState({}, {}, jax.random.key(0), {}, {})
    turn(state, step, lambda state, batch: (state, None))
    found = []
    turn(state, step + 1, lambda state, batch: (state, found.append(batch)))
    return found[0]

  def test_returns_bit_for_bit(self):
    turn = self.turn()
    state = TrainState({}, {}, jax.random.key(0), {}, {})
    turn(state, 0, lambda state, batch: (state, None))
    workdir = self.create_tempdir().full_path
    states = TrainState(dict(a=jnp.ones(2)), {}, jax.random.key(0), {}, {})
    with checkpoint.Checkpoints(workdir) as saved:
      saved.save(1, states, dict(step=2), None, turn.sampled_ahead())
    again = self.turn()
    with checkpoint.Checkpoints(workdir) as saved:
      again.restore(saved.restore_ahead())
      self.assertEqual(saved.restore(states)[1], dict(step=2))
    got, *_ = again(state, 1, lambda state, batch: (state, None))
    expected = sampled_by_hand()
    self.assertEqual(
        jax.tree.structure(got), jax.tree.structure(expected)
    )
    self.assertEqual(got.seconds, expected.seconds)
    for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
      a, b = map(np.asarray, (a, b))
      self.assertEqual((a.dtype, a.shape), (b.dtype, b.shape))
      self.assertEqual(a.tobytes(), b.tobytes())

  def test_there_is_nothing_to_save_without_a_lag_or_a_next_step(self):
    state = TrainState({}, {}, jax.random.key(0), {}, {})
    turn = self.turn(lag=0)
    turn(state, 0, lambda state, batch: (state, None))
    self.assertEqual(turn.sampled_ahead(), {})
    turn = self.turn()
    turn(state, 2, lambda state, batch: (state, None))
    self.assertEqual(turn.sampled_ahead(), {})

  def test_lies_where_one_that_was_just_sampled_lies(self):
    mesh = models.make_mesh(
        task=2, fsdp=3, tensor=1, num_rows=2, devices=jax.devices()[:6]
    )
    state = TrainState({}, {}, jax.random.key(0), {}, {})
    turn = self.turn(mesh)
    turn(state, 0, lambda state, batch: (state, None))
    again = self.turn(mesh)
    again.restore(turn.sampled_ahead())
    fresh, loaded = (
        each(state, 1, lambda state, batch: (state, None))[0].batch
        for each in (turn, again)
    )
    for name in ('tokens_KxBxGxC', 'mask_KxBxGxC', 'logprobs_KxBxGxC'):
      a, b = getattr(fresh, name), getattr(loaded, name)
      self.assertLen(a.sharding.device_set, 6)
      self.assertEqual(a.sharding, b.sharding)
      np.testing.assert_array_equal(a, b)


def scalars(workdir):
  """Without what the clock says."""
  return {
      tag: values for tag, values in history.load(workdir).scalars.items()
      if not tag.startswith('seconds/')
  }


class Asking:
  """Asks the process to end once a step's metrics are written."""

  def __init__(self, step):
    self.step = step

  def write_scalars(self, step, scalars):
    if step == self.step and 'update_norm' in scalars:
      signal.raise_signal(signal.SIGTERM)

  def write_texts(self, step, texts):
    pass

  def flush(self):
    pass


class Run:
  """A run, with what its sampler was given and its steps learned from."""

  def __init__(self, workdir, arg, **kwargs):
    self.workdir, self.config = workdir, tiny_config.get_config(arg)
    if self.config.mixture.kind == 'sec':
      self.config.mixture.kwargs = dict(temperature=0.1)
    self.policies, self.requests, self.completions = [], [], []
    self.learned = []
    with (
        mock.patch.object(build, 'steps', self.steps(build.steps)),
        mock.patch.object(tasks.Verifier, 'score', slow(tasks.Verifier.score)),
    ):
      self.history = train.train(
          self.config, workdir, make_sampler=self.make_sampler, **kwargs
      )

  def make_sampler(self, *args, **kwargs):
    own = rollout.make_sampler(*args, **kwargs)

    def sampler(params, prompts_NxT, mask_NxT, keys_NxG):
      self.policies.append(jax.tree.map(np.array, params))
      self.requests.append((prompts_NxT, mask_NxT, keys_NxG))
      self.completions.append(own(params, prompts_NxT, mask_NxT, keys_NxG))
      return self.completions[-1]

    return sampler

  def steps(self, make):
    def made(*args):
      return {
          instrument: self.noting(step)
          for instrument, step in make(*args).items()
      }
    return made

  def noting(self, step):
    def noted(state, batch):
      self.learned.append(jax.tree.map(np.array, batch))
      return step(state, batch)
    return noted

  @property
  def params(self):
    return checkpoint.load_model(self.workdir)[1]

  def assert_same_end(self, other):
    np.testing.assert_equal(scalars(self.workdir), scalars(other.workdir))
    jax.tree.map(np.testing.assert_array_equal, self.params, other.params)


def slow(score):
  def scored(verifier, items):
    results = score(verifier, items)
    time.sleep(0.2)
    return results
  return scored


@pytest.mark.slow
class RunTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.serial = Run(
        cls.root / 'serial', f'{_ARG},rollout.lag=1,rollout.overlap=False'
    )

  def test_side_by_side_it_is_the_same(self):
    run = Run(self.root / 'overlap', f'{_ARG},rollout.lag=1')
    run.assert_same_end(self.serial)
    # The comparison would show it: quotas were learned, prompts replaced, and
    # every step has changed the policy but for the warm-up's first.
    quotas = run.history.per_task('prompts')
    self.assertGreater(len(np.unique(quotas, axis=0)), 1)
    self.assertGreater(run.history.per_task('refilled')[1:].min(), 0)
    self.assertGreater(run.history.values('update_norm')[1:].min(), 0)

  def test_asked_to_end_and_resumed_it_comes_to_the_same_end(self):
    workdir = self.root / 'asked'
    arg = f'{_ARG},rollout.lag=1'
    Run(workdir, arg, writers=[Asking(1)])
    first = self.latest(workdir)
    Run(workdir, f'{arg},rollout.overlap=False', writers=[Asking(first + 1)])
    second = self.latest(workdir)
    self.assertLess(first, second)
    self.assertLess(second, 5)
    Run(workdir, arg).assert_same_end(self.serial)
    # Finished, it has nothing to do, and needs no batch.
    again = Run(workdir, arg)
    self.assertEmpty(again.policies)
    again.assert_same_end(self.serial)

  def latest(self, workdir):
    with checkpoint.Checkpoints(workdir) as saved:
      return saved.latest

  def test_who_samples_what(self):
    # One call of the sampler a step: nothing is replaced, or evaluated between.
    arg = 'num_steps=3,evaluate.every=99,optimizer.learning_rate=1e-2'
    arg += ',optimizer.warmup_steps=0'
    lagging = Run(self.root / 'lagging', f'{arg},rollout.lag=1')
    plain = Run(self.root / 'plain', arg)
    initial = build.setup(plain.config).params

    def same(policy, other):
      return all(jax.tree.leaves(
          jax.tree.map(np.array_equal, policy, other)
      ))

    # Held-out prompts of the start and of the end have calls of their own.
    for run in (lagging, plain):
      self.assertLen(run.policies, 5)
    self.assertTrue(same(lagging.policies[1], initial))
    self.assertTrue(same(lagging.policies[2], initial))
    self.assertFalse(same(lagging.policies[3], initial))
    self.assertTrue(same(plain.policies[1], initial))
    self.assertFalse(same(plain.policies[2], initial))
    # The first update is the same, and so is the policy after it.
    self.assertTrue(same(lagging.policies[3], plain.policies[2]))
    got, expected = scalars(lagging.workdir), scalars(plain.workdir)
    self.assertEqual(got.keys(), expected.keys())
    for tag in got.keys():
      np.testing.assert_equal(got[tag].get(1), expected[tag].get(1), tag)
    self.assertEqual(got['policy_lag'], {1: 0.0, 2: 1.0, 3: 1.0})
    self.assertEqual(expected['policy_lag'], {1: 0.0, 2: 0.0, 3: 0.0})
    self.assertNotEqual(got['update_norm'][2], expected['update_norm'][2])
    # The same prompts and keys, whoever samples.
    for own, other in zip(lagging.requests, plain.requests, strict=True):
      for a, b in zip(own[:2], other[:2], strict=True):
        np.testing.assert_array_equal(a, b)
      np.testing.assert_array_equal(
          *(jax.random.key_data(keys) for *_, keys in (own, other))
      )
    self.check_second_batch(lagging, initial)
    # The trainer was another policy than the sampler from the second step on.
    for name in lagging.history.tasks:
      gaps = got[f'sampler_gap/{name}']
      self.assertLess(gaps[1], 1e-5)
      self.assertGreater(gaps[2], 1e-3)

  def check_second_batch(self, run, initial):
    """It is what the initial policy samples with that step's key."""
    setup = build.setup(run.config)
    r = run.config.rollout
    sampler = rollout.make_sampler(
        setup.model, max_new_tokens=r.max_new_tokens, temperature=r.temperature,
        stop_tokens=setup.stop_tokens,
    )
    key = jax.random.split(
        jax.random.fold_in(jax.random.key(run.config.seed), 1)
    )[0]
    prompts_NxT, mask_NxT, _ = run.requests[2]
    out = sampler(
        initial, prompts_NxT, mask_NxT,
        rollout.request_keys(jax.random.fold_in(key, 1), (16, 4)),
    )
    batch = run.learned[1]
    for got, expected in zip(batch[2:5], out, strict=True):
      np.testing.assert_array_equal(got, np.reshape(expected, got.shape))
    np.testing.assert_array_equal(
        batch.prompts_KxBxT, prompts_NxT.reshape(2, 8, -1)
    )


if __name__ == '__main__':
  absltest.main()
