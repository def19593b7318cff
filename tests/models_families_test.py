"""Every family against transformers' torch models: the numbers, the sizes."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import random_models
from random_models import LENGTH, VOCAB
from safetensors.numpy import load_file
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    ByT5Tokenizer,
    Gemma3ForConditionalGeneration,
)

from gradlens import models
from gradlens.models import config as config_lib

every_model = parameterized.product(
    model_type=random_models.FAMILIES, seed=random_models.SEEDS
)

# config.json of published models, and how many parameters these have.
PUBLISHED = {
    'Qwen2.5-0.5B': (494_032_768, dict(
        model_type='qwen2', vocab_size=151936, hidden_size=896,
        intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=32768,
        rope_theta=1e6, tie_word_embeddings=True, use_sliding_window=False,
    )),
    'Qwen2.5-3B': (3_085_938_688, dict(
        model_type='qwen2', vocab_size=151936, hidden_size=2048,
        intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=2, max_position_embeddings=32768,
        rope_theta=1e6, tie_word_embeddings=True, use_sliding_window=False,
    )),
    'Qwen2.5-7B': (7_615_616_512, dict(
        model_type='qwen2', vocab_size=152064, hidden_size=3584,
        intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_position_embeddings=131072,
        rope_theta=1e6, tie_word_embeddings=False, use_sliding_window=False,
    )),
    'Qwen3-1.7B': (1_720_574_976, dict(
        model_type='qwen3', vocab_size=151936, hidden_size=2048,
        intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960,
        rope_theta=1e6, rope_scaling=None, tie_word_embeddings=True,
        attention_bias=False, use_sliding_window=False,
    )),
    'Llama-3.1-8B': (8_030_261_248, dict(
        model_type='llama', vocab_size=128256, hidden_size=4096,
        intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072,
        rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=dict(
            rope_type='llama3', factor=8.0, low_freq_factor=1.0,
            high_freq_factor=4.0, original_max_position_embeddings=8192,
        ), tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
    )),
    'Llama-3.2-3B': (3_212_749_824, dict(
        model_type='llama', vocab_size=128256, hidden_size=3072,
        intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=131072,
        rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=dict(
            rope_type='llama3', factor=32.0, low_freq_factor=1.0,
            high_freq_factor=4.0, original_max_position_embeddings=8192,
        ), tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
    )),
    # Of 4,300,079,472 with its images.
    'Gemma-3-4B': (3_880_263_168, dict(
        model_type='gemma3', text_config=dict(
            model_type='gemma3_text', hidden_size=2560, intermediate_size=10240,
            num_hidden_layers=34, num_attention_heads=8, num_key_value_heads=4,
            head_dim=256, sliding_window=1024, vocab_size=262208,
            rope_scaling=dict(rope_type='linear', factor=8.0),
        ),
    )),
}


def tokens():
  return np.random.default_rng(0).integers(3, VOCAB, (2, LENGTH))


def loss_mask():
  """True on a run of each sequence."""
  index = np.arange(LENGTH - 1)
  return (index >= [[5], [17]]) & (index < [[40], [30]])


class FamiliesTest(parameterized.TestCase):

  def relative(self, got, want):
    return np.abs(got - want).max() / np.abs(want).max()

  def test_seeds_cover_every_option(self):
    for model_type in random_models.FAMILIES:
      configs = [
          random_models.config(model_type, seed) for seed in random_models.SEEDS
      ]
      for option in configs[0].family.options:
        self.assertTrue(any(getattr(c, option) for c in configs), option)
      self.assertLen({c.tie_word_embeddings for c in configs}, 2)
      self.assertLen({c.rope_scaling for c in configs}, 3)

  @every_model
  def test_logits_are_those_of_transformers(self, model_type, seed):
    model, params = random_models.with_params(
        random_models.config(model_type, seed)
    )
    reference = random_models.reference(
        model, params, self.create_tempdir().full_path
    )
    with torch.no_grad():
      want = reference(torch.tensor(tokens())).logits.numpy()
    got = np.asarray(models.logits(model, params, jnp.asarray(tokens())))
    self.assertGreater(np.abs(want).max(), 1.0)
    self.assertLess(self.relative(got, want), 1e-4)

  @every_model
  def test_gradients_are_those_of_transformers(self, model_type, seed):
    model, params = random_models.with_params(
        random_models.config(model_type, seed)
    )
    folder = self.create_tempdir().full_path
    reference = random_models.reference(model, params, folder)
    logprobs = reference(torch.tensor(tokens())).logits[:, :-1].log_softmax(-1)
    chosen = logprobs.gather(-1, torch.tensor(tokens())[:, 1:, None])[..., 0]
    (chosen * torch.tensor(loss_mask())).sum().backward()

    @jax.grad
    def gradient(params):
      logits = models.logits(model, params, jnp.asarray(tokens()))[:, :-1]
      chosen = jnp.take_along_axis(
          jax.nn.log_softmax(logits), jnp.asarray(tokens())[:, 1:, None], -1
      )
      return jnp.sum(chosen[..., 0] * loss_mask())

    models.save(model, gradient(params), folder, ByT5Tokenizer())
    got = load_file(f'{folder}/model.safetensors')
    want = {
        name: parameter.grad.numpy()
        for name, parameter in reference.named_parameters()
    }
    self.assertEqual(got.keys(), want.keys())
    for name, own in got.items():
      self.assertGreater(np.abs(want[name]).max(), 0, name)
      self.assertLess(self.relative(own, want[name]), 1e-3, name)

  @every_model
  def test_models_come_back_from_disk(self, model_type, seed):
    model, params = random_models.with_params(
        random_models.config(model_type, seed)
    )
    folder = self.create_tempdir().full_path
    models.save(model, params, folder, ByT5Tokenizer())
    again, got = models.load(folder)
    self.assertEqual(again, model)
    jax.tree.map(np.testing.assert_array_equal, got, params)

  def test_reads_the_language_model_of_a_gemma_with_images(self):
    text = models.to_huggingface(random_models.config('gemma3_text', 0))
    config = AutoConfig.for_model(
        'gemma3', text_config=text.to_dict(), mm_tokens_per_image=4,
        vision_config=dict(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, image_size=16, patch_size=8,
        ),
    )
    torch.manual_seed(0)
    theirs = Gemma3ForConditionalGeneration(config).eval()
    folder = self.create_tempdir().full_path
    theirs.save_pretrained(folder)
    model, params = models.load(folder)
    with torch.no_grad():
      want = theirs(torch.tensor(tokens())).logits.numpy()
    got = np.asarray(models.logits(model, params, jnp.asarray(tokens())))
    self.assertLess(self.relative(got, want), 1e-4)

  @parameterized.parameters(*PUBLISHED)
  def test_published_models_have_their_number_of_parameters(self, name):
    published, fields = PUBLISHED[name]
    hf = AutoConfig.for_model(**fields)
    config = models.from_huggingface(hf)
    shapes = jax.eval_shape(
        lambda: models.init(models.build(config), jax.random.key(0))
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    self.assertEqual(count, published)
    with torch.device('meta'):
      theirs = AutoModelForCausalLM.from_config(
          models.to_huggingface(config)
      )
    self.assertEqual(count, theirs.num_parameters())

  def test_llama3_scaling_leaves_short_waves_alone(self):
    config = models.from_huggingface(
        AutoConfig.for_model(**PUBLISHED['Llama-3.1-8B'][1])
    )
    plain = 500000.0 ** (-np.arange(64) / 64)
    got = models.positions.frequencies(config, config_lib.FULL)
    waves = 2 * np.pi / plain
    short, long = waves < 8192 / 4, waves > 8192
    self.assertTrue(short.any() and long.any() and not (short | long).all())
    np.testing.assert_allclose(got[short], plain[short], rtol=1e-6)
    np.testing.assert_allclose(got[long], plain[long] / 8, rtol=1e-6)
    between = ~short & ~long
    self.assertTrue((got[between] < plain[between]).all())
    self.assertTrue((got[between] > plain[between] / 8).all())


class RefusedTest(parameterized.TestCase):

  @parameterized.parameters(
      ('llama', dict(mlp_bias=True), 'mlp_bias=True is not supported'),
      ('llama', dict(pretraining_tp=2), 'pretraining_tp=2 is not supported'),
      ('qwen2', dict(hidden_act='gelu'), "hidden_act='gelu' is not supported"),
      ('gemma3_text', dict(hidden_activation='silu'),
       "hidden_activation='silu' is not supported"),
      ('gemma3_text', dict(final_logit_softcapping=30.0),
       'final_logit_softcapping=30.0 is not supported'),
      ('gemma3_text', dict(use_bidirectional_attention=True),
       'use_bidirectional_attention=True is not supported'),
      ('llama', dict(rope_parameters=dict(
          rope_type='yarn', rope_theta=1e4, factor=2.0)),
       "rope_type='yarn' is not supported"),
      ('llama', dict(rope_parameters=dict(
          rope_type='default', rope_theta=1e4, partial_rotary_factor=0.5)),
       'partial_rotary_factor=0.5 is not supported'),
      ('gemma3_text', dict(rope_parameters=dict(
          full_attention=dict(rope_type='default', rope_theta=1e6),
          sliding_attention=dict(
              rope_type='linear', rope_theta=1e4, factor=2.0))),
       "rope_type='linear' of sliding_attention is not supported"),
      ('qwen3', dict(layer_types=['chunked_attention'] * 3),
       'layer_types holds chunked_attention'),
  )
  def test_options_that_are_not_built(self, model_type, changes, message):
    hf = models.to_huggingface(random_models.config(model_type, 0))
    for key, value in changes.items():
      setattr(hf, key, value)
    with self.assertRaisesRegex(ValueError, message):
      models.from_huggingface(hf)

  @parameterized.parameters(
      ('gpt2', {}, "model_type='gpt2' is not supported; choose one of"),
      ('qwen2', dict(attention_bias=True),
       'attention_bias=True is no option of qwen2'),
      ('llama', dict(layer_types=(config_lib.SLIDING,) * 2, sliding_window=4),
       'layer_types=.* is no option of llama'),
      ('qwen3', dict(rope_local_base_freq=1e4),
       'rope_local_base_freq=10000.0 is no option of qwen3'),
      ('qwen3', dict(layer_types=(config_lib.SLIDING,) * 2),
       'sliding_window=None must be at least 1'),
      ('qwen3', dict(layer_types=(config_lib.SLIDING,), sliding_window=4),
       'layer_types has 1 entries for num_hidden_layers=2'),
      ('llama', dict(rope_scaling=dict(rope_type='llama3', factor=2.0)),
       'rope_scaling has low_freq_factor=None; llama3 takes factor, low'),
      ('llama', dict(rope_scaling=dict(rope_type='linear', factor=2.0,
                                       high_freq_factor=4.0)),
       'rope_scaling has high_freq_factor=4.0; linear takes factor'),
      ('llama', dict(rope_scaling=dict(type='linear', factor=2.0)),
       'rope_scaling=.* is not supported; it takes rope_type, factor'),
      ('llama', dict(num_key_value_heads=3),
       'num_attention_heads=4 is not a multiple of num_key_value_heads=3'),
  )
  def test_configurations_without_sense(self, model_type, changes, message):
    sizes = dict(
        vocab_size=40, hidden_size=24, intermediate_size=40,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, max_position_embeddings=64,
    )
    with self.assertRaisesRegex(ValueError, message):
      models.DecoderConfig(model_type=model_type, **(sizes | changes))


if __name__ == '__main__':
  absltest.main()
