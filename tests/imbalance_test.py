"""The study of imbalance: its measurements against gradients written out."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import tiny_config

from experiments.imbalance import anatomy
from gradlens import build, models
from gradlens.experience import Batch


class AnatomyTest(absltest.TestCase):

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

  def scores(self, i, j):
    """Of the tokens of a completion, `[tokens, parameters]`, one by one."""
    model, params = self.run_setup.model, self.run_setup.params
    n = int(self.batch.mask_KxBxGxC[i, j].sum())
    tokens = jnp.concatenate(
        [self.batch.prompts_KxBxT[i], self.batch.tokens_KxBxGxC[i, j, :n]]
    )
    mask = jnp.concatenate(
        [self.batch.prompt_mask_KxBxT[i], jnp.ones(n, bool)]
    )

    def logprobs(params):
      logits = models.logits(model, params, tokens[None], mask[None])[0]
      at = jnp.arange(-n - 1, -1)
      return models.policy_logprobs(logits, 1.0)[at, tokens[at + 1]]

    jacobian = jax.jacobian(logprobs)(params)
    return np.concatenate(
        [leaf.reshape(n, -1) for leaf in jax.tree.leaves(jacobian)], axis=1,
        dtype=np.float64,
    )

  def test_token_rows(self):
    gram = anatomy.make_norms(self.run_setup.model, 1.0, 'token_mean')(
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
    gram = anatomy.make_norms(self.run_setup.model, 1.0, 'sequence_mean')(
        self.run_setup.params,
        anatomy.prompt_rows(self.batch, jnp.asarray(self.weights)),
    )
    grads = np.stack([
        np.mean([
            self.weights[i, j] * self.scores(i, j).mean(0) for j in range(2)
        ], axis=0) for i in range(3)
    ])
    np.testing.assert_allclose(gram, grads @ grads.T, rtol=1e-3, atol=1e-6)
    task = anatomy.Task()
    task.add_tokens(np.eye(12), np.asarray(self.batch.mask_KxBxGxC[:, 0]))
    task.add_prompts(np.asarray(gram, np.float64), dict(reward=np.ones(3)))
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


if __name__ == '__main__':
  absltest.main()
