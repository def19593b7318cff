"""The instrument is calibrated: where the true answer is known, it says so.

Many independent batches (M) of completions that a small policy sampled go
through the instrumented step at fixed parameters. Where noise is what an
estimate has to withstand, the naive one fails the test that the unbiased one
passes.
"""

import functools

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlens as gl
from gradlens import models, rollout
from gradlens.configs import default
from gradlens.experience import Batch
from gradlens.step import objective, train_step
from gradlens.step.optimizer import make_optimizer

M, K, S, B, G, T, C, V = 64, 3, 4, 16, 6, 3, 2, 16
R = K * S
_NAMES = ('a', 'b', 'c')
_LEVEL = 0.99

pytestmark = pytest.mark.slow


@functools.cache
def _policy():
  model = models.build(models.DecoderConfig(
      model_type='qwen3', vocab_size=V, hidden_size=16, intermediate_size=24,
      num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
      head_dim=8, max_position_embeddings=64, initializer_range=0.2,
  ))
  return model, models.init(model, jax.random.key(0))


@functools.cache
def _batches():
  """One task under three names: the same prompts' and rewards' distribution.

  The reward is the share of tokens in the lower half of the vocabulary. Task c
  has half of its prompts only, and so twice the noise.
  """
  model, params = _policy()
  prompt_key, key = jax.random.split(jax.random.key(1))
  prompts = jax.random.randint(prompt_key, (M * K * B, T), 2, V)
  seen = jnp.ones(prompts.shape, bool)
  out = rollout.generate(
      model, params, prompts, seen,
      rollout.request_keys(key, (M * K * B, G)),
      max_new_tokens=C, temperature=1.0, stop_tokens=(1,),
  )
  prompts, seen, tokens, mask, logprobs = (
      np.array(a).reshape(M, K, B, *a.shape[1:])
      for a in (prompts, seen, *out)
  )
  mask[:, 2, ::2] = False  # every second prompt, in each split alike
  rewards = np.mean(tokens < V // 2, axis=-1, dtype=np.float32)
  return Batch(
      prompts, seen, tokens, mask, logprobs, rewards, rewards[..., None]
  )


@functools.cache
def _instrument():
  """The instrumented step's Gram matrices of each of M batches."""
  model, params = _policy()
  config = default.get_config()
  config.num_splits = S
  optimizer = make_optimizer(config, K, None)
  # Advantages that are not divided by their deviation scale with the rewards.
  step = train_step.make_train_step(
      model, optimizer,
      objective.grpo(advantage_scale='none', clip_low=0.2, clip_high=0.2),
      num_splits=S, temperature=1.0, aggregate='sequence_mean',
      normalize='task', instrument=True,
  )
  state = train_step.TrainState(
      params, optimizer.corrected.init(params), jax.random.key(0), {}, {}
  )
  return jax.jit(functools.partial(
      jax.lax.map, lambda batch: step(state, batch)[1].grams
  ))


def _grams(batch):
  """`{block: [M, R, R]}`, and of all of them together."""
  grams = {}
  for name, gram in jax.device_get(_instrument()(batch)).items():
    for i, block in enumerate(np.moveaxis(gram.reshape(M, -1, R, R), 1, 0)):
      grams[f'{name}.{i}'] = block.astype(np.float64)
  return grams, sum(grams.values())


def _norms(gram_MxRxR, kind):
  """Squared norms of the tasks in each batch: `[M, K]`."""
  gram_MxKxK = gl.task_gram(gram_MxRxR, S, kind=kind)
  return np.diagonal(gram_MxKxK, axis1=1, axis2=2)


def _mean(values_MxK):
  return values_MxK.mean(0)


class CalibrationTest(absltest.TestCase):

  def assert_inside(self, value, interval):
    _, low, high = interval
    np.testing.assert_array_less(low, value)
    np.testing.assert_array_less(value, high)

  def test_shuffled_rewards_have_no_gradient(self):
    batch = _batches()
    rng = np.random.default_rng(2)
    shuffled = batch._replace(
        rewards_KxBxG=rng.permuted(batch.rewards_KxBxG, axis=-1)
    )
    level = 0.999  # there are 15 intervals
    blocks, whole = _grams(shuffled)
    self.assertLen(blocks, 4)  # embedding, two layers, norm
    for grams in (whole, *blocks.values()):
      self.assert_inside(
          0.0, gl.jackknife(_mean, _norms(grams, 'unbiased'), level=level)
      )
      _, low_K, _ = gl.jackknife(_mean, _norms(grams, 'naive'), level=level)
      np.testing.assert_array_less(0.0, low_K)
    # In their own order, the same rewards do have one.
    _, whole = _grams(batch)
    _, low_K, _ = gl.jackknife(_mean, _norms(whole, 'unbiased'), level=level)
    np.testing.assert_array_less(0.0, low_K)

  def test_the_squared_norm_is_that_of_the_gradient(self):
    _, whole = _grams(_batches())
    # Two names have independent noise: their product has the same expectation.
    product_M = gl.task_gram(whole, S)[:, 0, 1]
    unbiased, naive = (
        gl.jackknife(
            _mean, _norms(whole, kind)[:, 0] - product_M, level=_LEVEL
        ) for kind in ('unbiased', 'naive')
    )
    self.assert_inside(0.0, unbiased)
    self.assertGreater(naive[1], 0.0)
    # Without noise, where all splits hold the same, both kinds are exact.
    batch = jax.tree.map(np.copy, _batches())
    for array in batch:
      in_splits = array.reshape(M, K, S, B // S, *array.shape[3:])
      in_splits[:] = in_splits[:, :, :1]
    _, whole = _grams(batch)
    np.testing.assert_allclose(
        _norms(whole, 'unbiased'), _norms(whole, 'naive'), rtol=1e-4
    )

  def test_names_of_one_task_have_one_norm(self):
    _, whole = _grams(_batches())

    def log_ratio(norms_MxK):
      mean_K = norms_MxK.mean(0)
      return np.log(mean_K[1:] / mean_K[0])

    unbiased = gl.jackknife(log_ratio, _norms(whole, 'unbiased'), level=_LEVEL)
    self.assert_inside(0.0, unbiased)
    # The intervals would tell a ratio of 3.
    np.testing.assert_array_less(unbiased[2], np.log(3))
    np.testing.assert_array_less(-np.log(3), unbiased[1])
    # Naive norms take the noise of few prompts for a louder task.
    _, low, _ = gl.jackknife(log_ratio, _norms(whole, 'naive'), level=_LEVEL)
    self.assertGreater(low[1], np.log(1.2))

  def test_a_loss_times_3_has_9_times_the_squared_norm(self):
    batch = _batches()
    _, whole = _grams(batch)
    _, times_3 = _grams(batch._replace(rewards_KxBxG=3 * batch.rewards_KxBxG))
    lengths_MxR = np.sqrt(np.einsum('mrr->mr', whole))
    scale = 9 * lengths_MxR[:, :, None] * lengths_MxR[:, None, :]
    np.testing.assert_allclose(
        times_3 / scale, 9 * whole / scale, rtol=0, atol=1e-5
    )
    # Task b of one run against task a, of other prompts, of another.
    unbiased = [_norms(gram, 'unbiased') for gram in (times_3, whole)]
    interval = gl.jackknife(
        lambda louder_MxK, norms_MxK: np.log(
            louder_MxK[:, 1].mean() / norms_MxK[:, 0].mean()
        ),
        *unbiased, level=_LEVEL,
    )
    self.assert_inside(np.log(9), interval)
    self.assertGreater(interval[1], np.log(3))
    one, three = (
        gl.summarize(gram.mean(0), jnp.ones(K), num_splits=S, names=_NAMES)
        for gram in (whole, times_3)
    )
    for tag, value in one.items():
      factor = 9 if tag.startswith('norm_sq/') else 1
      np.testing.assert_allclose(three[tag], factor * value, rtol=1e-3)

  def test_a_task_twice_has_cosine_1(self):
    batch = jax.tree.map(np.copy, _batches())
    for array in batch:
      array[:, 1] = array[:, 0]
    _, whole = _grams(batch)
    summary = gl.summarize(
        whole.mean(0), jnp.ones(K), num_splits=S, names=_NAMES
    )
    self.assertAlmostEqual(summary['cosine/a/b'], 1.0, places=4)
    norms = [summary[f'norm_sq/unbiased/{name}'] for name in 'ab']
    np.testing.assert_allclose(*norms, rtol=1e-4)
    # Products of equal splits would count the noise that both share.
    unbiased_KxK = gl.task_gram(whole.mean(0), S, kind='unbiased')
    self.assertGreater(gl.cosines(unbiased_KxK)[0, 1], 2.0)

  def test_names_of_one_task_have_cosine_1(self):
    _, whole = _grams(_batches())

    def cosines(gram_MxRxR):
      summary = gl.summarize(
          gram_MxRxR.mean(0), jnp.ones(K), num_splits=S, names=_NAMES
      )
      return [summary[f'cosine/{pair}'] for pair in ('a/b', 'a/c', 'b/c')]

    interval = gl.jackknife(cosines, whole, level=_LEVEL)
    self.assert_inside(1.0, interval)
    np.testing.assert_array_less(0.5, interval[1])

    def naive_cosines(gram_MxRxR):
      return gl.cosines(gl.task_gram(gram_MxRxR.mean(0), S))[0, 1:]

    _, _, high = gl.jackknife(naive_cosines, whole, level=_LEVEL)
    np.testing.assert_array_less(high, 0.8)


if __name__ == '__main__':
  absltest.main()
