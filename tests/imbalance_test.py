"""The study of imbalance: its measurements against gradients written out."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import tiny_config

from experiments.imbalance import anatomy, function_space
from gradlens import models
from gradlens.experience import Batch
from gradlens.setup import build


class BatchTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.run_setup = build.setup(tiny_config.get_config())
    draw = np.random.default_rng(0)
    b, g, t, c = 3, 2, 5, 4
    begin, length = draw.integers(0, 3, (b, 1)), np.array(
        [[1, 4], [2, 3], [4, 2]]
    )[..., None]
    self.batch = Batch(*map(jnp.asarray, (
        draw.integers(97, 123, (b, t), dtype=np.int32), np.arange(t) >= begin,
        draw.integers(97, 123, (b, g, c), dtype=np.int32),
        np.arange(c) < length, np.full((b, g, c), -3.0, np.float32),
        draw.random((b, g), dtype=np.float32),
        draw.random((b, g, 1), dtype=np.float32),
    )))
    self.weights = draw.normal(size=(b, g)).astype(np.float32)

  def policy(self, params, i, j):
    """Of one completion, without any padding: its tokens, logs `[C, V]`."""
    n = int(self.batch.mask_KxBxGxC[i, j].sum())
    tokens = jnp.concatenate(
        [self.batch.prompts_KxBxT[i], self.batch.tokens_KxBxGxC[i, j, :n]]
    )
    mask = jnp.concatenate(
        [self.batch.prompt_mask_KxBxT[i], jnp.ones(n, bool)]
    )

    logits = models.logits(
        self.run_setup.model, params, tokens[None], mask[None]
    )[0]
    return tokens[-n:], models.policy_logprobs(logits, 1.0)[-n - 1:-1]


class AnatomyTest(BatchTest):

  def scores(self, i, j):
    """Of the tokens of a completion, `[tokens, parameters]`, one by one."""

    def logprobs(params):
      tokens, logs = self.policy(params, i, j)
      return logs[jnp.arange(len(tokens)), tokens]

    leaves = jax.tree.leaves(jax.jacobian(logprobs)(self.run_setup.params))
    return np.concatenate(
        [leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1,
        dtype=np.float64,
    )

  def test_token_rows(self):
    gram, _ = anatomy.make_norms(self.run_setup.model, 1.0, 'token_mean')(
        self.run_setup.params, anatomy.token_rows(self.batch)
    )
    task = anatomy.Task()
    mask = np.asarray(self.batch.mask_KxBxGxC[:, 0])
    task.add_tokens(np.asarray(gram, np.float64), mask)
    firsts = [self.scores(i, 0) for i in range(3)]
    np.testing.assert_allclose(
        task.tokens, np.concatenate([(s ** 2).sum(1) for s in firsts]),
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        task.responses, [(s.mean(0) ** 2).sum() for s in firsts], rtol=1e-4
    )

  def test_prompt_rows(self):
    norms = anatomy.make_norms(self.run_setup.model, 1.0, 'sequence_mean')

    def of_prompts(part):
      batch, weights = jax.tree.map(
          lambda a: a[part], (self.batch, jnp.asarray(self.weights))
      )
      return norms(self.run_setup.params, anatomy.prompt_rows(batch, weights))

    grads = np.stack([
        np.mean([
            self.weights[i, j] * self.scores(i, j).mean(0) for j in range(2)
        ], axis=0) for i in range(3)
    ])
    gram, _ = of_prompts(slice(3))
    np.testing.assert_allclose(gram, grads @ grads.T, rtol=1e-3, atol=1e-6)
    task = anatomy.Task()
    task.add_tokens(np.eye(12), np.asarray(self.batch.mask_KxBxGxC[:, 0]))
    # A prompt's pairs are with those of other batches too.
    for part in slice(2), slice(2, 3):
      gram, total = of_prompts(part)
      task.add_prompts(
          np.asarray(gram, np.float64), total, dict(reward=np.ones(3))
      )
    stages = task.stages()
    pairs = [grads[i] @ grads[j] for i in range(3) for j in range(3) if i != j]
    np.testing.assert_allclose(stages['norm_sq'], np.mean(pairs), rtol=1e-3)
    # All four multiply to it. Tokens that are orthogonal and of length 1 leave
    # 1 / length of themselves in their mean: lengths are 1, 2 and 4.
    product = np.prod([stages[s] for s in ('token', 'response', 'group',
                                           'mean')])
    np.testing.assert_allclose(product, stages['norm_sq'])
    np.testing.assert_allclose(stages['token'], 1)
    np.testing.assert_allclose(stages['response'], np.mean([1, 1 / 2, 1 / 4]))


class FunctionSpaceTest(BatchTest):

  def divergence(self, step):
    """KL(before || after) of a step, a token, from distributions."""
    before, after = self.run_setup.params, jax.tree.map(
        jnp.add, self.run_setup.params, step
    )
    found = []
    for i in range(3):
      for j in range(2):
        (_, old), (_, new) = (
            self.policy(params, i, j) for params in (before, after)
        )
        old, new = np.asarray(old, np.float64), np.asarray(new, np.float64)
        found += np.sum(np.exp(old) * (old - new), axis=1).tolist()
    return np.mean(found)

  def test_products_are_divergences(self):
    params = self.run_setup.params
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    rows = structure.unflatten([
        0.004 * jax.random.normal(key, (2, *leaf.shape))
        for key, leaf in zip(keys, leaves, strict=True)
    ])
    products = function_space.make_products(self.run_setup.model, 1.0)(
        params, rows, self.batch
    )

    def quadratic(*signs):
      """To second order: a step and its opposite have no third."""
      step = jax.tree.map(lambda a: np.tensordot(signs, a, 1), rows)
      opposite = jax.tree.map(jnp.negative, step)
      return self.divergence(step) + self.divergence(opposite)

    first, second = quadratic(1, 0), quadratic(0, 1)
    self.assertGreater(first, 3e-4)
    np.testing.assert_allclose(
        np.diag(products), [first, second], rtol=0.02
    )
    # d' F e from (d + e)' F (d + e) less (d - e)' F (d - e).
    np.testing.assert_allclose(
        products[0, 1], (quadratic(1, 1) - quadratic(1, -1)) / 4,
        atol=0.02 * first,
    )
    np.testing.assert_allclose(products, products.T, rtol=1e-5)

  def test_pairs_of_different_splits(self):
    draw = np.random.default_rng(3)
    rows = draw.normal(size=(2, 4, 6)) + 3  # K, S, P
    fishers = [a @ a.T for a in draw.normal(size=(2, 6, 6))]
    flat = rows.reshape(8, 6)
    grams = [flat @ f @ flat.T for f in fishers]
    moved = function_space.summarize(['a', 'b'], grams, flat @ flat.T, 4)
    for k in range(2):
      pairs = [
          (rows[k, s], rows[k, t]) for s in range(4) for t in range(4) if s != t
      ]
      norm = np.mean([r @ s for r, s in pairs])
      for i, fisher in enumerate(fishers):
        # A gradient is the sum of four rows.
        expected = np.mean([r @ fisher @ s for r, s in pairs]) / 2
        np.testing.assert_allclose(moved.kl[0][i, k], 16 * expected)
        np.testing.assert_allclose(moved.per_norm[0][i, k], expected / norm)
        self.assertBetween(
            moved.kl[0][i, k], moved.kl[1][i, k], moved.kl[2][i, k]
        )
    found = function_space.as_rows(moved)
    self.assertEqual((found[1]['on'], found[1]['of']), ('a', 'b'))
    self.assertEqual(found[1]['per_norm_high'], moved.per_norm[2][0, 1])


if __name__ == '__main__':
  absltest.main()
