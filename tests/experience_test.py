"""Experience: tokens and rewards belong together, task by task."""

import functools

from absl.testing import absltest, parameterized
import jax
import numpy as np
import pytest
from transformers import ByT5Tokenizer

from gradlens import experience, models, rollout, tasks, text
from gradlens.experience import degenerate, places

K, B, G, T, C = 2, 3, 8, 8, 10
_TOKENIZER = ByT5Tokenizer()  # a byte b is token b + 3; 1 ends a sequence
_STOP = 1
_MODELS_STOP = 60  # an end that the model names, not the tokenizer
_NAMES = ('sums', 'words')
_RECORDS = (
    [tasks.Record(f'{i}+{10 * i}=', str(11 * i), {}) for i in range(B)],
    [tasks.Record('ab' * i + 'c', 'cba'[i:], {}) for i in range(B)],
)


class _Scorer:
  """Scores by a hash of name, completion and record; some it fails on."""

  def __init__(self):
    self.calls = 0

  def score(self, items):
    self.calls += 1
    return [self.result(*item) for item in items]

  def result(self, name, completion, record):
    number = sum(
        i * ord(c) for i, c in enumerate(name + completion + record.prompt, 1)
    )
    error, timeout = dict(sums=(3, 7), words=(11, 2))[name]
    if number % error == 0:
      return tasks.Result(0.0, 'error')
    if number % timeout == 0:
      return tasks.Result(0.0, 'timeout')
    return tasks.Result(number % 11 / 10, 'ok', seconds=number % 7 / 4)


@functools.cache
def _policy():
  # Its 128 tokens are those of ASCII, so that each of them can be read off.
  model = models.build(models.DecoderConfig(
      model_type='qwen3', vocab_size=128, hidden_size=16, intermediate_size=24,
      num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
      head_dim=8, max_position_embeddings=64, initializer_range=0.2,
      eos_token_id=(_MODELS_STOP,),
  ))
  return model, models.init(model, jax.random.key(0))


def _collect(scorer, sampler=None):
  model, _ = _policy()
  own = rollout.make_sampler(
      model, max_new_tokens=C, temperature=1.0,
      stop_tokens=(_STOP, _MODELS_STOP),
  )
  return places.collect(experience.sampled(
      sampler or own, text.prompt_encoder(_TOKENIZER), _TOKENIZER, scorer,
      num_completions=G, max_prompt_tokens=T, max_new_tokens=C,
      stop_tokens=(_STOP, _MODELS_STOP), num_rewards=1,
      equal=degenerate.equal_rewards,
  ), _NAMES)


def _references(prompt, answer):
  return places.collect(experience.references(
      text.prompt_encoder(_TOKENIZER), _TOKENIZER, max_prompt_tokens=prompt,
      max_new_tokens=answer,
  ), _NAMES)


def _text(sampled, *at):
  """Below 3 are the stop token and others that stand for no text."""
  tokens = np.asarray(sampled.batch.tokens_KxBxGxC[at]).tolist()
  length = int(sampled.batch.mask_KxBxGxC[at].sum())
  return ''.join(chr(t - 3) for t in tokens[:length] if t >= 3)


@functools.cache
def _sampled(seed=1):
  _, params = _policy()
  scorer = _Scorer()
  return _collect(scorer)(params, _RECORDS, jax.random.key(seed)), scorer


class ExperienceTestCase(parameterized.TestCase):

  def assert_prompts(self, batch):
    """Those of the records, padded on the left."""
    self.assertEqual(batch.prompts_KxBxT.shape, (K, B, T))
    for k, b in np.ndindex(K, B):
      own = [byte + 3 for byte in _RECORDS[k][b].prompt.encode()]
      padding = T - len(own)
      prompt, mask = batch.prompts_KxBxT[k, b], batch.prompt_mask_KxBxT[k, b]
      self.assertEqual(prompt.tolist(), [0] * padding + own)
      self.assertEqual(mask.tolist(), [False] * padding + [True] * len(own))


@pytest.mark.slow
class SamplerTest(ExperienceTestCase):

  def test_shapes_and_types(self):
    batch = _sampled()[0].batch
    self.assert_prompts(batch)
    for array, dtype in (
        (batch.tokens_KxBxGxC, np.int32), (batch.mask_KxBxGxC, bool),
        (batch.logprobs_KxBxGxC, np.float32),
    ):
      self.assertEqual((array.shape, array.dtype), ((K, B, G, C), dtype))
    self.assertEqual(batch.rewards_KxBxG.shape, (K, B, G))
    self.assertEqual(batch.rewards_KxBxG.dtype, np.float32)

  def test_lengths_and_ends_are_those_of_the_tokens(self):
    sampled, _ = _sampled()
    stopped, stops = 0, set()
    for at in np.ndindex(K, B, G):
      tokens = np.asarray(sampled.batch.tokens_KxBxGxC[at]).tolist()
      length = int(sampled.batch.mask_KxBxGxC[at].sum())
      ends = [i for i, t in enumerate(tokens) if t in (_STOP, _MODELS_STOP)]
      if ends:
        self.assertEqual(ends[0] + 1, length)
        stops.add(tokens[ends[0]])
        stopped += 1
      self.assertEqual(sampled.lengths_KxBxG[at], length)
      self.assertEqual(sampled.drawn.lengths_KxBxG[at], length)
      self.assertEqual(sampled.drawn.truncated_KxBxG[at], not ends)
    self.assertBetween(stopped, 1, K * B * G - 1)
    self.assertEqual(stops, {_STOP, _MODELS_STOP})

  def test_rewards_and_failures_are_of_their_own_task_and_completion(self):
    sampled, scorer = _sampled()
    self.assertEqual(scorer.calls, 1)
    failures = {'error': [0, 0], 'timeout': [0, 0]}
    seconds_K = np.zeros(K)
    for k, b, g in np.ndindex(K, B, G):
      result = scorer.result(
          _NAMES[k], _text(sampled, k, b, g), _RECORDS[k][b]
      )
      self.assertAlmostEqual(
          float(sampled.batch.rewards_KxBxG[k, b, g]), result.score, 6
      )
      seconds_K[k] += result.seconds
      if result.status != 'ok':
        failures[result.status][k] += 1
    self.assertEqual(sampled.errors_K.tolist(), failures['error'])
    self.assertEqual(sampled.timeouts_K.tolist(), failures['timeout'])
    np.testing.assert_array_equal(sampled.verify_seconds_K, seconds_K)
    for counts in failures.values():
      self.assertNotEqual(counts[0], counts[1])

  def test_a_key_gives_its_own_completions(self):
    first, other = _sampled()[0], _sampled(2)[0]
    _, params = _policy()
    again = _collect(_Scorer())(params, _RECORDS, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, again.batch, first.batch)
    of_first, of_other = (
        [_text(sampled, *at) for at in np.ndindex(K, B, G)]
        for sampled in (first, other)
    )
    self.assertNotEqual(of_other, of_first)
    self.assertLen(set(of_first), K * B * G)

  @parameterized.parameters((K * B, G + 1, C), (K * B - 1, G, C))
  def test_an_engine_that_gives_other_completions_is_refused(self, *shape):
    def engine(params, prompts_NxT, mask_NxT, keys_NxG):
      del params, prompts_NxT, mask_NxT, keys_NxG
      return rollout.Completions(*(np.zeros(shape) for _ in range(3)))

    with self.assertRaisesRegex(
        ValueError, rf'{shape[0]}, {shape[1]}, .* 6 prompts with 8 completions'
    ):
      _collect(_Scorer(), engine)(None, _RECORDS, jax.random.key(0))

  def test_a_mask_that_is_none_is_refused(self):
    def engine(params, prompts_NxT, mask_NxT, keys_NxG):
      del params, prompts_NxT, mask_NxT, keys_NxG
      return rollout.Completions(*(np.ones((K * B, G, C), int),) * 3)

    with self.assertRaisesRegex(ValueError, 'mask of int64; it must be bool'):
      _collect(_Scorer(), engine)(None, _RECORDS, jax.random.key(0))

  def test_what_only_fills_the_room_is_not_scored(self):
    model, params = _policy()
    scorer = _Scorer()
    asked = [(_NAMES[0], record) for record in _RECORDS[0]]
    answer = experience.sampled(
        rollout.make_sampler(
            model, max_new_tokens=C, temperature=1.0, stop_tokens=(_STOP,)
        ),
        text.prompt_encoder(_TOKENIZER), _TOKENIZER, scorer, num_completions=G,
        max_prompt_tokens=T, max_new_tokens=C, stop_tokens=(_STOP,),
        num_rewards=1, equal=degenerate.equal_rewards,
    )
    one, more = (
        answer(params, asked, jax.random.key(1), room)()
        for room in (B, B + 4)
    )
    for a, b in zip(*(
        jax.tree.leaves(found._replace(seconds={})) for found in (one, more)
    ), strict=True):
      self.assertLen(b, B + 4)
      # Bit for bit but for what another number of slots rounds otherwise.
      np.testing.assert_allclose(a, b[:B], rtol=1e-5)
    np.testing.assert_array_equal(more.rewards_NxG[B:], 0)
    self.assertFalse(more.errors_NxG[B:].any())
    self.assertTrue(more.prompt_mask_NxT.any(1).all())

  def test_devices_have_their_work_before_anything_is_scored(self):
    model, params = _policy()
    events, scorer = [], _Scorer()
    own = rollout.make_sampler(
        model, max_new_tokens=C, temperature=1.0, stop_tokens=(_STOP,)
    )

    def sampler(*given):
      events.append(scorer.calls)
      return own(*given)

    answer = experience.sampled(
        sampler, text.prompt_encoder(_TOKENIZER), _TOKENIZER, scorer,
        num_completions=G, max_prompt_tokens=T, max_new_tokens=C,
        stop_tokens=(_STOP,), num_rewards=1, equal=degenerate.equal_rewards,
    )
    asked = [(_NAMES[0], record) for record in _RECORDS[0]]
    given = jax.tree.map(jax.numpy.copy, params)
    score = answer(given, asked, jax.random.key(1), B)
    self.assertEqual((events, scorer.calls), ([0], 0))
    # The policy is then written over, whether it is still read or not.
    jax.tree.map(lambda a: a.delete(), given)
    found = score()
    self.assertEqual((events, scorer.calls), ([0], 1))
    expected = answer(params, asked, jax.random.key(1), B)()
    jax.tree.map(
        np.testing.assert_array_equal, found._replace(seconds={}),
        expected._replace(seconds={}),
    )

  def test_seconds(self):
    seconds = _sampled()[0].seconds
    self.assertEqual(set(seconds), {'rollout', 'verify'})
    self.assertGreater(seconds['rollout'], 0)


class ReferencesTest(ExperienceTestCase):

  def test_the_answer_is_the_one_completion(self):
    sampled = _references(T, C)(None, _RECORDS, None)
    batch = sampled.batch
    self.assert_prompts(batch)
    for k, b in np.ndindex(K, B):
      answer = _RECORDS[k][b].answer
      own = [*(byte + 3 for byte in answer.encode()), _STOP]
      rest = C - len(own)
      tokens, mask = batch.tokens_KxBxGxC[k, b], batch.mask_KxBxGxC[k, b]
      self.assertEqual(tokens.tolist(), [own + [0] * rest])
      self.assertEqual(
          mask.tolist(), [[True] * len(own) + [False] * rest]
      )
      self.assertEqual(sampled.lengths_KxBxG[k, b], [len(own)])
    np.testing.assert_array_equal(batch.rewards_KxBxG, np.ones((K, B, 1)))
    self.assertEqual(batch.logprobs_KxBxGxC.shape, (K, B, 1, C))
    self.assertEqual(sampled.errors_K.tolist(), [0] * K)
    self.assertEqual(sampled.timeouts_K.tolist(), [0] * K)

  @parameterized.parameters((4, 4), (5, 3))
  def test_what_does_not_fit_is_never_cut(self, prompt, answer):
    # The longest prompts have 5 bytes, the longest answers 3 and a stop token.
    fits = _references(5, 4)(None, _RECORDS, None)
    self.assertEqual(fits.batch.tokens_KxBxGxC.shape, (K, B, 1, 4))
    with self.assertRaises(ValueError):
      _references(prompt, answer)(None, _RECORDS, None)


if __name__ == '__main__':
  absltest.main()
