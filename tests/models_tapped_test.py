"""The decoder out of taps: every family, whole, and no parameter missed."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import random_models
import tapped_decoder
from tapped_decoder import relative

import gradlens as gl
from gradlens import models
from gradlens.models import vocabulary

R, N, L = 3, 2, 7
# Tied and untied, with one kind of attention and with two.
every_family = parameterized.product(
    model_type=random_models.FAMILIES, seed=(0, 1)
)


def model_and_params(model_type, seed):
  return random_models.with_params(random_models.config(model_type, seed))


def batch():
  """Tokens, a mask with padding on the left, and a weight of each row."""
  rng = np.random.default_rng(1)
  tokens = jnp.asarray(rng.integers(0, random_models.VOCAB, (R, N, L)))
  mask = jnp.asarray(np.arange(L) >= rng.integers(0, 3, (R, N, 1)))
  return tokens, mask, jnp.array([1.0, -3.0, 0.5])


def readout(head, x_NxLxD, tokens_NxL, scale):
  """A loss that depends on all logits from position 1 on."""
  logprobs = jax.nn.log_softmax(head(x_NxLxD[:, 1:]))[:, :-1]
  chosen = jnp.take_along_axis(logprobs, tokens_NxL[:, 2:, None], axis=-1)
  return scale * chosen.mean()


def losses_fn(model):
  def losses(params, probes, tokens_RxNxL, mask_RxNxL, scale_R):
    return models.tapped(
        model, params, probes, models.Sequences(tokens_RxNxL, mask_RxNxL),
        readout, tokens_RxNxL, scale_R,
    )

  return losses


def probes(model):
  layers = model.config.num_hidden_layers
  return {
      'embed': gl.Probe(R), 'layers': gl.Probe(R, layers), 'head': gl.Probe(R),
  }


class TappedTest(parameterized.TestCase):

  @every_family
  def test_is_the_plain_model_row_by_row(self, model_type, seed):
    model, params = model_and_params(model_type, seed)

    def loss(params, tokens_NxL, mask_NxL, scale):
      logits = models.logits(model, params, tokens_NxL, mask_NxL)
      return readout(lambda logits: logits, logits, tokens_NxL, scale)

    one = jax.jit(jax.value_and_grad(loss))
    oracle = [one(params, *(a[r] for a in batch())) for r in range(R)]
    rows = tapped_decoder.matrix([grads for _, grads in oracle])
    losses_R, grads, grams = jax.jit(gl.value_grad_gram(losses_fn(model)))(
        params, probes(model), *batch()
    )
    np.testing.assert_allclose(losses_R, [a for a, _ in oracle], rtol=1e-5)
    self.assertLess(relative(tapped_decoder.flat(grads), rows.sum(0)), 1e-5)
    # The blocks' Gram matrices sum to the whole, cross terms of a tied leaf
    # included.
    gram = tapped_decoder.whole(grams, R)
    self.assertLess(relative(gram, rows @ rows.T), 1e-5)
    # And each is that of the parameters that `blocks` names.
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(grads for _, grads in oracle)
    )
    named = gl.gram_blocks(stacked, models.blocks)
    self.assertEqual(set(named), set(grams))
    for name, want in named.items():
      self.assertLess(relative(grams[name], want), 1e-5)

  @parameterized.product(seed=(0, 1), probed=(False, True))
  def test_some_tokens_after_others(self, seed, probed):
    # One token at a time, so that all that adds up adds up often.
    model, params = model_and_params('qwen3', seed)
    model = model._replace(compute=models.Compute(dtype='bfloat16'))
    rng = np.random.default_rng(2)
    tokens = jnp.asarray(rng.integers(0, 4, (R, 9, random_models.LENGTH)))
    args = tokens, jnp.ones(tokens.shape, bool)
    losses = random_models.losses_fn(model)

    def gradient():
      if probed:
        _, grads, grams = jax.jit(gl.value_grad_gram(losses))(
            params, random_models.probes(model, R), *args
        )
        return grads, grams
      return jax.jit(jax.grad(
          lambda params: losses(params, None, *args).sum()
      ))(params)

    want = gradient()
    with mock.patch.object(vocabulary, 'MAX_LOGITS', 1):
      got = gradient()
    differ = 0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      a, b = (np.asarray(each, np.float64) for each in (a, b))
      # One in 256 is the rounding of bfloat16.
      self.assertLess(np.linalg.norm(a - b), np.linalg.norm(b) / 256)
      differ += (a != b).any()
    self.assertGreater(differ, 0)

  @every_family
  def test_every_parameter_is_in_one_tap(self, model_type, seed):
    model, params = model_and_params(model_type, seed)
    gl.check_taps(losses_fn(model), params, probes(model), *batch())


if __name__ == '__main__':
  absltest.main()
