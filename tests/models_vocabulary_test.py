"""Log-probabilities and entropies in chunks, against all logits at once."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from gradlens import models

V, D, TEMPERATURE = 11, 4, 0.7


def inputs():
  rng = np.random.default_rng(0)
  return (
      jnp.asarray(rng.normal(size=(D, V)), jnp.float32),
      jnp.asarray(rng.normal(size=(3, 5, D)), jnp.float32),
      jnp.asarray(rng.integers(0, V, (3, 5))),
  )


def scores(table_DxV, x, tokens, max_logits):
  head = models.Head(lambda x: x @ table_DxV, V, max_logits)
  return models.scores(head, x, tokens, temperature=TEMPERATURE)


class ScoresTest(parameterized.TestCase):

  def test_values_are_those_of_numpy(self):
    table, x, tokens = inputs()
    logits = np.asarray(x, np.float64) @ np.asarray(table) / TEMPERATURE
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = scores(table, x, tokens, 10**6)
    chosen = np.take_along_axis(probs, np.asarray(tokens)[..., None], -1)
    np.testing.assert_allclose(found.logprobs, np.log(chosen[..., 0]), 1e-5)
    np.testing.assert_allclose(
        found.entropy, -(probs * np.log(probs)).sum(-1), 1e-5
    )

  # Chunks of 1, of 2 that do not divide 15, and of 5 that do.
  @parameterized.parameters(1, 2 * V, 5 * V + 3)
  def test_chunks_change_nothing(self, max_logits):
    table, x, tokens = inputs()
    weights = jnp.linspace(-1, 2, 15).reshape(3, 5)

    def loss(table, x, max_logits):
      found = scores(table, x, tokens, max_logits)
      return jnp.sum(weights * found.logprobs + found.entropy**2)

    want = jax.value_and_grad(loss, (0, 1))(table, x, 10**6)
    got = jax.value_and_grad(loss, (0, 1))(table, x, max_logits)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        got, want,
    )

  def test_never_holds_all_logits(self):
    # The vocabulary of Qwen2.5, and 4096 tokens: all logits are 2.5 GB.
    vocab_size, size, length = 151936, 8, 4096

    def loss(table, x):
      found = models.scores(
          models.Head(lambda x: x @ table, vocab_size, 2**26), x,
          jnp.zeros(length, int), temperature=1.0,
      )
      return jnp.sum(found.logprobs + found.entropy)

    shapes = (
        jax.ShapeDtypeStruct((size, vocab_size), jnp.float32),
        jax.ShapeDtypeStruct((length, size), jnp.float32),
    )
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    self.assertLess(used, 4 * 2**26 * 4)
    self.assertLess(used, 4 * length * vocab_size / 2)


if __name__ == '__main__':
  absltest.main()
