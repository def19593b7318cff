"""Attention: every kernel against numpy, and a model by each of them."""

import functools
import types
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import random_models

import gradlens as gl
from gradlens import models
from gradlens.models import kernels, positions

# Without their devices: a TPU's is interpreted, and cuDNN's part is XLA's.
_ANYWHERE = dict(
    splash=functools.partial(kernels.splash, interpret=True),
    cudnn=functools.partial(kernels.cudnn, implementation='xla'),
)
_KERNELS = dict(plain=kernels.plain, **_ANYWHERE)


def _device(platform, capability=None):
  return types.SimpleNamespace(
      platform=platform, compute_capability=capability
  )


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
          single[0], kernels.KeyValue(*single[1:]), segments
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
    keys = kernels.KeyValue(jnp.asarray(k), jnp.asarray(v))
    want = run(jnp.asarray(q), keys, jnp.asarray(segments))
    got = run(jnp.asarray(_last(q, count)), keys, jnp.asarray(segments))
    self.assertEqual(got.shape, (2, count, 4, 64))
    np.testing.assert_allclose(got, _last(want, count), atol=3e-6)

  @parameterized.product(
      kernel=list(_ANYWHERE), count=[130, 29], window=[None, 7]
  )
  def test_gradients_agree(self, kernel, count, window):
    q, k, v, segments = _arrays(130, 4, 2)
    q = _last(q, count)
    q, k, v, out = (
        jnp.asarray(a, jnp.float32)
        for a in (q, k, v, np.random.default_rng(1).normal(size=q.shape))
    )

    def gradients(kernel):
      return jax.grad(
          lambda q, k, v: jnp.sum(out * kernel(
              q, kernels.KeyValue(k, v), segments, window=window
          )),
          (0, 1, 2),
      )(q, k, v)

    for got, want in zip(
        gradients(_ANYWHERE[kernel]), gradients(kernels.plain),
        strict=True,
    ):
      np.testing.assert_allclose(got, want, atol=2e-5)
      self.assertGreater(np.abs(want).max(), 0.5)

  @parameterized.parameters(21, 0)
  def test_vmapped_as_if_alone(self, count):
    q, k, v, segments = _arrays(21, 4, 2, width=16)
    keys = kernels.KeyValue(*(jnp.asarray(a, jnp.float32) for a in (k, v)))
    own = jnp.asarray(_last(q, count), jnp.float32)
    both = jnp.stack([own, 2 * own])

    @jax.value_and_grad
    def run(q):
      out = _ANYWHERE['cudnn'](q, keys, segments, window=None)
      return jnp.sum(jnp.sin(out))

    got = jax.vmap(run)(both)
    want = jax.tree.map(lambda *own: jnp.stack(own), *map(run, both))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        got, want,
    )

  @parameterized.parameters(
      ('tpu', None, 'float32', 64, 'splash'),
      ('cpu', None, 'bfloat16', 64, 'plain'),
      ('gpu', '9.0', 'bfloat16', 128, 'cudnn'),
      ('gpu', '10.3', 'bfloat16', 64, 'cudnn'),
      ('gpu', '7.5', 'bfloat16', 64, 'plain'),
      ('gpu', 'gfx942', 'bfloat16', 64, 'plain'),
      ('gpu', '9.0', 'float32', 64, 'plain'),
      ('gpu', '9.0', 'bfloat16', 256, 'plain'),
      ('gpu', '9.0', 'bfloat16', 60, 'plain'),
  )
  def test_the_fastest(self, platform, capability, dtype, head_dim, name):
    device = _device(platform, capability)
    self.assertEqual(
        models.choose_attention('auto', device, dtype, head_dim), name
    )

  @parameterized.parameters(
      ('splash', _device('gpu', '9.0'), 'bfloat16', 64,
       "'splash' needs a TPU, and this is a gpu; use 'auto'."),
      ('cudnn', _device('cpu'), 'bfloat16', 64, 'needs a GPU, and this is a c'),
      ('cudnn', _device('gpu', '7.5'), 'bfloat16', 64, 'this one has 7.5;'),
      ('cudnn', _device('gpu', '8.0'), 'float32', 64, "that is 'float32';"),
      ('cudnn', _device('gpu', '8.0'), 'bfloat16', 192, 'the model are 192;'),
  )
  def test_where_it_cannot_be(self, name, device, dtype, head_dim, message):
    with self.assertRaisesRegex(ValueError, message):
      models.choose_attention(name, device, dtype, head_dim)


@absltest.skipUnless(jax.default_backend() == 'gpu', 'needs a GPU')
class OnGpuTest(parameterized.TestCase):
  """cuDNN's own part, to the rounding of bfloat16."""

  def assert_close(self, got, want):
    got, want = (np.asarray(a, np.float64) for a in (got, want))
    difference = np.linalg.norm(got - want) / np.linalg.norm(want)
    self.assertLess(difference, 1e-2)

  @parameterized.product(count=[130, 41, 0], window=[None, 7])
  def test_against_numpy(self, count, window):
    q, k, v, segments = _arrays(130, 6, 2)
    rounded = [jnp.asarray(a, jnp.bfloat16) for a in (_last(q, count), k, v)]
    got = jax.jit(functools.partial(kernels.cudnn, window=window))(
        rounded[0], kernels.KeyValue(*rounded[1:]), segments
    )
    self.assertEqual(got.shape, (2, count, 6, 64))
    if count:
      want = _reference(q, k, v, segments, window)
      self.assert_close(got, _last(want, count))

  @parameterized.product(count=[130, 29], window=[None, 7])
  def test_gradients_of_rows(self, count, window):
    q, k, v, segments = _arrays(130, 4, 2)
    q_RxBxLxHxE, *rest = (
        jnp.asarray(a, jnp.bfloat16)
        for a in (np.stack([_last(q, count), -_last(q, count)]), k, v)
    )

    def gradients(kernel):
      def loss(q, k, v):
        out = kernel(q, kernels.KeyValue(k, v), segments, window=window)
        return jnp.sum(jnp.sin(3 * out.astype(jnp.float32)))

      return jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2)), (0, None, None)))(
          q_RxBxLxHxE, *rest
      )

    for got, want in zip(
        gradients(kernels.cudnn), gradients(kernels.plain), strict=True
    ):
      self.assert_close(got, want)


def _decomposed(model, params, tokens, mask):
  return jax.jit(gl.value_grad_gram(random_models.losses_fn(model)))(
      params, random_models.probes(model, 2), tokens, mask
  )


def _of_groups(model, params, tokens, mask):
  """As two prompts a row, of 5 tokens, with three completions of 5."""
  def losses_fn(params, probes, layout):
    def readout(head, x_NxGxCxD, tokens_NxGxC, mask_NxGxC):
      found = models.scores(head, x_NxGxCxD, tokens_NxGxC, temperature=1.0)
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
      kernel=list(_ANYWHERE), family=['qwen2', 'gemma3_text'],
      losses=[_decomposed, _of_groups],
  )
  def test_kernels_give_one_gradient_and_gram(self, kernel, family, losses):
    model, params = self.model(family)
    want = losses(model, params, self.tokens, self.mask)
    with mock.patch.dict(kernels.KERNELS, _ANYWHERE) as known:
      del known['plain']  # not by accident
      other = model._replace(compute=models.Compute(attention=kernel))
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
