"""The mixture: exact quotas, epochs without repetition, a state of JSON."""

import json
import sys

from absl.testing import absltest, parameterized
import numpy as np

from gradlens import mixture, tasks


def task(name, size):
  records = [tasks.Record(f'{name}{i}', str(i), {}) for i in range(size)]
  return tasks.Task(name, records, [], verify=str.__eq__)


def prompts(records):
  return [[record.prompt for record in own] for own in records]


def steps(mix, count, state=None):
  """Prompts of steps `[T][K][B]`, and the state after them."""
  state = mix.init() if state is None else state
  found = []
  for _ in range(count):
    draw, state = mix.draw(state)
    found.append(prompts(draw.records))
  return found, state


class UniformTest(parameterized.TestCase):

  @parameterized.parameters((900, 100), (910, 100), (901, 300), (300, 300))
  def test_epochs(self, size, per_task):
    mix = mixture.Mixture([task('a', size)], per_task, seed=0)
    count = size // per_task
    taken = [own for own, in steps(mix, 4 * count)[0]]
    epochs = [
        sum(taken[epoch * count: (epoch + 1) * count], []) for epoch in range(4)
    ]
    for epoch in epochs:
      self.assertLen(epoch, count * per_task)
      self.assertLen(set(epoch), count * per_task)
    # Each in its own order, not that of the records; and what one epoch leaves
    # out, another takes.
    in_order = [f'a{i}' for i in range(count * per_task)]
    self.assertLen({tuple(epoch) for epoch in [*epochs, in_order]}, 5)
    if size > count * per_task:
      self.assertGreater(
          len({p for epoch in epochs for p in epoch}), count * per_task)

  def test_quota_of_every_task(self):
    all_tasks = [task('a', 900), task('b', 5000), task('c', 300)]
    mix = mixture.Mixture(all_tasks, 64, seed=0)
    state = mix.init()
    for _ in range(15):
      draw, state = mix.draw(state)
      self.assertEqual(draw.quotas_K.tolist(), [64, 64, 64])
      for t, records in zip(all_tasks, draw.records, strict=True):
        self.assertContainsSubset({r.prompt for r in records},
                                  {r.prompt for r in t.train})

  def test_order_of_a_task_depends_on_seed_and_name_alone(self):
    def first(tasks_, seed=0):
      return steps(mixture.Mixture(tasks_, 8, seed), 1)[0][0]
    a, b = task('a', 100), task('b', 30)
    self.assertEqual(first([a])[0], first([b, a])[1])
    self.assertNotEqual(first([a])[0], first([a], seed=1)[0])
    # The same records under two names come in two orders.
    one, two = first([a, a._replace(name='b')])
    self.assertNotEqual(one, two)

  @parameterized.parameters(0, -1, 21)
  def test_quota_that_a_task_cannot_fill(self, per_task):
    with self.assertRaisesRegex(
        ValueError, f"prompts_per_task={per_task} .* 20 training.*'b'"):
      mixture.Mixture([task('b', 20), task('a', 50)], per_task, seed=0)


class StateTest(parameterized.TestCase):

  def test_a_step_is_a_function_of_the_state(self):
    def make():
      return mixture.Mixture(
          [task('a', 90), task('b', 100)], 8, 3, max_prompts=14, num_splits=2,
          kind='fixed', kwargs=dict(shares=dict(a=3, b=1)),
      )
    expected, _ = steps(make(), 30)
    for first in (1, 7, 29):
      _, state = steps(make(), first)
      # In an object that has not seen the steps before, and out of a file.
      state = json.loads(json.dumps(state))
      found, _ = steps(make(), 30 - first, make().restore(state))
      self.assertEqual(found, expected[first:])

  def test_nothing_but_the_state_changes(self):
    mix = mixture.Mixture([task('a', 90)], 8, 3)
    state = mix.init()
    kept = json.dumps(state)
    first = [prompts(mix.draw(state)[0].records) for _ in range(2)]
    self.assertEqual(first[0], first[1])
    self.assertEqual(json.dumps(state), kept)

  @parameterized.parameters(
      ([task('a', 50)], 8, 4, {}, 'seed=3'),
      ([task('a', 50)], 4, 3, {}, 'prompts_per_task=8'),
      ([task('a', 51)], 8, 3, {}, "tasks={'a'"),
      ([task('a', 50), task('b', 50)], 8, 3, {}, "tasks={'a'"),
      ([task('a', 50)], 8, 3, dict(kind='sec', max_prompts=16),
       "mixture={.*'kind': 'uniform'"),
      ([task('a', 50)], 8, 3, dict(num_splits=2), "mixture={'num_splits': 1"),
  )
  def test_state_of_other_data(self, tasks_, per_task, seed, kwargs, message):
    _, state = steps(mixture.Mixture([task('a', 50)], 8, seed=3), 2)
    mix = mixture.Mixture(tasks_, per_task, seed, **kwargs)
    with self.assertRaisesRegex(ValueError, f'with {message}.*, this run has'):
      mix.restore(json.loads(json.dumps(state)))


class FurtherTest(parameterized.TestCase):

  def test_prompts_that_the_step_has_not_had(self):
    # 30 of 40 leave 10, wherever in its order a task stands.
    mix = mixture.Mixture([task('a', 40), task('b', 50)], 10, seed=0)
    state = mix.init()
    for _ in range(11):
      draw, state = mix.draw(state)
      had = [set(own) for own in prompts(draw.records)]
      for counts in ([5, 20], [0, 10], [15, 0]):
        records, draw, state = mix.further(draw, state, counts)
        self.assertEqual([len(own) for own in records], counts)
        for k, own in enumerate(prompts(records)):
          self.assertLen(set(own) - had[k], counts[k])
          had[k] |= set(own)

  def test_until_there_is_none(self):
    mix = mixture.Mixture([task('a', 12), task('b', 50)], 10, seed=0)
    draw, state = mix.draw(mix.init())
    records, draw, state = mix.further(draw, state, [5, 5])
    self.assertEqual([len(own) for own in records], [2, 5])
    records, _, state = mix.further(draw, state, [5, 5])
    self.assertEqual([len(own) for own in records], [0, 5])
    # The next step has its quota all the same.
    draw, _ = mix.draw(state)
    self.assertEqual(draw.quotas_K.tolist(), [10, 10])
    self.assertLen({r.prompt for r in draw.records[0]}, 10)

  def test_the_next_step_goes_on_behind_them(self):
    mix = mixture.Mixture([task('a', 100)], 10, seed=0)
    in_order = sum((own for own, in steps(mix, 10)[0]), [])
    draw, state = mix.draw(mix.init())
    records, _, state = mix.further(draw, state, [7])
    self.assertEqual(prompts(records), [in_order[10:17]])
    self.assertEqual(steps(mix, 1, state)[0], [[in_order[17:27]]])


class UnequalTest(parameterized.TestCase):

  def make(self, **kwargs):
    kwargs = dict(num_splits=2, max_prompts=16, kind='fixed') | kwargs
    all_tasks = [task('a', 100), task('b', 400), task('c', 20)]
    return mixture.Mixture(all_tasks, 8, 0, **kwargs)

  @parameterized.parameters(
      # Of 24 prompts, in twos.
      ('fixed', dict(shares=dict(a=1, b=2, c=1)), [6, 12, 6]),
      ('fixed', dict(shares=dict(a=0, b=2, c=1)), [0, 16, 8]),
      # 100 : 400 : 20, that is 4.6, 18.5 and 0.9 prompts.
      ('proportional', {}, [4, 18, 2]),
      ('temperature', dict(temperature=1.0), [4, 18, 2]),
      # Roots 10 : 20 : 4.47, that is 7.0, 13.9 and 3.1; twelfths of those.
      ('temperature', dict(temperature=2.0), [6, 14, 4]),
      ('temperature', dict(temperature=1e6), [8, 8, 8]),
  )
  def test_quotas_by_hand(self, kind, kwargs, quotas):
    mix = self.make(kind=kind, kwargs=kwargs, max_prompts=20)
    state = mix.init()
    for _ in range(30):
      draw, state = mix.draw(state)
      self.assertEqual(draw.quotas_K.tolist(), quotas)
      for own in prompts(draw.records):
        self.assertLen(set(own), len(own))

  def test_tasks_join_and_leave(self):
    mix = self.make(kind='uniform', active=dict(b=(2, -1), c=(0, 4)))
    quotas, state = [], mix.init()
    for _ in range(6):
      draw, state = mix.draw(state)
      quotas.append(draw.quotas_K.tolist())
    self.assertEqual(
        quotas, 2 * [[12, 0, 12]] + 2 * [[8, 8, 8]] + 2 * [[12, 12, 0]]
    )

  @parameterized.parameters(
      (dict(shares=dict(a=6, b=1, c=1)), "step 0 task 'a' .* 18 prompts.* 16"),
      (dict(shares=dict(a=1, b=1)), 'shares are given of a, b, and'),
      (dict(shares=dict(a=1, b=1, c=-1)), 'must be 0 or more'),
      (dict(shares=dict(a=0, b=0, c=0)), 'one of them above 0'),
      (dict(share=3), "unexpected keyword argument 'share'"),
      ({}, "missing 1 required .* 'shares'"),
  )
  def test_refuses_shares(self, kwargs, message):
    with self.assertRaisesRegex(ValueError, message):
      self.make(kwargs=kwargs)

  @parameterized.parameters(
      (dict(kind='sec', kwargs=dict(temperature=0)), 'must be above 0'),
      (dict(kind='random'), "kind='random' is not known; choose .* uniform"),
      (dict(kind='sec', max_prompts=8), "'sec' learns .* room for 8, the mean"),
      (dict(kind='proportional', max_prompts=8), "'b' is to have 18 .* for 8"),
      (dict(kind='uniform', max_prompts=21), 'max_prompts=21 .* 20 .*c'),
      (dict(kind='uniform', active=dict(d=(0, 1))), "names 'd', .* a, b, c"),
      (dict(kind='uniform', active=dict(a=(3, 3))), 'active.a=.3, 3. must be'),
      (dict(kind='uniform', active=dict(a=(0, 9), b=(0, 9))),
       'drawn at step 9: 24 prompts cannot be divided among 1'),
  )
  def test_refuses(self, kwargs, message):
    with self.assertRaisesRegex(ValueError, message):
      self.make(**kwargs)


class HostsTest(absltest.TestCase):

  def test_it_knows_of_no_hosts(self):
    # What it draws follows from its arguments and its state: nothing that it
    # is made of can ask how many processes there are.
    for name, module in list(sys.modules.items()):
      if name.startswith('gradlens.mixture'):
        for other in ('jax', 'hosts'):
          self.assertNotIn(other, vars(module), name)
    # The names are those that would be found.
    self.assertIs(vars(sys.modules['gradlens.mixture.mixture'])['np'], np)


if __name__ == '__main__':
  absltest.main()
