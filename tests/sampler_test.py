"""The sampler of a run: queues of one length, memory, and another engine."""

import functools
import inspect
import json
import tempfile

from absl.testing import absltest, parameterized
import jax
import numpy as np
import pages
import pytest
import tiny_config
import torch
from transformers import AutoModelForCausalLM

from gradlens import models, rollout, train
from gradlens.rollout import memory, sampler

_NEW, _LONGEST = 12, 40
_STOPS = (1, 5, 7)


@functools.cache
def _policy():
  model = models.build(models.DecoderConfig(
      model_type='qwen3', vocab_size=30, hidden_size=32, intermediate_size=48,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      head_dim=8, max_position_embeddings=64, initializer_range=0.3,
  ))
  return model, models.init(model, jax.random.key(0))


def _prompts(lengths):
  """Prompts that follow from their length, padded on the left."""
  tokens = np.zeros((len(lengths), _LONGEST), np.int32)
  mask = np.zeros(tokens.shape, bool)
  for row, length in enumerate(lengths):
    own = np.random.default_rng(length).integers(2, 30, length)
    tokens[row, _LONGEST - length :], mask[row, _LONGEST - length :] = own, True
  return tokens, mask


def _make(num_slots=2, **changes):
  options = dict(max_new_tokens=_NEW, temperature=2.0, stop_tokens=_STOPS)
  return rollout.make_sampler(
      _policy()[0], num_slots=num_slots, **(options | changes)
  )


def _keys(lengths):
  """Of each request, from its own length."""
  return jax.numpy.stack([
      jax.random.split(jax.random.key(length), 3) for length in lengths
  ])


def _sample(lengths, **options):
  params = _policy()[1]
  return _make(**options)(params, *_prompts(lengths), _keys(lengths))


class MeshTest(parameterized.TestCase):

  @parameterized.product(sizes=[(2, 2, 2), (4, 2, 1)], num_slots=[None, 8])
  def test_on_a_mesh(self, sizes, num_slots):
    lengths = [3, 40, 16, 17, 5, 33, 20, 16, 9]
    whole = _sample(lengths, num_slots=None)
    mesh = models.make_mesh(*sizes, num_rows=4)
    params = jax.device_put(
        _policy()[1], models.shardings(mesh, models.specs(_policy()[1]))
    )
    divided = _make(num_slots, mesh=mesh)(
        params, *_prompts(lengths), _keys(lengths)
    )
    np.testing.assert_array_equal(whole.tokens_NxGxC, divided.tokens_NxGxC)
    np.testing.assert_array_equal(whole.mask_NxGxC, divided.mask_NxGxC)
    np.testing.assert_allclose(
        whole.logprobs_NxGxC, divided.logprobs_NxGxC, atol=2e-5
    )

  @parameterized.parameters((2, True), (1, False))
  def test_the_cache_is_divided_by_heads(self, tensor, divided):
    mesh = models.make_mesh(1, 8 // tensor, tensor, num_rows=1)
    lengths = [8] * (8 // tensor)
    program = rollout.generate_on(mesh).lower(
        *_policy(), *_prompts(lengths), _keys(lengths),
        max_new_tokens=_NEW, temperature=1.0, stop_tokens=_STOPS,
    ).compile().as_text()
    # Layers, prompts, completions, heads of keys, tokens, width.
    self.assertEqual('f32[2,1,3,1,12,8]' in program, divided)
    self.assertEqual('f32[2,1,3,2,12,8]' in program, not divided)


class QueuesTest(parameterized.TestCase):

  @parameterized.parameters(
      (1, 16), (16, 16), (17, 32), (32, 32), (33, 40), (40, 40)
  )
  def test_a_bucket_follows_from_the_length(self, length, bucket):
    self.assertEqual(sampler.bucket(length, _LONGEST), bucket)

  def test_completions_are_those_of_all_at_once(self):
    lengths = [3, 40, 16, 17, 5, 33, 20, 16, 9]
    whole = _sample(lengths, num_slots=None)
    queued = _sample(lengths)
    np.testing.assert_array_equal(whole.tokens_NxGxC, queued.tokens_NxGxC)
    np.testing.assert_array_equal(whole.mask_NxGxC, queued.mask_NxGxC)
    np.testing.assert_allclose(
        whole.logprobs_NxGxC, queued.logprobs_NxGxC, atol=1e-5
    )
    ends = np.asarray(whole.mask_NxGxC).sum(-1)
    self.assertGreater(len(np.unique(ends)), 4)

  def test_neighbors_their_number_and_order_change_nothing_bit_for_bit(self):
    lengths = [3, 40, 16, 17, 5, 33, 20, 11, 9]
    many = _sample(lengths)
    few = _sample([20, 11, 40])
    for a, b in zip(many, few, strict=True):
      np.testing.assert_array_equal(a[[6, 7, 1]], b)
    self.assertGreater(few.mask_NxGxC.sum(), 9)

  def test_there_are_few_shapes(self):
    sample, params = _make(), _policy()[1]
    draw = np.random.default_rng(0)
    with self.assertLogs('gradlens.rollout.sampler', 'INFO') as logs:
      for _ in range(12):
        lengths = draw.integers(1, _LONGEST + 1, draw.integers(1, 9)).tolist()
        sample(params, *_prompts(lengths), _keys(lengths))
    # 3 buckets, and queues of 2, 4 or 8 prompts.
    self.assertLessEqual(len(logs.output), 9)
    self.assertGreater(len(logs.output), 3)
    self.assertRegex(logs.output[0], r'shape 1, [248] prompts of up to \d+ t')


class MemoryTest(absltest.TestCase):

  def test_bytes_of_the_cache(self):
    model, params = _policy()
    t, c = 16, 5
    tokens, mask = _prompts([4, 7, 9, 2])
    _, read = models.prefill(model, params, tokens[:, -t:], mask[:, -t:])
    cache = models.make_cache(read, mask[:, -t:], 3, c)
    self.assertEqual(
        rollout.cache_bytes(model, params, 4, 3, t, c, None),
        sum(a.nbytes for a in (*cache.prompt, *cache.completion)),
    )
    # With two slots: all prompts, and the two that are decoded.
    first = jax.tree.map(lambda a: a[:, :2], read)
    cache = models.make_cache(first, mask[:2, -t:], 3, c)
    self.assertEqual(
        rollout.cache_bytes(model, params, 4, 3, t, c, 2),
        sum(a.nbytes for a in (*read, *cache.prompt, *cache.completion)),
    )
    half = model._replace(compute=models.Compute(dtype='bfloat16'))
    _, read = models.prefill(half, params, tokens[:, -t:], mask[:, -t:])
    self.assertEqual(read.k.dtype, jax.numpy.bfloat16)
    self.assertEqual(
        2 * rollout.cache_bytes(half, params, 4, 3, t, c, 2),
        rollout.cache_bytes(model, params, 4, 3, t, c, 2),
    )

  def test_a_device_of_a_mesh_has_its_heads_and_a_copy_of_the_model(self):
    model, params = _policy()
    mesh = models.make_mesh(1, 4, 2, num_rows=1)
    sizes = 4, 3, 16, 5, None
    self.assertEqual(
        2 * rollout.cache_bytes(model, params, *sizes, mesh),
        rollout.cache_bytes(model, params, *sizes),
    )
    self.assertEqual(
        2 * memory.gathered_bytes(model, params, mesh),
        sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
    )
    self.assertEqual(memory.gathered_bytes(model, params, None), 0)

  def test_a_device_has_a_copy_of_what_is_cast(self):
    model, params = _policy()
    half = model._replace(compute=models.Compute(dtype='bfloat16'))
    self.assertEqual(
        2 * memory.gathered_bytes(half, params, None),
        sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
    )
    params = params | dict(embed=half.compute.cast(params['embed']))
    self.assertEqual(
        2 * memory.gathered_bytes(half, params, None),
        sum(leaf.nbytes for leaf in jax.tree.leaves(params)
            if leaf.dtype == jax.numpy.float32),
    )

  def test_a_cache_that_cannot_be_is_refused(self):
    with self.assertRaisesRegex(
        ValueError,
        r'2 prompts of 16 tokens, with 3 completions of 1000000000 in 2 slots,'
        r' needs \d+\.\d GB, and \d+\.\d GB are free; lower num_slots',
    ):
      _sample([3, 4], max_new_tokens=10**9)

  def test_a_device_that_tells(self):
    class Device:
      def memory_stats(self):
        return dict(bytes_limit=100, bytes_in_use=30)

    self.assertEqual(memory.free_bytes(Device()), 70)
    own = memory.free_bytes(jax.devices()[0])
    self.assertBetween(own, 1e9, 1e14)


# docs/models.md shows this one.
def make_torch_sampler(
    model, *, max_new_tokens, temperature, stop_tokens, top_k, num_slots
):
  """transformers' `generate` in the place of the sampler."""
  del num_slots

  def sampler(params, prompts_NxT, mask_NxT, keys_NxG):
    with tempfile.TemporaryDirectory() as folder:
      models.save(model, params, folder)
      engine = AutoModelForCausalLM.from_pretrained(folder).eval()
    n, g = keys_NxG.shape
    torch.manual_seed(int(jax.random.bits(keys_NxG[0, 0])))
    found = engine.generate(
        torch.tensor(np.asarray(prompts_NxT)),
        attention_mask=torch.tensor(np.asarray(mask_NxT)),
        max_new_tokens=max_new_tokens, min_new_tokens=max_new_tokens,
        num_return_sequences=g, do_sample=True, temperature=temperature,
        top_k=0, pad_token_id=0, eos_token_id=[],
        output_logits=True, return_dict_in_generate=True,
    )
    tokens = found.sequences[:, prompts_NxT.shape[1] :].numpy()
    logits = torch.stack(found.logits, 1) / temperature
    logprobs = torch.log_softmax(logits, -1).numpy()
    chosen = np.take_along_axis(logprobs, tokens[..., None], -1)[..., 0]
    stopped = np.isin(tokens, stop_tokens)
    # A stop token belongs to its completion; nothing after it does.
    mask = np.cumsum(stopped, axis=1) - stopped == 0
    tokens, chosen = (np.where(mask, a, 0) for a in (tokens, chosen))
    return rollout.Completions(*(
        a.reshape(n, g, -1) for a in (tokens.astype(np.int32), mask, chosen)
    ))

  return sampler


class EngineTest(absltest.TestCase):

  def test_is_what_the_docs_show(self):
    self.assertIn(
        inspect.getsource(make_torch_sampler),
        (pages.ROOT / 'docs/models.md').read_text(),
    )

  @pytest.mark.slow
  def test_a_run_with_another_engine(self):
    config = tiny_config.get_config()
    with config.unlocked():
      config.num_steps = 2
    run = train.train(
        config, self.create_tempdir().full_path,
        make_sampler=make_torch_sampler,
    )
    gaps = [
        run.scalars[tag][2] for tag in run.scalars
        if tag.startswith('sampler_gap/')
    ]
    self.assertLen(gaps, len(config.tasks))
    # Its log-probabilities are the trainer's, of the same parameters.
    self.assertLess(max(gaps), 1e-4)
    samples = json.loads(run.texts['samples/long'][2])
    self.assertTrue(any(sample['completion'] for sample in samples))


if __name__ == '__main__':
  absltest.main()
