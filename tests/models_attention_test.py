"""Attention: every kernel against numpy, and a model by each of them."""

import functools
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import random_models

import gradlens as gl
from gradlens import models
from gradlens.models import attention, positions

# No TPU here: its kernel is interpreted.
_INTERPRETED = functools.partial(attention.splash, interpret=True)
_KERNELS = dict(plain=attention.plain, splash=_INTERPRETED)


def _reference(q, k, v, segments, window):
  """One query at a time, in float64."""
  out = np.zeros(q.shape)
  group = q.shape[2] // k.shape[2]
  for b, i, h in np.ndindex(q.shape[:3]):
    seen = [
        j for j in range(i + 1)
        if segments[b, j] == segments[b, i]
        and (window is None or i - j < window)
    ]
    scores = k[b, seen, h // group] @ q[b, i, h]
    weights = np.exp(scores - scores.max())
    out[b, i, h] = weights / weights.sum() @ v[b, seen, h // group]
  return out


def _last(q, count):
  """Queries of the last tokens only."""
  return q[:, q.shape[1] - count :]


def _arrays(length, heads, kv_heads, width=64, seed=0):
  draw = np.random.default_rng(seed)
  q, k, v = (
      draw.normal(size=(2, length, n, width))
      for n in (heads, kv_heads, kv_heads)
  )
  # Padding on the left, and two sequences packed, with padding on the right.
  segments = np.ones((2, length), np.int32)
  segments[0, : length // 5] = 0
  segments[1, length // 3 :] = 2
  segments[1, -length // 6 :] = 0
  return q / 8, k, v, segments


class KernelTest(parameterized.TestCase):

  @parameterized.product(
      kernel=list(_KERNELS),
      # In one tile, and in two; windows shorter than the longest segment.
      size=[(100, 6, 2), (130, 3, 1)],
      window=[None, 7, 60],
  )
  def test_against_numpy(self, kernel, size, window):
    q, k, v, segments = _arrays(*size)
    want = _reference(q, k, v, segments, window)
    single = [jnp.asarray(a, jnp.float32) for a in (q, k, v)]
    with jax.default_matmul_precision('highest'):
      got = jax.jit(functools.partial(_KERNELS[kernel], window=window))(
          single[0], attention.KeyValue(*single[1:]), segments
      )
    np.testing.assert_allclose(got, want, atol=3e-6)
    # What a mask that forgets segments would give is far away.
    forgot = _reference(q, k, v, np.ones_like(segments), window)
    self.assertGreater(np.abs(forgot - want).max(), 0.1)

  @parameterized.product(
      kernel=list(_KERNELS), count=[129, 40, 0], window=[None, 60]
  )
  def test_queries_of_the_last_tokens(self, kernel, count, window):
    q, k, v, segments = _arrays(200, 4, 2)
    run = functools.partial(_KERNELS[kernel], window=window)
    keys = attention.KeyValue(jnp.asarray(k), jnp.asarray(v))
    want = run(jnp.asarray(q), keys, jnp.asarray(segments))
    got = run(jnp.asarray(_last(q, count)), keys, jnp.asarray(segments))
    self.assertEqual(got.shape, (2, count, 4, 64))
    np.testing.assert_allclose(got, _last(want, count), atol=3e-6)

  @parameterized.product(count=[130, 30], window=[None, 7])
  def test_gradients_agree(self, count, window):
    q, k, v, segments = _arrays(130, 4, 2)
    q = _last(q, count)
    q, k, v, out = (
        jnp.asarray(a, jnp.float32)
        for a in (q, k, v, np.random.default_rng(1).normal(size=q.shape))
    )

    def gradients(kernel):
      return jax.grad(
          lambda q, k, v: jnp.sum(out * kernel(
              q, attention.KeyValue(k, v), segments, window=window
          )),
          (0, 1, 2),
      )(q, k, v)

    for got, want in zip(
        gradients(_INTERPRETED), gradients(attention.plain), strict=True
    ):
      np.testing.assert_allclose(got, want, atol=2e-5)
      self.assertGreater(np.abs(want).max(), 0.5)

  @parameterized.parameters(
      ('tpu', 'splash'), ('gpu', 'plain'), ('cpu', 'plain')
  )
  def test_the_fastest(self, platform, name):
    self.assertEqual(models.fastest_attention(platform), name)


def _decomposed(model, params, tokens, mask):
  return jax.jit(gl.value_grad_gram(random_models.losses_fn(model)))(
      params, random_models.probes(model, 2), tokens, mask
  )


def _of_groups(model, params, tokens, mask):
  """As two prompts a row, of 5 tokens, with three completions of 5."""
  def losses_fn(params, probes, layout):
    def readout(head, x_NxGxCxD, tokens_NxGxC, mask_NxGxC):
      found = models.scores(
          head, x_NxGxCxD, tokens_NxGxC, vocab_size=random_models.VOCAB,
          temperature=1.0,
      )
      return jnp.sum(found.logprobs * mask_NxGxC)

    return models.tapped(
        model, params, probes, layout, readout, *layout[2:]
    )

  groups = models.Groups(
      tokens[..., :5], mask[..., :5],
      *(a[..., 5:].reshape(2, 2, 3, 5) for a in (tokens, mask)),
  )
  return jax.jit(gl.value_grad_gram(losses_fn))(
      params, random_models.probes(model, 2), groups
  )


class ModelTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    draw = np.random.default_rng(3)
    self.tokens = jnp.asarray(draw.integers(0, 40, (2, 2, 20)), jnp.int32)
    mask = np.ones((2, 2, 20), bool)
    mask[0, 1, :6] = mask[1, 0, 15:] = False
    self.mask = jnp.asarray(mask)

  def model(self, family):
    return random_models.with_params(random_models.config(family, 0))

  @parameterized.product(
      family=['qwen2', 'gemma3_text'], losses=[_decomposed, _of_groups]
  )
  def test_kernels_give_one_gradient_and_gram(self, family, losses):
    model, params = self.model(family)
    want = losses(model, params, self.tokens, self.mask)
    with mock.patch.dict(attention.KERNELS, splash=_INTERPRETED) as kernels:
      del kernels['plain']  # not by accident
      other = model._replace(compute=models.Compute(attention='splash'))
      got = losses(other, params, self.tokens, self.mask)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, atol=1e-4 * float(jnp.abs(b).max())
        ),
        got, want,
    )

  @parameterized.parameters('llama', 'gemma3_text')
  def test_packed_sequences_are_as_if_alone(self, family):
    model, params = self.model(family)
    whole = self.tokens[0]
    segments = jnp.asarray([[1] * 8 + [2] * 12, [4] * 5 + [1] * 9 + [0] * 6])
    got = models.logits(model, params, whole, segments)
    for row, span in ((0, (0, 8)), (0, (8, 20)), (1, (0, 5)), (1, (5, 14))):
      alone = models.logits(model, params, whole[row : row + 1, slice(*span)])
      np.testing.assert_allclose(
          got[row, slice(*span)], alone[0], atol=2e-5
      )
    together = models.logits(model, params, whole)
    self.assertGreater(float(jnp.abs(got - together).max()), 0.01)

  def test_bfloat16_products_and_float32_grams(self):
    model, params = self.model('qwen3')
    want = _decomposed(model, params, self.tokens, self.mask)
    half = model._replace(compute=models.Compute(dtype='bfloat16'))
    got = _decomposed(half, params, self.tokens, self.mask)
    for tree in got[1:]:
      for leaf in jax.tree.leaves(tree):
        self.assertEqual(leaf.dtype, jnp.float32)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-2)
    for a, b in zip(
        jax.tree.leaves(got[2]), jax.tree.leaves(want[2]), strict=True
    ):
      # Products of 8 bits, in four layers and both ways.
      np.testing.assert_allclose(a, b, atol=0.1 * float(jnp.abs(b).max()))
      self.assertGreater(float(jnp.abs(a - b).max()), 0)
    x_BxLxV = models.logits(half, params, self.tokens[0])
    self.assertEqual(x_BxLxV.dtype, jnp.float32)
    _, read = models.prefill(half, params, self.tokens[0], self.mask[0])
    self.assertEqual(read.k.dtype, jnp.bfloat16)

  def test_positions_count_from_each_beginning(self):
    np.testing.assert_array_equal(
        positions.positions(jnp.asarray([[0, 0, 1, 1, 2, 2, 2, 0]])),
        [[0, 1, 0, 1, 0, 1, 2, 0]],
    )
    mask = jnp.asarray([[False, True, True], [True, True, True]])
    np.testing.assert_array_equal(
        positions.positions(mask), [[0, 0, 1], [0, 1, 2]]
    )


if __name__ == '__main__':
  absltest.main()
