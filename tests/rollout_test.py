"""The sampler against the training forward pass."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from gradlens import models, rollout

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
      max_new_tokens=_NEW, temperature=temperature, stop_token=_STOP
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
        self.tokens, self.mask, self.keys[:, :1], temperature=0.0, stop_token=-1
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

  def test_requests_and_calls_have_keys_of_their_own(self):
    data = jax.random.key_data(self.keys).reshape(20, -1)
    self.assertLen({tuple(key) for key in np.asarray(data)}, 20)
    out = _generate(self.tokens, self.mask, self.keys)
    self.assertLen({tuple(row) for row in np.asarray(out.tokens_NxGxC[0])}, 4)

  def test_stops_after_the_stop_token(self):
    out = _generate(self.tokens, self.mask, self.keys, temperature=3.0,
                    max_new_tokens=40)
    stopped = 0
    for tokens, mask, logprobs in zip(
        *(np.asarray(a).reshape(20, -1) for a in out), strict=True
    ):
      where = np.flatnonzero(tokens == _STOP)
      length = where[0] + 1 if len(where) else 40
      stopped += length < 40
      np.testing.assert_array_equal(mask, np.arange(40) < length)
      np.testing.assert_array_equal(tokens[length:], 0)
      np.testing.assert_array_equal(logprobs[length:], 0)
    self.assertGreater(stopped, 5)

  def test_frequencies_are_those_of_the_distribution(self):
    keys = rollout.request_keys(jax.random.key(5), (1, 4000))
    out = _generate(
        self.tokens[:1], self.mask[:1], keys, temperature=2.0, max_new_tokens=1
    )
    logits = models.logits(self.model, self.params, self.tokens[:1])[0, -1]
    want = jax.nn.softmax(logits / 2.0)
    got = np.bincount(np.asarray(out.tokens_NxGxC).ravel(), minlength=30) / 4000
    # Four standard deviations of a frequency; the wrong temperature is far off.
    margin = 4 * np.sqrt(want * (1 - want) / 4000) + 1e-3
    np.testing.assert_array_less(np.abs(got - want), margin)
    wrong = np.asarray(jax.nn.softmax(logits))
    self.assertGreater(np.max(np.abs(wrong - want) - margin), 0.0)


if __name__ == '__main__':
  absltest.main()
