"""Several rewards of one task, from the verifier to the advantages."""

import json
import pathlib
import re
from unittest import mock

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
from transformers import ByT5Tokenizer

from gradlens import advantages, tasks, text, train
from gradlens.experience import degenerate
from gradlens.tasks import verifiers
from gradlens.workdir import record

G, S = 4, 2
NAMES, SHORT = ('long', 'short'), 1  # as the config orders them
# A completion has one of the first three, and the sum is always 0.25.
_PATTERNS = '(?s).{0,2}', '(?s).{3}', '(?s).{4,}'
_SUM = '+'.join([
    *(f'0.25*format?pattern={verifiers.quote(p)}' for p in _PATTERNS),
    '0.25*exact',
])
_ONE = '(?s)[a-z]?.{0,3}'
_RECORD = tasks.Record('', 'abc', {})


def parts_of(completion, answer):
  """By hand: lengths, and whether it is the answer."""
  size = len(completion)
  mark = completion.strip() == answer.strip()
  return [size <= 2, size == 3, size >= 4, mark]


class VerifierTest(parameterized.TestCase):

  @parameterized.parameters('', 'ab', 'abc', 'abd', 'abcdefg')
  def test_a_sum_says_of_what(self, completion):
    found = verifiers.parse(_SUM)(completion, _RECORD)
    want = parts_of(completion, 'abc')
    self.assertEqual(found.parts, tuple(map(float, want)))
    self.assertEqual(found.score, sum(want) / 4)

  def test_the_guard_passes_them_on(self):
    task = tasks.Task('a', [], [], verifiers.parse(_SUM))
    one = tasks.Task('b', [], [], verifiers.parse('exact'))
    with tasks.Verifier([task, one]) as verifier:
      found = verifier.score([
          ('a', 'abc', _RECORD), ('b', 'abc', _RECORD), ('a', 'x', _RECORD)
      ])
    self.assertEqual(
        [(r.score, r.parts) for r in found],
        [(0.5, (0.0, 1.0, 0.0, 1.0)), (1.0, ()), (0.25, (1.0, 0.0, 0.0, 0.0))],
    )

  def test_names_and_weights(self):
    found = tasks.Rewards.of([
        tasks.Task('a', [], [], verifiers.parse(_SUM)),
        tasks.Task('b', [], [], parts_of),
        tasks.Task('c', [], [], verifiers.parse('0.9*math+0.1*exact')),
    ])
    self.assertEqual(found.names, [
        ['format', 'format2', 'format3', 'exact'], ['parts_of'],
        ['math', 'exact'],
    ])
    np.testing.assert_allclose(
        found.weights_KxM, [[0.25] * 4, [1, 0, 0, 0], [0.9, 0.1, 0, 0]]
    )


class AdvantagesTest(absltest.TestCase):

  def test_a_task_with_fewer_rewards_is_as_by_itself(self):
    rng = np.random.default_rng(0)
    parts = rng.integers(0, 3, (2, 4, G, 3)).astype(np.float32)
    parts[1, :, :, 1:] = 0
    filled = np.ones((2, 4), bool)
    weights = np.array([[0.5, 0.3, 0.2], [1, 0, 0]], np.float32)
    whole = np.asarray(advantages.decoupled(
        jnp.asarray(parts), weights, filled, num_splits=S
    ))
    # Another value at a place that no reward has changes nothing.
    other = parts.copy()
    other[1, :, :, 1:] = rng.random((4, G, 2))
    np.testing.assert_array_equal(whole, advantages.decoupled(
        jnp.asarray(other), weights, filled, num_splits=S
    ))
    alone = np.asarray(advantages.group_advantages(
        jnp.asarray(parts[1:, :, :, 0]), scale='std'
    ))[0]
    for split in (slice(0, 2), slice(2, 4)):
      # The deviation of the split is all that they have in common.
      size = (alone[split] * whole[1, split]).sum() / (alone[split]**2).sum()
      np.testing.assert_allclose(
          whole[1, split], size * alone[split], rtol=1e-6, atol=1e-6
      )
    self.assertAlmostEqual(float(whole[:, :2].std()), 1, 5)

  def test_one_reward_is_one_in_its_group_and_batch(self):
    rewards = np.random.default_rng(1).integers(0, 3, (2, 4, G)) / 2
    rewards[0, :2] = 0.5  # or the deviation of the batch would be 1
    rewards = jnp.asarray(rewards, jnp.float32)
    filled = np.ones((2, 4), bool)
    in_group = advantages.group_advantages(rewards, scale='std')
    want = advantages.scaled(in_group, filled, over='batch', num_splits=S)
    self.assertGreater(float(jnp.abs(want - in_group).max()), 0.1)
    np.testing.assert_array_equal(want, advantages.decoupled(
        rewards[..., None], np.ones((2, 1)), filled, num_splits=S
    ))

  def test_equal_rewards_give_exactly_no_advantage(self):
    parts = np.random.default_rng(2).random((2, 4, 7, 2)).astype(np.float32)
    parts[0, 1] = 0.9, 0.1
    got = np.asarray(advantages.decoupled(
        jnp.asarray(parts), np.full((2, 2), 0.5), np.ones((2, 4), bool),
        num_splits=S,
    ))
    np.testing.assert_array_equal(got[0, 1], 0)
    self.assertGreater(np.abs(got[0, 0]).min(), 0)


class EqualTest(absltest.TestCase):

  def test_parts_tell_apart_what_their_sum_does_not(self):
    parts = np.array([
        [[1, 0], [0, 1]], [[1, 0], [1, 0]], [[1, 0], [1, 1]], [[0, 0], [0, 1]],
    ], np.float32)
    weights = np.array([[0.5, 0.5], [1, 0]], np.float32)
    asked = [('a', None), ('a', None), ('a', None), ('b', None)]
    rewards = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 1], [0, 0]])
    equal = degenerate.equal_parts(('a', 'b'), weights)
    # Of b the second reward has no weight.
    self.assertEqual(
        equal(asked, rewards, parts).tolist(), [False, True, False, True]
    )
    self.assertEqual(
        degenerate.equal_rewards(asked, rewards, parts).tolist(),
        [True, True, False, True],
    )


def config_of(arg):
  config = tiny_config.get_config(
      f'num_steps=2,num_completions={G},data.num_heldout=256,{arg}'
  )
  with config.unlocked():
    config.tasks.short.verifier = _SUM
    config.tasks.long.verifier = (
        f'format?pattern={verifiers.quote(_ONE)}'
    )
  return config


def by_hand(parts_KxBxGxM, weights, filled_KxB):
  """Advantages in float64, one prompt after the other."""
  k, b, g, m = parts_KxBxGxM.shape
  values = np.zeros((k, b, g))
  for i, j, n in np.ndindex(k, b, m):
    own = parts_KxBxGxM[i, j, :, n].astype(np.float64)
    if own.std() > 0:
      values[i, j] += weights[i][n] * (own - own.mean()) / own.std()
  for s in range(S):
    places = slice(s * b // S, (s + 1) * b // S)
    among = values[:, places][filled_KxB[:, places]]
    values[:, places] = (values[:, places] - among.mean()) / among.std()
  return values


@pytest.mark.slow
class RunTest(parameterized.TestCase):

  def run_of(self, arg):
    """What every step sampled and measured, and what it recorded."""
    seen, push = [], record.Recorder.push

    def spy(self, step, sampled, measured, start):
      seen.append((sampled, measured))
      push(self, step, sampled, measured, start)

    workdir = self.create_tempdir().full_path
    with mock.patch.object(record.Recorder, 'push', spy):
      train.train(config_of(arg), workdir)
    written = pathlib.Path(workdir, 'metrics.jsonl').read_text('utf-8')
    lines = map(json.loads, written.splitlines())
    scalars = [
        line['scalars'] for line in lines if 'update_norm' in line.get(
            'scalars', {})
    ]
    return list(zip(seen, scalars, strict=True))

  def hand_scored(self, sampled):
    """Parts of the batch's completions, read off their tokens."""
    batch, tokenizer = sampled.batch, ByT5Tokenizer()
    parts = np.zeros(batch.parts_KxBxGxM.shape)
    for k, b, g in np.ndindex(parts.shape[:3]):
      if not sampled.filled_KxB[k, b]:
        continue
      completion = text.decode(
          tokenizer, np.asarray(batch.tokens_KxBxGxC[k, b, g]),
          np.asarray(batch.mask_KxBxGxC[k, b, g]),
      )
      if k == SHORT:
        # No draw of a random model is the answer.
        parts[k, b, g] = parts_of(completion, 'no answer')
      else:
        parts[k, b, g, 0] = bool(re.fullmatch(_ONE, completion))
    return parts

  def test_advantages_are_those_by_hand(self):
    arg = 'advantage.scale=decoupled,mixture.max_prompts=12'
    weights = [[1, 0, 0, 0], [0.25] * 4]
    for (sampled, measured), scalars in self.run_of(arg):
      filled = sampled.filled_KxB
      self.assertFalse(filled.all())
      parts = self.hand_scored(sampled)
      np.testing.assert_array_equal(sampled.batch.parts_KxBxGxM, parts)
      want = by_hand(parts, weights, filled)[filled]
      got = np.asarray(measured.advantages_KxBxG)[filled]
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
      for k, name in enumerate(NAMES):
        self.assertAlmostEqual(
            scalars[f'abs_advantage/{name}'],
            np.abs(want[k * 8: k * 8 + 8]).mean(), 5,
        )
      means = parts[SHORT][filled[SHORT]].mean((0, 1))
      for m, part in enumerate(('format', 'format2', 'format3', 'exact')):
        self.assertAlmostEqual(
            scalars[f'reward_part/short/{part}'], means[m], 6)
      self.assertFalse([t for t in scalars if t.startswith('reward_part/long')])
      # The sum of its rewards tells no completions apart.
      self.assertEqual(scalars['reward/short'], 0.25)
      self.assertLess(scalars['zero_advantage/short'], 0.5)
      self.assertGreater(scalars['abs_advantage/short'], 1e-3)

  def test_added_first_they_teach_nothing(self):
    for (_, measured), scalars in self.run_of('num_steps=1'):
      self.assertEqual(scalars['zero_advantage/short'], 1)
      np.testing.assert_array_equal(measured.advantages_KxBxG[SHORT], 0)

  def test_refill_replaces_groups_that_no_part_tells_apart(self):
    arg = 'advantage.scale=decoupled,mixture.refill_rounds=2'
    refilled = 0
    for (sampled, _), scalars in self.run_of(arg):
      parts = self.hand_scored(sampled)
      equal_KxB = (parts.max(2) == parts.min(2)).all(-1)
      self.assertEqual(
          equal_KxB.sum(1).tolist(),
          [scalars['unfilled/long'], scalars['unfilled/short']],
      )
      refilled += scalars['refilled/short'] + scalars['refilled/long']
      # All of them have equal sums; that many were not replaced.
      self.assertLess(scalars['refilled/short'], 8)
    self.assertGreater(refilled, 0)

  def test_refused_where_no_task_has_several(self):
    config = tiny_config.get_config('advantage.scale=decoupled')
    with self.assertRaisesRegex(ValueError, 'no task has; take scale='):
      train.train(config, self.create_tempdir().full_path + '/run')

  def test_refused_with_another_baseline(self):
    config = config_of('advantage.scale=decoupled,advantage.baseline=batch')
    with self.assertRaisesRegex(ValueError, "set it to 'group'"):
      train.train(config, self.create_tempdir().full_path + '/run')


if __name__ == '__main__':
  absltest.main()
