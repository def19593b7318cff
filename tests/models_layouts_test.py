"""A prompt that is computed once, against one for each of its completions."""

import itertools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import random_models
import tapped_decoder
from tapped_decoder import relative

import gradlens as gl
from gradlens import models

R, N, T, G = 2, 2, 6, 3


def _groups(length):
  """Prompts padded on the left, completions on the right."""
  draw = np.random.default_rng(2)
  prompts = draw.integers(0, random_models.VOCAB, (R, N, T))
  tokens = draw.integers(0, random_models.VOCAB, (R, N, G, length))
  begins = draw.integers(0, T, (R, N, 1))
  ends = draw.integers(1, length + 1, (R, N, G, 1))
  ends[0, 0, 0] = length
  return models.Groups(*map(jnp.asarray, (
      prompts, np.arange(T) >= begins, tokens, np.arange(length) < ends
  )))


def _whole(groups):
  """Every completion behind its own copy of the prompt."""
  def behind(prompts, completions):
    copies = jnp.repeat(prompts[:, :, None], G, axis=2)
    both = jnp.concatenate([copies, completions], axis=-1)
    return both.reshape(R, N * G, -1)

  return models.Sequences(
      behind(groups.prompts_NxT, groups.tokens_NxGxC),
      behind(groups.prompt_mask_NxT, groups.mask_NxGxC),
  )


def _decompose(model, params, groups, *, shared):
  """Losses, gradient and Gram matrices of a sum over sampled tokens."""
  layout = groups if shared else _whole(groups)
  # Not all weigh the same, and nothing cancels.
  weight = 2 + jnp.cos(jnp.arange(1.0 * groups.tokens_NxGxC.size))
  weight *= groups.mask_NxGxC.ravel()

  def readout(head, x, tokens_NxGxC, weight_NxGxC):
    if not shared:
      x = x[:, T - 1 : -1].reshape(*tokens_NxGxC.shape, -1)
    found = models.scores(head, x, tokens_NxGxC, temperature=1.0)
    return jnp.sum(found.logprobs * weight_NxGxC)

  def losses_fn(params, probes, layout, *extra):
    return models.tapped(model, params, probes, layout, readout, *extra)

  return jax.jit(gl.value_grad_gram(losses_fn))(
      params, random_models.probes(model, R), layout, groups.tokens_NxGxC,
      weight.reshape(groups.mask_NxGxC.shape),
  )


class GroupsTest(parameterized.TestCase):

  @parameterized.parameters(
      *itertools.product(random_models.FAMILIES, (0, 1), (5,)), ('llama', 0, 1)
  )
  def test_as_if_each_completion_had_its_own(self, model_type, seed, length):
    model, params = random_models.with_params(
        random_models.config(model_type, seed)
    )
    groups = _groups(length)
    want = _decompose(model, params, groups, shared=False)
    got = _decompose(model, params, groups, shared=True)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    grads, expected = map(tapped_decoder.flat, (got[1], want[1]))
    self.assertLess(relative(grads, expected), 1e-5)
    for name, gram in want[2].items():
      self.assertLess(relative(got[2][name], gram), 1e-5)

  @parameterized.parameters('qwen2', 'gemma3_text')
  def test_completions_do_not_see_each_other(self, model_type):
    model, params = random_models.with_params(
        random_models.config(model_type, 0)
    )
    groups = jax.tree.map(lambda a: a[0], _groups(5))

    def states(groups):
      return models.tapped(
          model, params, None, jax.tree.map(lambda a: a[None], groups),
          lambda head, x: x,
      )[0]

    before = states(groups)
    other = groups.tokens_NxGxC.at[:, 1].add(1) % random_models.VOCAB
    after = states(groups._replace(tokens_NxGxC=other))
    np.testing.assert_array_equal(before[:, ::2], after[:, ::2])
    moved = np.abs(before - after)[:, 1, 1:].max(-1)
    # Not even its own tokens that are padding count: they are never read.
    self.assertGreater(moved[np.asarray(groups.mask_NxGxC)[:, 1, :-1]].min(), 0)


if __name__ == '__main__':
  absltest.main()
