"""The sampler against the training forward pass."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import random_models
from scipy import stats
import torch
from transformers.generation import TopKLogitsWarper, TopPLogitsWarper

from gradlens import models, rollout, text
from gradlens.rollout import distribution

_STOP, _NEW = 1, 12


def _setup():
  config = models.DecoderConfig(
      model_type='qwen3', vocab_size=30, hidden_size=32, intermediate_size=48,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      head_dim=8, max_position_embeddings=64, initializer_range=0.3,
  )
  model = models.build(config)
  params = models.init(model, jax.random.key(0))
  tokens = np.random.default_rng(0).integers(2, 30, (5, 8)).astype(np.int32)
  mask = np.ones_like(tokens, bool)
  for row, padding in enumerate((0, 3, 5, 1, 0)):
    mask[row, :padding] = False
  return model, params, np.where(mask, tokens, 0), mask


def _generate(tokens, mask, keys, temperature=0.8, **changes):
  model, params, _, _ = _setup()
  options = dict(
      max_new_tokens=_NEW, temperature=temperature, stop_tokens=(_STOP,)
  )
  return rollout.generate(
      model, params, tokens, mask, keys, **(options | changes)
  )


class RolloutTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.model, self.params, self.tokens, self.mask = _setup()
    self.keys = rollout.request_keys(jax.random.key(3), (5, 4))

  def test_logprobs_are_those_of_the_training_forward_pass(self):
    out = _generate(self.tokens, self.mask, self.keys)
    n, g, c = out.tokens_NxGxC.shape

    def sequences(prompts_NxT, completions_NxGxC):
      prompts = np.repeat(prompts_NxT, g, axis=0)
      return np.concatenate(
          [prompts, np.reshape(completions_NxGxC, (n * g, c))], 1)

    both = sequences(self.tokens, out.tokens_NxGxC)
    seen = sequences(self.mask, out.mask_NxGxC)
    logits = models.logits(
        self.model, self.params, jnp.asarray(both), jnp.asarray(seen), start=7
    )
    scaled = np.asarray(logits, np.float64)[:, :-1] / 0.8
    norm = np.log(np.exp(scaled).sum(-1, keepdims=True))
    want = np.take_along_axis(scaled - norm, both[:, 8:, None], -1)[..., 0]
    sampled = np.reshape(out.mask_NxGxC, (n * g, c))
    logprobs = np.reshape(out.logprobs_NxGxC, (n * g, c))
    self.assertLess(want[sampled].min(), -2)
    np.testing.assert_allclose(
        logprobs[sampled], want[sampled], atol=1e-4
    )

  def test_greedy_with_the_cache_equals_greedy_without(self):
    out = _generate(
        self.tokens, self.mask, self.keys[:, :1], temperature=0.0,
        stop_tokens=(),
    )
    tokens, mask = self.tokens, self.mask
    for _ in range(_NEW):
      logits = models.logits(
          self.model, self.params, jnp.asarray(tokens), jnp.asarray(mask)
      )
      new = np.argmax(logits[:, -1], -1)[:, None].astype(np.int32)
      tokens = np.concatenate([tokens, new], 1)
      mask = np.concatenate([mask, np.ones_like(new, bool)], 1)
    np.testing.assert_array_equal(out.tokens_NxGxC[:, 0], tokens[:, 8:])
    self.assertGreater(len(np.unique(tokens[:, 8:])), 5)

  def test_a_completion_depends_on_its_own_prompt_and_key_only(self):
    whole = _generate(self.tokens, self.mask, self.keys)
    tokens, keys = self.tokens.copy(), self.keys
    tokens[0], keys = 9, keys.at[1:3].set(keys[0])
    other = _generate(tokens, self.mask, keys)
    for a, b in zip(whole, other, strict=True):
      np.testing.assert_array_equal(a[3:], b[3:])
    self.assertFalse(
        np.array_equal(whole.tokens_NxGxC[:3], other.tokens_NxGxC[:3])
    )

  @parameterized.parameters(1, 2, 3)
  def test_slots_change_nothing(self, num_slots):
    # Stops are frequent at this temperature, so slots are refilled unevenly.
    options = dict(temperature=2.0, max_new_tokens=30, stop_tokens=(1, 5, 7))
    whole = _generate(self.tokens, self.mask, self.keys, **options)
    lengths = np.asarray(whole.mask_NxGxC).sum(-1).max(-1)
    self.assertGreater(len(set(lengths.tolist())), 2)
    queued = _generate(
        self.tokens, self.mask, self.keys, num_slots=num_slots, **options
    )
    np.testing.assert_array_equal(whole.mask_NxGxC, queued.mask_NxGxC)
    np.testing.assert_array_equal(whole.tokens_NxGxC, queued.tokens_NxGxC)
    # Across shapes to 1e-5.
    np.testing.assert_allclose(
        whole.logprobs_NxGxC, queued.logprobs_NxGxC, atol=1e-5
    )

  def test_neighbours_and_order_change_nothing_bit_for_bit(self):
    options = dict(
        temperature=2.0, max_new_tokens=30, stop_tokens=(1, 5, 7), num_slots=2
    )
    whole = _generate(self.tokens, self.mask, self.keys, **options)
    order = np.array([3, 0, 4, 2, 1])
    other = _generate(
        self.tokens[order], self.mask[order], self.keys[order], **options
    )
    for a, b in zip(whole, other, strict=True):
      np.testing.assert_array_equal(np.asarray(a)[order], b)

  def test_requests_and_calls_have_keys_of_their_own(self):
    data = jax.random.key_data(self.keys).reshape(20, -1)
    self.assertLen({tuple(key) for key in np.asarray(data)}, 20)
    out = _generate(self.tokens, self.mask, self.keys)
    self.assertLen({tuple(row) for row in np.asarray(out.tokens_NxGxC[0])}, 4)

  @parameterized.parameters((_STOP,), (_STOP, 5, 7))
  def test_stops_after_any_stop_token(self, *stops):
    out = _generate(self.tokens, self.mask, self.keys, temperature=3.0,
                    max_new_tokens=40, stop_tokens=stops)
    seen = set()
    for tokens, mask, logprobs in zip(
        *(np.asarray(a).reshape(20, -1) for a in out), strict=True
    ):
      where = np.flatnonzero(np.isin(tokens, stops))
      length = where[0] + 1 if len(where) else 40
      seen |= set(tokens[where].tolist())
      np.testing.assert_array_equal(mask, np.arange(40) < length)
      np.testing.assert_array_equal(tokens[length:], 0)
      np.testing.assert_array_equal(logprobs[length:], 0)
    self.assertEqual(seen, set(stops))

  @parameterized.parameters(
      dict(), dict(top_k=5), dict(top_p=0.7), dict(top_k=8, top_p=0.6)
  )
  def test_frequencies_are_those_of_the_distribution(self, **cut):
    draws = 100_000
    keys = rollout.request_keys(jax.random.key(5), (1, draws))
    out = _generate(
        self.tokens[:1], self.mask[:1], keys, temperature=2.0,
        max_new_tokens=1, **cut,
    )
    logits = models.logits(self.model, self.params, self.tokens[:1])[0, -1]
    want = _cut(np.asarray(logits, np.float64) / 2.0, **cut)
    sampled = np.asarray(out.tokens_NxGxC).ravel()
    got = np.bincount(sampled, minlength=30)
    self.assertEqual(got[want == 0].sum(), 0)
    self.assertGreater(self.p_value(got, draws * want), 1e-3)
    # And only theirs.
    wrong = _cut(np.asarray(logits, np.float64) / 2.5, **cut)
    self.assertLess(self.p_value(got, draws * wrong), 1e-6)
    np.testing.assert_allclose(
        np.asarray(out.logprobs_NxGxC).ravel(), np.log(want[sampled]), atol=1e-4
    )

  @parameterized.parameters(1, 2, 30, 1000)
  def test_a_token_at_every_height(self, size):
    probs = np.random.default_rng(0).exponential(size=size).astype(np.float32)
    if size > 2:
      probs[::3] = probs[-2:] = 0
    heights = np.append(np.arange(5000), [4999.9999]).astype(np.float32) / 5000
    got = np.asarray(
        distribution.inverse(jnp.asarray(probs)[None], jnp.asarray(heights))
    )
    sums = np.cumsum(probs, dtype=np.float64)
    want = np.searchsorted(sums, heights * sums[-1], side='right')
    # Rounding may move a step by a little.
    near = np.abs(heights[:, None] - sums / sums[-1]).min(1) < 1e-6
    np.testing.assert_array_equal(got[~near], want[~near])
    self.assertLess(near.mean(), 0.01)
    self.assertTrue((probs[got] > 0).all())

  def p_value(self, counts, expected):
    likely = expected > 5
    counts, expected = (
        np.append(a[likely], a[~likely].sum()) for a in (counts, expected)
    )
    there = expected > 0
    return stats.chisquare(counts[there], expected[there]).pvalue

  @parameterized.parameters(
      dict(top_k=1), dict(top_k=7), dict(top_p=0.1), dict(top_p=0.95),
      dict(top_k=12, top_p=0.5),
  )
  def test_cuts_are_those_of_transformers(self, **cut):
    logits = np.random.default_rng(0).normal(size=(50, 30)).astype(np.float32)
    want = torch.tensor(logits) / 0.7
    if 'top_k' in cut:
      want = TopKLogitsWarper(cut['top_k'])(None, want)
    if 'top_p' in cut:
      want = TopPLogitsWarper(cut['top_p'])(None, want)
    got = rollout.sampling_logprobs(jnp.asarray(logits), 0.7, **cut)
    np.testing.assert_allclose(
        jnp.exp(got), want.softmax(-1).numpy(), atol=1e-6
    )

  @parameterized.parameters(
      (dict(max_new_tokens=0), 'max_new_tokens=0 must be at least 1'),
      (dict(temperature=-1.0), 'temperature=-1.0 must be positive, or 0'),
      (dict(top_k=31), 'top_k=31 must be None or between 1 and the vocabulary'),
      (dict(top_k=0), 'top_k=0 must be None or between 1'),
      (dict(top_p=0.0), 'top_p=0.0 must be above 0'),
      (dict(num_slots=0), 'num_slots=0 must be None or at least 1'),
      (dict(stop_tokens=(1, 30)), 'stop token 30 is outside of the vocabulary'),
  )
  def test_what_makes_no_sense_is_refused(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      _generate(self.tokens, self.mask, self.keys, **changes)


class FamiliesTest(parameterized.TestCase):

  @parameterized.product(
      model_type=random_models.FAMILIES, seed=random_models.SEEDS
  )
  def test_greedy_decoding_is_that_of_transformers(self, model_type, seed):
    model, params = random_models.with_params(
        random_models.config(model_type, seed)
    )
    reference = random_models.reference(
        model, params, self.create_tempdir().full_path
    )
    reference.generation_config.eos_token_id = None
    # Prompts of several lengths side by side, for 64 tokens.
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, random_models.VOCAB, n) for n in (9, 4, 2, 6)]
    tokens, mask = text.pad([p.tolist() for p in prompts], 9, left=True)
    out = rollout.generate(
        model, params, jnp.asarray(tokens), jnp.asarray(mask),
        rollout.request_keys(jax.random.key(0), (4, 1)), max_new_tokens=64,
        temperature=0.0, stop_tokens=(),
    )
    for prompt, own in zip(prompts, out.tokens_NxGxC, strict=True):
      with torch.no_grad():
        want = reference.generate(
            torch.tensor(prompt)[None], do_sample=False, max_new_tokens=64,
            pad_token_id=0,
        )
      np.testing.assert_array_equal(own[0], want[0, len(prompt):].numpy())
    self.assertGreater(len(np.unique(out.tokens_NxGxC)), 2)


def _cut(logits, top_k=None, top_p=1.0):
  """The distribution, token by token from the likeliest."""
  probs = np.exp(logits - logits.max())
  probs /= probs.sum()
  order = np.argsort(-probs)[:top_k]
  total, kept = probs[order].sum(), np.zeros_like(probs)
  before = 0.0
  for token in order:
    if before < top_p:
      kept[token] = probs[token]
    before += probs[token] / total
  return kept / kept.sum()


if __name__ == '__main__':
  absltest.main()
