"""The mixture: exact quotas, epochs without repetition, random access."""

import json

from absl.testing import absltest, parameterized

from gradlens import mixture, tasks


def task(name, size):
  records = [tasks.Record(f'{name}{i}', str(i), {}) for i in range(size)]
  return tasks.Task(name, records, [], verify=str.__eq__)


def prompts(batch):
  return [[record.prompt for record in records] for records in batch]


class MixtureTest(parameterized.TestCase):

  @parameterized.parameters((900, 100), (910, 100), (901, 300), (300, 300))
  def test_epochs(self, size, per_task):
    mix = mixture.Mixture([task('a', size)], per_task, seed=0)
    steps = size // per_task
    epochs = [
        [p for step in range(steps)
         for p in prompts(mix.batch(epoch * steps + step))[0]]
        for epoch in range(4)
    ]
    for epoch in epochs:
      self.assertLen(epoch, steps * per_task)
      self.assertLen(set(epoch), steps * per_task)
    # Each in its own order, not that of the records; and what one epoch leaves
    # out, another takes.
    in_order = [f'a{i}' for i in range(steps * per_task)]
    self.assertLen({tuple(epoch) for epoch in [*epochs, in_order]}, 5)
    if size > steps * per_task:
      self.assertGreater(
          len({p for epoch in epochs for p in epoch}), steps * per_task)

  def test_quota_of_every_task(self):
    all_tasks = [task('a', 900), task('b', 5000), task('c', 300)]
    mix = mixture.Mixture(all_tasks, 64, seed=0)
    for step in range(15):
      batch = mix.batch(step)
      self.assertEqual([len(records) for records in batch], [64, 64, 64])
      for t, records in zip(all_tasks, batch, strict=True):
        self.assertContainsSubset({r.prompt for r in records},
                                  {r.prompt for r in t.train})

  def test_batch_is_a_function_of_the_step(self):
    def make():
      return mixture.Mixture([task('a', 900), task('b', 1000)], 80, seed=3)

    forward = make()
    expected = [forward.batch(step) for step in range(30)]
    # From behind, in an object that has not seen the steps before.
    backward = make()
    found = [backward.batch(step) for step in reversed(range(30))]
    self.assertEqual(found[::-1], expected)

  def test_order_of_a_task_depends_on_seed_and_name_alone(self):
    def first(tasks_, seed=0):
      return prompts(mixture.Mixture(tasks_, 8, seed).batch(0))
    a, b = task('a', 100), task('b', 30)
    self.assertEqual(first([a])[0], first([b, a])[1])
    self.assertNotEqual(first([a])[0], first([a], seed=1)[0])
    # The same records under two names come in two orders.
    one, two = first([a, a._replace(name='b')])
    self.assertNotEqual(one, two)

  def test_state(self):
    mix = mixture.Mixture([task('a', 50)], 8, seed=3)
    state = json.loads(json.dumps(mix.state(17)))
    self.assertEqual(mix.step(state), 17)

  @parameterized.parameters(
      ([task('a', 50)], 8, 4, 'seed=3'),
      ([task('a', 50)], 4, 3, 'prompts_per_task=8'),
      ([task('a', 51)], 8, 3, "tasks={'a'"),
      ([task('a', 50), task('b', 50)], 8, 3, "tasks={'a'"),
  )
  def test_state_of_other_data(self, tasks_, per_task, seed, message):
    state = mixture.Mixture([task('a', 50)], 8, seed=3).state(17)
    mix = mixture.Mixture(tasks_, per_task, seed)
    with self.assertRaisesRegex(ValueError, f'with {message}.*, this run has'):
      mix.step(state)

  @parameterized.parameters(0, -1, 21)
  def test_quota_that_a_task_cannot_fill(self, per_task):
    with self.assertRaisesRegex(
        ValueError, f"prompts_per_task={per_task} .* 20 training.*'b'"):
      mixture.Mixture([task('b', 20), task('a', 50)], per_task, seed=0)


if __name__ == '__main__':
  absltest.main()
