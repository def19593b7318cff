"""Evaluation: held-out rewards, prompt by prompt, in the records' order."""

import json

from absl.testing import absltest, parameterized
from etils import epath
import jax
import numpy as np

from gradlens import evaluation, tasks
from gradlens.experience import Batch, Sampled
from gradlens.report import history

G = 3
_LENGTH = 8


def _task(name, number, size=5):
  records = [
      tasks.Record(f'{name}{i}', str(100 * number + i), {}) for i in range(size)
  ]
  return tasks.Task(name, [], records, verify=str.__eq__)


def _score(record, completion):
  return (int(record.answer) + completion**2) / 1000


class _Collect:
  """Rewards that tell record and completion; keeps what it was asked."""

  def __init__(self):
    self.params, self.prompts, self.keys = [], [], []

  def __call__(self, params, records_KxB, key):
    self.params.append(params)
    self.prompts.append([[r.prompt for r in task] for task in records_KxB])
    self.keys.append(tuple(np.asarray(jax.random.key_data(key)).tolist()))
    rewards = np.array([
        [[_score(record, g) for g in range(G)] for record in records]
        for records in records_KxB
    ], np.float32)
    tokens = np.array([
        [[[*f'{record.prompt}?{g}'.encode().ljust(_LENGTH)] for g in range(G)]
         for record in records]
        for records in records_KxB
    ])
    none = np.zeros(0)
    batch = Batch(none, none, tokens, tokens != ord(' '), none, rewards, none)
    return Sampled(batch, *[none] * (len(Sampled._fields) - 2), {})


def _explain(items):
  """Reasons that tell task, record and completion, and two without any."""
  return [
      tasks.Result(0.5, {'0': 'timeout', '1': 'ok'}[record.prompt[1:]])
      if record.prompt[1:] in '01' else
      tasks.Result(0.5, 'ok', f'{name}: {completion} of {record.answer}')
      for name, completion, record in items
  ]


def _decode(tokens, mask):
  return bytes(tokens[mask].tolist()).decode()


def _evaluate(seed=0, batch_size=2, size=5, other=None):
  collect = _Collect()
  result = evaluation.evaluate(
      collect, 'params', [_task('x', 1, size), _task('y', 2, other or size)],
      jax.random.key(seed), batch_size=batch_size, decode=_decode,
      score=_explain,
  )
  return result, collect


class EvaluateTest(parameterized.TestCase):

  @parameterized.parameters(1, 2, 5, 9)
  def test_rewards_are_those_of_completions_in_order(self, batch_size):
    result, collect = _evaluate(batch_size=batch_size)
    self.assertEqual(list(result.rewards), ['x', 'y'])
    for number, name in enumerate('xy', 1):
      want = (100 * number + np.arange(5)[:, None] + [0, 1, 4]) / 1000
      np.testing.assert_allclose(result.rewards[name], want, rtol=1e-6)
    # Of squares 0, 1, 4 the mean is 5/3; of prompts 0 to 4 it is 2.
    x, y = 0.102 + 5 / 3000, 0.202 + 5 / 3000
    scores = result.scores()
    for name, want in {
        'heldout/x': x, 'heldout/y': y, 'heldout': (x + y) / 2
    }.items():
      self.assertAlmostEqual(scores.pop(name), want, places=6)
    self.assertEmpty(scores)
    for k, name in enumerate('xy'):
      seen = [p for batch in collect.prompts for p in batch[k]]
      self.assertEqual(seen, [f'{name}{i}' for i in range(5)])
    self.assertEqual(set(collect.params), {'params'})

  @parameterized.product(batch_size=(1, 2, 5, 9), sizes=((5, 3), (1, 9)))
  def test_tasks_of_unequal_size(self, batch_size, sizes):
    size, other = sizes
    result, collect = _evaluate(batch_size=batch_size, size=size, other=other)
    for name, number, own in (('x', 1, size), ('y', 2, other)):
      want = (100 * number + np.arange(own)[:, None] + [0, 1, 4]) / 1000
      np.testing.assert_allclose(result.rewards[name], want, rtol=1e-6)
      shown = [s['prompt'] for s in json.loads(result.samples[name])]
      self.assertEqual(shown, [f'{name}{i}' for i in range(min(own, 8))])
    for batch in collect.prompts:
      self.assertLen({len(own) for own in batch}, 1)

  def test_an_evaluation_is_paired_with_the_next(self):
    (_, first), (_, second) = _evaluate(), _evaluate()
    self.assertEqual(first.keys, second.keys)
    self.assertEqual(first.prompts, second.prompts)
    # Each batch has a key of its own, and each run.
    _, other = _evaluate(seed=1)
    self.assertLen({*first.keys, *other.keys}, 6)

  def test_samples_are_the_first_prompts(self):
    result, _ = _evaluate(batch_size=3, size=20)
    samples = json.loads(result.samples['y'])
    self.assertEqual(samples, [
        dict(prompt=f'y{i}', completion=f'y{i}?0', answer=str(200 + i),
             reward=float(np.float32((200 + i) / 1000)),
             reason=f'y: y{i}?0 of {200 + i}')
        | ({0: {'reason': 'timeout'}, 1: {'reason': ''}}.get(i, {}))
        for i in range(8)
    ])

  def test_rewards_on_disk_are_those_that_the_report_reads(self):
    workdir = epath.Path(self.create_tempdir().full_path)
    (workdir / 'config.json').write_text(json.dumps(dict(tasks=dict(x=1, y=2))))
    result, _ = _evaluate()
    evaluation.write(workdir, 50, _evaluate(batch_size=5, size=7)[0])
    evaluation.write(workdir, 50, result)  # again, after a resume
    evaluation.write(workdir, 100, result)
    names = sorted(p.name for p in (workdir / evaluation.FOLDER).iterdir())
    self.assertEqual(names, ['00000050.npz', '00000100.npz'])
    for step in (50, 100):
      evals = history.load(workdir).evals[step]
      self.assertEqual(set(evals), {'x', 'y'})
      for name in 'xy':
        np.testing.assert_allclose(
            evals[name], result.rewards[name].mean(1), rtol=1e-6
        )


if __name__ == '__main__':
  absltest.main()
