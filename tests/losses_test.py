"""Losses and masked reductions against numbers worked by hand, and torch."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import torch

from gradlens import losses, masked

BOUND = 1.6  # of dual clipping


class MaskedTest(absltest.TestCase):

  def test_what_is_masked_may_be_anything(self):
    x = jnp.array([1.0, jnp.nan, 5.0, jnp.inf])
    mask = jnp.array([True, False, True, False])
    self.assertEqual(float(masked.sum(x, mask)), 6.0)
    self.assertEqual(float(masked.mean(x, mask)), 3.0)

  def test_the_mean_of_nothing_is_zero_with_zero_gradient(self):
    mask = jnp.zeros(3, bool)
    value, gradient = jax.value_and_grad(masked.mean)(jnp.ones(3), mask)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


class ClippedTest(parameterized.TestCase):

  @parameterized.parameters(
      # advantage, ratio, loss, gradient of the loss in the log-probability
      (2.0, 1.0, -2.0, -2.0),
      (2.0, 1.1, -2.2, -2.2),
      (2.0, 1.5, -2.6, 0.0),  # clipped at 1.3: no more pull
      (2.0, 0.5, -1.0, -1.0),  # not clipped below, where it pulls back
      (-2.0, 0.5, 1.6, 0.0),  # clipped at 0.8
      (-2.0, 1.5, 3.0, 3.0),
  )
  def test_clipping(self, advantage, ratio, loss, gradient):
    def f(logprob):
      found = losses.clipped(
          logprob.reshape(1, 1, 1), jnp.full((1, 1, 1), -1.0),
          jnp.ones((1, 1, 1), bool), jnp.full((1, 1), advantage),
          clip_low=0.2, clip_high=0.3,
      )
      return found.loss[0, 0, 0], found.clipped[0, 0, 0]

    (value, clipped), pull = jax.value_and_grad(f, has_aux=True)(
        jnp.log(ratio) - 1.0
    )
    np.testing.assert_allclose(
        (value, pull), (loss, gradient), rtol=1e-5, atol=1e-6
    )
    self.assertEqual(float(clipped), float(gradient == 0.0))


def _clip(ratio, advantage, low, high):
  """A token's loss; torch, in float64."""
  bounded = min(max(ratio.item(), 1 - low), 1 + high)
  if ratio.item() * advantage <= bounded * advantage:
    return -ratio * advantage
  return torch.tensor(-bounded * advantage)


def _dual_clip(ratio, advantage, low, high):
  if advantage < 0 and ratio.item() > BOUND:
    return torch.tensor(-BOUND * advantage)
  return _clip(ratio, advantage, low, high)


def _sequence_ratio(logprobs, old):
  """The geometric mean of the ratios of a completion's tokens."""
  product = 1.0
  for new, before in zip(logprobs, old, strict=True):
    product = product * torch.exp(new - before)
  return product ** (1 / len(old))


def _oracle(name, logprobs, old, advantage, low, high):
  """Losses of the tokens of one completion, one after the other."""
  found = []
  for token, before in zip(logprobs, old, strict=True):
    ratio = torch.exp(token - before)
    if name == 'clip':
      found.append(_clip(ratio, advantage, low, high))
    elif name == 'dual_clip':
      found.append(_dual_clip(ratio, advantage, low, high))
    elif name == 'cispo':
      weight = min(max(ratio.item(), 1 - low), 1 + high)
      found.append(-weight * advantage * token)
    elif name == 'gspo':
      found.append(_clip(_sequence_ratio(logprobs, old), advantage, low, high))
    else:
      whole = _sequence_ratio(logprobs, old).item()
      own = torch.exp(token - token.item())  # 1, with a gradient
      found.append(_clip(whole * own, advantage, low, high))
  return found


SURROGATES = losses.SURROGATES | dict(
    dual_clip=functools.partial(losses.dual_clipped, bound=BOUND)
)
B, G, C = 3, 4, 5


@functools.cache
def numbers():
  """Log-probabilities of three policies, a mask and advantages."""
  draw = np.random.default_rng(0)
  shape = B, G, C
  old = draw.normal(-2, 0.5, shape)
  lengths = draw.integers(0, C + 1, (B, G, 1))
  lengths[0, 0] = 0
  # A token that is none may have any log-probability.
  mask = np.arange(C) < lengths
  drawn = [old + draw.normal(0, 0.4, shape) for _ in range(2)]
  logprobs, reference = (
      np.where(mask, a, other)
      for a, other in zip(drawn, (1e5, -1e5), strict=True)
  )
  advantages = draw.normal(0, 1, (B, G))
  advantages[0, 1] = 0.0
  return [np.asarray(a, np.float32) for a in (
      logprobs, old, reference, advantages
  )] + [mask]


def tokens(f):
  """`f(b, g, own)` of every completion; its list of tokens as `[B, G, C]`."""
  found = np.zeros((B, G, C))
  *_, mask = numbers()
  for b, g in np.ndindex(B, G):
    own = mask[b, g]
    found[b, g, own] = f(b, g, own)
  return found


class SurrogatesTest(parameterized.TestCase):

  @parameterized.product(
      name=tuple(SURROGATES), clips=((0.1, 0.15), (0.2, 0.05))
  )
  def test_values_and_gradients(self, name, clips):
    low, high = clips
    logprobs, old, _, advantages, mask = numbers()
    gradients = np.zeros((B, G, C))

    def one(b, g, own):
      x = torch.tensor(logprobs[b, g, own], dtype=torch.float64)
      x.requires_grad_()
      found = _oracle(
          name, x, torch.tensor(old[b, g, own], dtype=torch.float64),
          float(advantages[b, g]), low, high,
      )
      if found:
        total = sum(found)
        if total.requires_grad:
          total.backward()
          gradients[b, g, own] = x.grad
      return [value.item() for value in found]

    want = tokens(one)

    def f(logprobs):
      found = SURROGATES[name](
          logprobs, old, mask, advantages, clip_low=low, clip_high=high
      )
      return masked.sum(found.loss, mask), found

    (_, found), got = jax.value_and_grad(f, has_aux=True)(logprobs)
    np.testing.assert_allclose(
        np.where(mask, found.loss, 0.0), want, rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(got, gradients, rtol=1e-6, atol=1e-6)
    # Of tokens that pull there are some, and of others too.
    moving = (np.abs(gradients) > 0)[mask & (advantages[..., None] != 0)]
    held = np.asarray(found.clipped)[mask & (advantages[..., None] != 0)]
    self.assertBetween(held.mean(), 0.05, 0.95)
    if name != 'cispo':
      np.testing.assert_array_equal(moving, held == 0)
    else:
      self.assertTrue(moving.all())

  def test_all_pull_alike_at_the_policy_that_sampled(self):
    _, old, _, advantages, mask = numbers()
    pulls = {}
    for name, make in SURROGATES.items():
      def mean(logprobs, make=make):
        found = make(
            logprobs, old, mask, advantages, clip_low=0.2, clip_high=0.2
        )
        return jnp.sum(masked.mean(found.loss, mask, axis=-1))

      pulls[name] = jax.grad(mean)(jnp.asarray(old))
    lengths = np.maximum(mask.sum(-1), 1)[..., None]
    want = np.where(mask, -advantages[..., None] / lengths, 0.0)
    for name, pull in pulls.items():
      np.testing.assert_allclose(
          pull, want, rtol=1e-5, atol=1e-7, err_msg=name
      )


class PenaltiesTest(parameterized.TestCase):

  @parameterized.parameters('k1', 'k2', 'k3')
  def test_estimators(self, estimator):
    logprobs, _, reference, _, mask = numbers()

    def one(b, g, own):
      p, q = (np.exp(a[b, g, own].astype(float)) for a in (logprobs, reference))
      return dict(
          k1=np.log(p / q), k2=np.log(p / q) ** 2 / 2,
          k3=q / p - 1 - np.log(q / p),
      )[estimator]

    # Derivatives in log p, of the same.
    def slope(b, g, own):
      p, q = (np.exp(a[b, g, own].astype(float)) for a in (logprobs, reference))
      return dict(k1=np.ones_like(p), k2=np.log(p / q), k3=1 - q / p)[estimator]

    def f(logprobs):
      found = losses.kl_divergence(
          logprobs, reference, mask, estimator=estimator
      )
      return jnp.sum(found), found

    (_, found), got = jax.value_and_grad(f, has_aux=True)(logprobs)
    np.testing.assert_allclose(found, tokens(one), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got, tokens(slope), rtol=1e-6, atol=1e-6)

  def test_estimators_have_the_divergence_as_their_mean(self):
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    divergence = np.sum(p * np.log(p / q))
    means = {
        name: float(np.sum(p * losses.kl_divergence(
            *(jnp.log(a).reshape(1, 1, 3) for a in (p, q)),
            jnp.ones((1, 1, 3), bool), estimator=name,
        )[0, 0])) for name in losses.ESTIMATORS
    }
    self.assertAlmostEqual(means['k1'], divergence, places=6)
    self.assertAlmostEqual(means['k3'], divergence, places=6)
    self.assertGreater(abs(means['k2'] - divergence), 1e-2)

  def test_importance_weights(self):
    logprobs, old, _, _, mask = numbers()
    got = losses.importance_weights(logprobs, old, mask, cap=1.2)
    want = 1 + tokens(lambda b, g, own: np.minimum(
        np.exp(logprobs[b, g, own].astype(float)) / np.exp(old[b, g, own]), 1.2
    ) - 1)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    self.assertBetween(np.mean(want == 1.2), 0.1, 0.6)


class AggregateTest(parameterized.TestCase):
  # Two completions of 1 and 3 tokens, and a third that has none.
  values = jnp.array([[[6.0, 9.0, 9.0], [1.0, 2.0, 3.0], [9.0, 9.0, 9.0]]])
  mask = jnp.array([[[1, 0, 0], [1, 1, 1], [0, 0, 0]]], bool)

  @parameterized.parameters(
      ('token_mean', 12.0, 4.0),
      ('sequence_mean', 8.0, 2.0),
      ('fixed_length', 12.0, 6.0),
  )
  def test_sums_and_counts(self, aggregate, total, count):
    self.assertEqual(
        float(losses.row_sum(self.values, self.mask, aggregate=aggregate)),
        total,
    )
    self.assertEqual(
        float(losses.row_count(self.mask, aggregate=aggregate)), count
    )

  @parameterized.parameters(
      ('batch', [[10, 10], [10, 10], [10, 10]], [0.4, 0.6, 0.0]),
      # Three tasks, of which the last has no tokens and must not divide by 0.
      ('task', [[12, 12], [18, 18], [1, 1]], [1 / 3] * 3),
  )
  def test_denominators_and_shares(self, normalize, want, shares):
    counts = jnp.array([[1.0, 3.0], [4.0, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(
        losses.denominators(counts, normalize=normalize), want
    )
    got = losses.task_shares(counts, normalize=normalize)
    np.testing.assert_allclose(got, shares, rtol=1e-6)

  def test_unknown_normalize(self):
    with self.assertRaisesRegex(ValueError, "normalize='tokens'"):
      losses.denominators(jnp.ones((1, 1)), normalize='tokens')


if __name__ == '__main__':
  absltest.main()
