"""The feed: quotas hold whatever drops out, and every step can be repeated."""

import hashlib
import json
import types

from absl.testing import absltest, parameterized
import jax
import numpy as np

from gradlens import experience, feed, mixture, rollout, tasks

NAMES = ('a', 'b', 'c')
G, T, C = 4, 3, 5
S = 2


def make_tasks(sizes=(60, 80, 50)):
  return [
      tasks.Task(
          name, [tasks.Record(f'{name}{i}', '', {}) for i in range(size)], [],
          verify=str.__eq__,
      ) for name, size in zip(NAMES, sizes, strict=True)
  ]


def number(record):
  """Of a prompt, and what stands for its tokens."""
  digest = hashlib.sha256(record.prompt.encode()).digest()
  return int.from_bytes(digest[:3], 'big')


class Engine:
  """Answers whose rewards follow from prompt and key; some prompts have equal
  rewards only, one in so many of each task."""

  def __init__(self, equal=(3, 2, 10**9)):
    self.equal = dict(zip(NAMES, equal, strict=True))
    self.calls = []

  def __call__(self, params, asked, key, room):
    del params
    return lambda: self.found(asked, key, room)

  def found(self, asked, key, room):
    data = int(np.asarray(jax.random.key_data(key)).astype(np.uint32)[-1])
    self.calls.append(([record.prompt for _, record in asked], data, room))
    numbers = np.array([number(record) for _, record in asked])
    rewards = np.zeros((room, G), np.float32)
    for n, (name, _) in enumerate(asked):
      if numbers[n] % self.equal[name]:
        rewards[n] = np.random.default_rng(
            [numbers[n], data]).permutation(G) / 4
    prompts = np.zeros((room, T), np.int32)
    prompts[:len(asked), 0] = numbers
    mask = np.ones((room, G, C), bool)
    asked_Nx1 = (np.arange(room) < len(asked))[:, None]
    return experience.Found(
        prompts, prompts > 0,
        rollout.Completions(
            np.broadcast_to(prompts[:, :1, None], mask.shape), mask,
            np.zeros(mask.shape, np.float32),
        ),
        rewards, rewards[..., None], rewards.max(1) == rewards.min(1),
        np.full((room, G), C) * asked_Nx1,
        np.zeros((room, G), bool), asked_Nx1 & (rewards == 0.25),
        asked_Nx1 & (rewards == 0.5), asked_Nx1 * (1 + rewards),
        dict(rollout=1.0, verify=0.5),
    )


def measured(sampled, step):
  """What a step might have measured: other numbers in each."""
  rng = np.random.default_rng(step)
  rows = rng.normal(size=(3 * S, 7))
  quotas = sampled.filled_KxB.sum(1)
  rewards = np.asarray(sampled.batch.rewards_KxBxG)
  return types.SimpleNamespace(
      advantages_KxBxG=rewards - rewards.mean(2, keepdims=True),
      grams=dict(a=rows @ rows.T), shares_K=quotas / quotas.sum(),
  )


def make(kind='uniform', rounds=0, engine=None, state=None, sizes=(60, 80, 50),
         max_prompts=14, **kwargs):
  mix = mixture.Mixture(
      make_tasks(sizes), 8, 0, num_splits=S, max_prompts=max_prompts, kind=kind,
      kwargs=kwargs,
  )
  engine = Engine() if engine is None else engine
  state = mix.init() if state is None else mix.restore(state)
  fed = feed.Feed(
      mix, engine, NAMES, state, num_splits=S, refill_rounds=rounds
  )
  return fed, engine


def run(fed, steps, first=0):
  """What each step was given."""
  found = []
  for step in range(first, first + steps):
    sampled = fed.sample(None, jax.random.fold_in(jax.random.key(7), step))
    fed.learn(sampled, measured(sampled, step))
    found.append(sampled)
  return found


KINDS = (
    ('uniform', {}), ('fixed', dict(shares=dict(a=5, b=2, c=1))),
    ('gradient', dict(smoothing=0.5)), ('sec', dict(temperature=0.05)),
    ('dump', {}), ('aligned', dict(temperature=0.02)),
    ('mt_grpo', dict(learning_rate=0.5)), ('pac', dict(cold_steps=3)),
)


class QuotaTest(parameterized.TestCase):

  @parameterized.product(kind=KINDS, rounds=(0, 2))
  def test_hold_after_refill_and_resume(self, kind, rounds):
    name, kwargs = kind
    whole, engine = make(name, rounds, **kwargs)
    expected = run(whole, 10)
    seen = set()
    for sampled in expected:
      quotas = sampled.filled_KxB.sum(1)
      seen.add(tuple(quotas))
      self.assertEqual(quotas.sum(), 24)
      self.assertFalse((quotas % S).any())
      of_split = sampled.filled_KxB.reshape(3, S, -1).sum(2)
      np.testing.assert_array_equal(of_split, quotas[:, None] // S * [[1, 1]])
      # The prompts are different ones, and of their own task.
      for k, task in enumerate(make_tasks()):
        own = sampled.batch.prompts_KxBxT[k, sampled.filled_KxB[k], 0].tolist()
        self.assertLen(set(own), quotas[k])
        self.assertContainsSubset(own, map(number, task.train))
    self.assertEqual(len(seen) > 1, name not in ('uniform', 'fixed'))
    # From any step on, out of a file, the same prompts at the same keys.
    first = 5
    part, before = make(name, rounds, **kwargs)
    run(part, first)
    state = json.loads(json.dumps(part.state()))
    again, after = make(name, rounds, state=state, **kwargs)
    self.assertEqual(again.step, first)
    found = run(again, 10 - first, first)
    self.assertEqual(before.calls + after.calls, engine.calls)
    jax.tree.map(np.testing.assert_array_equal, found, expected[first:])
    self.assertEqual(
        json.dumps(again.state()), json.dumps(whole.state())
    )

  def test_prompts_are_those_of_the_mixture_without_refill(self):
    fed, engine = make()
    run(fed, 3)
    mix = mixture.Mixture(make_tasks(), 8, 0)
    state = mix.init()
    for prompts, _, room in engine.calls:
      draw, state = mix.draw(state)
      self.assertEqual(
          prompts, [r.prompt for own in draw.records for r in own]
      )
      self.assertEqual(room, 24)


class RefillTest(parameterized.TestCase):

  def test_others_of_the_same_task_take_their_places(self):
    plain, _ = make()
    fed, engine = make(rounds=20)
    before, after = run(plain, 1)[0], run(fed, 1)[0]
    equal = np.asarray(before.batch.rewards_KxBxG)
    equal = (equal.max(2) == equal.min(2)) & before.filled_KxB
    self.assertEqual(equal.any(1).tolist(), [True, True, False])
    got = np.asarray(after.batch.rewards_KxBxG)
    self.assertTrue((got.max(2) > got.min(2))[after.filled_KxB].all())
    self.assertEqual(after.unfilled_K.tolist(), [0, 0, 0])
    # Those that had an advantage stay where they are.
    kept = before.filled_KxB & ~equal
    for a, b in zip(before.batch, after.batch, strict=True):
      np.testing.assert_array_equal(np.asarray(a)[kept], np.asarray(b)[kept])
    self.assertTrue((
        after.batch.prompts_KxBxT[equal] != before.batch.prompts_KxBxT[equal]
    ).any(-1).all())
    # Rewards and tokens belong to the prompts that are there.
    tokens = np.asarray(after.batch.tokens_KxBxGxC)[..., 0, 0]
    np.testing.assert_array_equal(
        tokens[after.filled_KxB],
        after.batch.prompts_KxBxT[..., 0][after.filled_KxB],
    )
    by_number = {number(r): r for t in make_tasks() for r in t.train}
    sampled_at = {}
    for prompts, data, _ in engine.calls:
      sampled_at |= dict.fromkeys(prompts, data)
    for k, b in np.argwhere(after.filled_KxB):
      prompt = by_number[after.batch.prompts_KxBxT[k, b, 0]].prompt
      rng = np.random.default_rng(
          [after.batch.prompts_KxBxT[k, b, 0], sampled_at[prompt]])
      np.testing.assert_array_equal(got[k, b], rng.permutation(G) / 4)
    # What was drawn first is told as it was.
    jax.tree.map(np.testing.assert_array_equal, after.drawn, before.drawn)

  def test_what_is_counted(self):
    fed, engine = make(rounds=2)
    for sampled in run(fed, 6):
      calls = []
      while engine.calls and (not calls or engine.calls[0][2] < 24 or
                              len(engine.calls[0][0]) < 24):
        calls.append(engine.calls.pop(0))
      further = [p for prompts, _, _ in calls[1:] for p in prompts]
      self.assertEqual(
          sampled.refilled_K.tolist(),
          [sum(p[0] == name for p in further) for name in NAMES],
      )
      rewards = np.asarray(sampled.batch.rewards_KxBxG)
      left = (rewards.max(2) == rewards.min(2)) & sampled.filled_KxB
      self.assertEqual(sampled.unfilled_K.tolist(), left.sum(1).tolist())
      # One time-out and one error with each group that has rewards of all
      # kinds, those that took no place included.
      unequal = np.array([
          sum(number(tasks.Record(p, '', {})) % engine.equal[name] != 0
              for prompts, _, _ in calls for p in prompts if p[0] == name)
          for name in NAMES
      ])
      np.testing.assert_array_equal(sampled.errors_K, unequal)
      np.testing.assert_array_equal(sampled.timeouts_K, unequal)
      # Each completion takes a second, and its reward in seconds.
      asked = [
          sum(p[0] == name for prompts, _, _ in calls for p in prompts)
          for name in NAMES
      ]
      np.testing.assert_array_equal(
          sampled.verify_seconds_K, G * np.array(asked) + 1.5 * unequal
      )
      self.assertEqual(
          sampled.seconds,
          dict(rollout=1.0 * len(calls), verify=0.5 * len(calls)),
      )

  def test_rounds_have_keys_of_their_own(self):
    fed, engine = make(rounds=3, engine=Engine((1, 1, 1)))
    run(fed, 2)
    self.assertLen(engine.calls, 8)
    self.assertLen({data for _, data, _ in engine.calls}, 8)
    # And they are none of the completions' keys.
    key = jax.random.fold_in(jax.random.key(7), 0)
    own = np.asarray(jax.random.key_data(rollout.request_keys(key, (24, G))))
    own = set(own[..., -1].ravel().tolist())
    self.assertEmpty(own & {data for _, data, _ in engine.calls})

  def test_a_round_is_of_few_sizes(self):
    rooms = set()
    for equal in ((1, 1, 1), (2, 2, 2), (4, 4, 4), (9, 9, 9), (30, 30, 30)):
      fed, engine = make(rounds=3, engine=Engine(equal))
      run(fed, 4)
      for prompts, _, room in engine.calls:
        self.assertLessEqual(len(prompts), room)
        if room > 3:
          self.assertGreater(2 * len(prompts), room - 1)
        rooms.add(room)
    self.assertEqual(rooms, {24, 12, 6, 3})

  @parameterized.parameters(1, 2, 5, 8)
  def test_a_round_of_few_prompts(self, prompts):
    all_tasks = make_tasks()[:1]
    mix = mixture.Mixture(all_tasks, prompts, 0)
    engine = Engine((1, 1, 1))
    fed = feed.Feed(
        mix, engine, NAMES[:1], mix.init(), num_splits=1, refill_rounds=1
    )
    sampled = fed.sample(None, jax.random.key(0))
    self.assertEqual(sampled.refilled_K.tolist(), [prompts])
    self.assertEqual([room for _, _, room in engine.calls], [prompts] * 2)
    engine.equal['a'] = 2
    fed.sample(None, jax.random.key(1))
    first = engine.calls[2][0]
    equal = sum(number(tasks.Record(p, '', {})) % 2 == 0 for p in first)
    if equal:
      self.assertBetween(engine.calls[3][2], equal, max(1, 2 * equal))

  def test_a_task_may_run_out(self):
    # b has no prompt with an advantage, and 10 in all: 8, and 2 more.
    fed, engine = make(
        rounds=5, engine=Engine((10**9, 1, 10**9)), sizes=(60, 10, 50),
        max_prompts=8,
    )
    for sampled in run(fed, 3):
      self.assertEqual(sampled.refilled_K.tolist(), [0, 2, 0])
      self.assertEqual(sampled.unfilled_K.tolist(), [0, 8, 0])
      self.assertTrue(sampled.filled_KxB.all())
    self.assertLen(engine.calls, 6)

  def test_splits_stay_independent(self):
    # In a round every such place is given one further prompt, and no place more
    # because another needs fewer.
    fed, _ = make(rounds=1, engine=Engine((2, 10**9, 10**9)))
    for sampled in run(fed, 10):
      before = sampled.drawn.rewards_KxBxG[0]
      equal = (before.max(1) == before.min(1))[sampled.filled_KxB[0]]
      self.assertEqual(sampled.refilled_K[0], equal.sum())


class LagTest(parameterized.TestCase):

  def quotas(self, **changes):
    """With another measurement at one step, of quotas by step."""
    fed, _ = make('sec', engine=Engine((10**9,) * 3), learning_rate=1.0)
    found = []
    for step in range(8):
      sampled = fed.sample(None, jax.random.key(step))
      told = measured(sampled, step)
      # Nothing that follows from what was drawn.
      told.advantages_KxBxG = np.ones((3, 14, G)) * np.random.default_rng(
          [step, changes.get('at') == step]).uniform(size=(3, 1, 1))
      fed.learn(sampled, told)
      found.append(sampled.filled_KxB.sum(1).tolist())
    return found

  @parameterized.parameters(0, 3, 5)
  def test_a_step_tells_in_the_step_after_the_next(self, at):
    expected, found = self.quotas(), self.quotas(at=at)
    self.assertEqual(found[:at + 2], expected[:at + 2])
    self.assertNotEqual(found[at + 2], expected[at + 2])
    # The rate is 1: it is then forgotten.
    self.assertEqual(found[at + 3:], expected[at + 3:])


class ObserveTest(parameterized.TestCase):

  def test_by_hand(self):
    filled = np.array([[True, True, False, False], [True] * 4])
    first = np.zeros((2, 4, 2), np.float32)
    first[0, 0], first[1, 1], first[1, 2] = [1, 0], [0.5, 0.25], [1, 1]
    final = first.copy()
    final[0, 1] = [1, 0]  # took the place of [0, 0]
    advantages = np.zeros((2, 4, 2))
    advantages[0, :2], advantages[1, 1] = [2, -1], [1, -1]
    advantages[0, 2:] = 100  # of no prompt
    sampled = types.SimpleNamespace(
        filled_KxB=filled, drawn=types.SimpleNamespace(
            rewards_KxBxG=first, equal_KxB=first.max(2) == first.min(2)
        ), equal_KxB=final.max(2) == final.min(2),
    )
    rows = np.array([[[1.0, 0], [2, 1]], [[0, 1], [4, 0]]])  # [K, S, N]
    flat = rows.reshape(4, 2)
    told = types.SimpleNamespace(
        advantages_KxBxG=advantages, grams=dict(x=flat @ flat.T),
        shares_K=np.array([0.25, 0.5]),
    )
    seen = feed.observe(sampled, told, 2, 'unbiased')
    self.assertEqual(seen.completions_K, [4, 8])
    np.testing.assert_allclose(seen.rewards_K, [0.25, 2.75 / 8])
    # 1.5 of those that are there; of those drawn first, half had an advantage.
    np.testing.assert_allclose(seen.abs_advantages_K, [0.75, 0.25])
    # Twice the inner product of the halves, times two: 8 and 0; and between the
    # sums, (3, 1) and (4, 1).
    np.testing.assert_allclose(
        seen.grams['unbiased'], [[8 * 16, 13 * 8], [13 * 8, 0]]
    )
    naive = feed.observe(sampled, told, 2, 'naive').grams['naive']
    np.testing.assert_allclose(naive, [[160, 104], [104, 68]])
    self.assertIsNone(feed.observe(sampled, told, 2, 'rewards').grams)
    told.grams = None
    self.assertIsNone(feed.observe(sampled, told, 2, 'naive').grams)

  def test_nothing_is_rescaled_without_refill(self):
    # Equal rewards in some groups, and advantages there too, as of a baseline
    # of all prompts.
    fed, _ = make()
    sampled = run(fed, 1)[0]
    told = measured(sampled, 0)
    rewards = np.asarray(sampled.batch.rewards_KxBxG, np.float64)
    self.assertTrue((rewards.max(2) == rewards.min(2))[:2].any(1).all())
    told.advantages_KxBxG = rewards - 0.3
    want = [
        np.abs(rewards[k, sampled.filled_KxB[k]] - 0.3).mean() for k in range(3)
    ]
    np.testing.assert_allclose(
        feed.observe(sampled, told, S, 'rewards').abs_advantages_K, want,
        rtol=1e-12,
    )

  def test_a_task_without_prompts_is_not_known(self):
    fed, _ = make('fixed', shares=dict(a=1, b=1, c=0))
    sampled = run(fed, 1)[0]
    told = measured(sampled, 0)
    seen = json.loads(json.dumps(
        feed.observe(sampled, told, S, 'unbiased')._asdict()))
    self.assertEqual(seen['completions_K'], [48, 48, 0])
    for values in (seen['rewards_K'], seen['abs_advantages_K']):
      self.assertEqual([v is None for v in values], [False, False, True])
    gram = seen['grams']['unbiased']
    self.assertEqual([v is None for v in gram[2]], [True] * 3)
    self.assertEqual([v is None for v in gram[0]], [False, False, True])
    # Nor is its norm 0 where all tasks have the same share of the loss.
    told.shares_K = np.full(3, 1 / 3)
    gram = feed.observe(sampled, told, S, 'naive').grams['naive']
    self.assertEqual(gram[2], [None] * 3)
    self.assertEqual([v is None for v in gram[0]], [False, False, True])


if __name__ == '__main__':
  absltest.main()
