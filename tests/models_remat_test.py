"""What is kept for the way back changes memory, and nothing else."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import random_models

import gradlens as gl
from gradlens import models

R, N, L = 2, 3, 24


def _gradient(family, remat, tapped):
  """Compiled: the joint gradient, with or without taps."""
  model, params = random_models.with_params(random_models.config(family, 0))
  model = model._replace(compute=models.Compute(remat=remat))
  tokens = np.random.default_rng(0).integers(0, 40, (R, N, L)).astype(np.int32)

  mask = jnp.ones(tokens.shape, bool)
  losses_fn = random_models.losses_fn(model)

  def plain(params, tokens):
    return jax.value_and_grad(
        lambda params: losses_fn(params, None, tokens, mask).sum()
    )(params)

  def decomposed(params, tokens):
    return gl.value_grad_gram(losses_fn)(
        params, random_models.probes(model, R), tokens, mask
    )

  compiled = jax.jit(decomposed if tapped else plain).lower(
      params, tokens
  ).compile()
  return compiled(params, tokens), compiled.memory_analysis()


class RematTest(parameterized.TestCase):

  @parameterized.product(
      family=['qwen2', 'gemma3_text'], tapped=[True, False]
  )
  def test_numbers_are_the_same_and_memory_is_not(self, family, tapped):
    memory = {}
    for remat in models.REMAT:
      got, analysis = _gradient(family, remat, tapped)
      memory[remat] = analysis.temp_size_in_bytes
      if remat == 'full':
        want = got
      jax.tree.map(
          lambda a, b: np.testing.assert_allclose(
              a, b, atol=1e-4 * float(jnp.abs(b).max())
          ),
          got, want,
      )
    self.assertLess(memory['full'], memory['dots'])
    self.assertLess(memory['dots'], memory['none'])


if __name__ == '__main__':
  absltest.main()
