"""What other policies say: against the whole forward pass, and on a mesh."""

import functools
import tempfile

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import joint_loss
import numpy as np
import pytest

from gradlens import models
from gradlens.configs import default
from gradlens.setup import build, goal
from gradlens.step import objective, placement, policies, train_step
from gradlens.step.optimizer import make_optimizer
from gradlens.workdir import checkpoint

S = 2
MIXED = (objective.OLD, objective.REFERENCE)


def whole(params, batch):
  """`[K, B, G, C]`; 0 where nothing was sampled."""
  tokens, row, position, *_ = joint_loss.flatten(
      batch, joint_loss.token_weights(batch)
  )
  found = np.zeros(batch.mask_KxBxGxC.shape)
  found[batch.mask_KxBxGxC] = np.asarray(
      joint_loss.logprobs(params, tokens, row, position)
  )[np.arange(len(row)), tokens[row, position]]
  return found


def prepared(model, state, batch, mesh=None, micro=1):
  goal = objective.supervised()._replace(policies=MIXED)
  found = jax.jit(policies.make_prepare(
      model, goal, num_splits=S, temperature=joint_loss.TEMPERATURE,
      num_micro_batches=micro, mesh=mesh,
  ))(state, batch)
  return {
      name: np.where(batch.mask_KxBxGxC, a, 0.0)
      for name, a in found.logprobs.items()
  }


class PoliciesTest(parameterized.TestCase):

  @parameterized.parameters(1, 2)
  def test_are_those_of_the_whole_forward_pass(self, micro):
    model, params = joint_loss.policy()
    other = models.init(model, jax.random.key(1))
    batch = joint_loss.random_batch()
    state = train_step.TrainState(params, (), (), {}, other)
    got = prepared(model, state, batch, micro=micro)
    old, reference = (whole(p, batch) for p in (params, other))
    np.testing.assert_allclose(got[objective.OLD], old, atol=1e-5)
    np.testing.assert_allclose(got[objective.REFERENCE], reference, atol=1e-5)
    self.assertGreater(np.abs(old - reference).max(), 0.5)

  def test_the_reference_of_adapters_is_the_model_without(self):
    model, params = joint_loss.policy()
    lora = models.Lora(2, 4.0, ('q', 'down'))
    adapted, adapters = models.adapt(model, lora, jax.random.key(2))
    adapters = jax.tree.map(lambda a: a + 0.3, adapters)
    batch = joint_loss.random_batch()
    state = train_step.TrainState(adapters, (), (), params, {})
    got = prepared(adapted, state, batch)
    want = whole(params, batch)
    np.testing.assert_allclose(got[objective.REFERENCE], want, atol=1e-5)
    _, merged = models.merge(adapted, models.join(adapters, params))
    np.testing.assert_allclose(
        got[objective.OLD], whole(merged, batch), atol=1e-4
    )
    self.assertGreater(np.abs(got[objective.OLD] - want).max(), 0.1)


def tiny():
  """Widths and prompts that meshes of eight devices divide."""
  model = models.build(models.DecoderConfig(
      model_type='qwen2', vocab_size=32, hidden_size=16, intermediate_size=24,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      head_dim=8, max_position_embeddings=64, initializer_range=0.3,
      tie_word_embeddings=True,
  ))
  draw = np.random.default_rng(0)
  k, b, g, t, c = 2, 8, 2, 4, 4
  mask = np.arange(c) < draw.integers(1, c + 1, (k, b, g, 1))
  batch = joint_loss.Batch(
      draw.integers(0, 32, (k, b, t), np.int32),
      np.arange(t) >= draw.integers(0, t, (k, b, 1)),
      draw.integers(0, 32, (k, b, g, c), np.int32), mask,
      draw.normal(-3, 0.3, mask.shape).astype(np.float32),
      draw.random((k, b, g), np.float32), np.zeros((k, b, g, 1)),
  )
  return model, batch


def step_of(sizes, apply):
  """One with all terms, of two updates."""
  model, batch = tiny()
  config = default.get_config()
  config.optimizer.update(b1=0.0, warmup_steps=0, clip_norm=1e3)
  config.correction.update(dict(name='pcgrad', apply=apply))
  config.loss.update(
      kl_coef=0.5, kl_weighted=True, importance_cap=1.5, entropy_coef=0.1,
      mask_truncated=True,
  )
  config.advantage.scale = 'batch'
  optimizer = make_optimizer(config, 2, None)
  params, reference = (models.init(model, jax.random.key(i)) for i in (0, 1))
  state = train_step.TrainState(
      params, optimizer.corrected.init(params), jax.random.key(0), {},
      reference,
  )
  mesh = None
  if sizes is not None:
    mesh = models.make_mesh(*sizes, num_rows=4)
    state = jax.device_put(
        state, models.shardings(mesh, placement.state_specs(state))
    )
    assert any(
        not leaf.sharding.is_fully_replicated
        for leaf in jax.tree.leaves(state.reference)
    )
  step = jax.jit(train_step.make_train_step(
      model, optimizer, goal.make_objective(config, (1, 2), np.ones((2, 1))),
      num_splits=S, temperature=0.8, aggregate='sequence_mean',
      normalize='batch', instrument=True, num_mini_batches=2, mesh=mesh,
  ))
  return step(state, jax.tree.map(jnp.asarray, batch))


# For every `apply=` that is exact.
alone = functools.cache(lambda: step_of(None, 'stacked'))


@pytest.mark.slow
class MeshTest(parameterized.TestCase):

  @parameterized.parameters(
      ((2, 2, 2), 'two_pass'), ((4, 2, 1), 'stacked')
  )
  def test_is_the_step_on_one_device(self, sizes, apply):
    state, measured = step_of(sizes, apply)
    other, expected = alone()
    for field in ('loss_R', 'terms_R', 'entropy_R', 'grams', 'weights'):
      jax.tree.map(
          lambda a, b: np.testing.assert_allclose(
              a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()
          ), getattr(measured, field), getattr(expected, field),
      )
    got, want = (
        joint_loss.vector(s.opt_state[2][0].mu) for s in (state, other)
    )
    self.assertLess(joint_loss.distance(got, want), 1e-3)
    self.assertGreater(float(expected.terms_R['kl'].min()), 0.01)


class ReferenceTest(absltest.TestCase):

  def config(self, arg):
    config = default.get_config()
    default.parse_arg(config, arg)
    return config

  def test_is_kept_where_it_is_asked_for(self):
    model, params = joint_loss.policy()
    kept = build.reference(self.config('loss.kl_coef=0.1'), model, params)
    jax.tree.map(np.testing.assert_array_equal, kept, params)
    # A step that is given its state to write on must not find one array twice.
    for a, b in zip(
        jax.tree.leaves(kept), jax.tree.leaves(params), strict=True
    ):
      self.assertNotEqual(a.unsafe_buffer_pointer(), b.unsafe_buffer_pointer())
    for arg in ('', 'loss.kl_coef=0.1,lora.rank=2'):
      self.assertEqual(build.reference(self.config(arg), model, params), {})

  def test_is_in_the_dtype_of_products(self):
    model, params = joint_loss.policy()
    model = model._replace(compute=models.Compute(dtype='bfloat16'))
    kept = build.reference(self.config('loss.kl_coef=0.1'), model, params)
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(kept)}
    self.assertEqual(dtypes, {'bfloat16'})

  def test_comes_back_from_a_checkpoint(self):
    model, params = joint_loss.policy()
    reference = models.init(model, jax.random.key(1))
    optimizer = make_optimizer(self.config(''), 1, None)
    state = train_step.TrainState(
        params, optimizer.corrected.init(params), jax.random.key(0), {},
        reference,
    )
    like = state._replace(reference=params)
    with tempfile.TemporaryDirectory() as folder:
      with checkpoint.Checkpoints(folder) as saved:
        saved.save(1, state, {})
      with checkpoint.Checkpoints(folder) as saved:
        restored, _ = saved.restore(like)
    jax.tree.map(
        np.testing.assert_array_equal, restored.reference, reference
    )


if __name__ == '__main__':
  absltest.main()
