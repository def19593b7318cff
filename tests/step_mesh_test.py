"""The step on meshes of eight devices, against the one on a single device."""

import functools
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import joint_loss
import numpy as np
import pytest

from gradlens import models
from gradlens.configs import default
from gradlens.experience import Batch
from gradlens.models import kernels, vocabulary
from gradlens.step import objective, placement, rows, task_gradients, train_step
from gradlens.step.optimizer import make_optimizer

GRPO = objective.grpo(advantage_scale='std', clip_low=0.2, clip_high=0.2)
PROMPTS, G, T, C, V = 8, 2, 4, 4, 32  # prompts of a row
PLAIN = models.Compute()
MESHES = ((1, 8, 1), (2, 4, 1), (4, 2, 1), (2, 2, 2), (8, 1, 1))

pytestmark = pytest.mark.slow


@functools.cache
def model_and_params(tied, lora=None):
  """Widths that all meshes divide."""
  config = models.DecoderConfig(
      model_type='qwen2', vocab_size=V, hidden_size=16, intermediate_size=24,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      head_dim=8, max_position_embeddings=64, initializer_range=0.3,
      tie_word_embeddings=tied,
  )
  model = models.build(config)
  params = models.init(model, jax.random.key(0))
  if lora is None:
    return model, params, {}
  model, adapters = models.adapt(model, lora, jax.random.key(1))
  # They begin at zero, where half of their gradients are zero as well.
  adapters = jax.tree.map(lambda a: a + 0.1, adapters)
  return model, adapters, params


def batch(num_tasks, num_splits, seed=0):
  """Tasks of unequal token share, prompts and completions of all lengths."""
  draw = np.random.default_rng(seed)
  k, b = num_tasks, PROMPTS * num_splits
  longest = np.maximum(1, C - np.arange(k) % C)[:, None, None, None]
  length = draw.integers(1, C + 1, (k, b, G, 1))
  begin = draw.integers(0, T, (k, b, 1))
  return Batch(*map(jnp.asarray, (
      draw.integers(0, V, (k, b, T), dtype=np.int32), np.arange(T) >= begin,
      draw.integers(0, V, (k, b, G, C), dtype=np.int32),
      np.arange(C) < np.minimum(length, longest),
      draw.normal(-3, 0.3, (k, b, G, C)).astype(np.float32),
      draw.random((k, b, G), dtype=np.float32), np.zeros((k, b, G, 1)),
  )))


def step(sizes, num_tasks, num_splits, apply, *, blocks='global', micro=1,
         tied=True, lora=None, instrument=True, compute=PLAIN):
  """What a step measured, and the state after it; no sizes is one device."""
  model, params, frozen = model_and_params(tied, lora)
  model = model._replace(compute=compute)
  config = default.get_config()
  config.num_splits = num_splits
  config.optimizer.update(b1=0.0, warmup_steps=0, clip_norm=1e3)
  config.correction.update(dict(name='pcgrad', apply=apply, blocks=blocks))
  optimizer = make_optimizer(config, num_tasks, None)
  state = train_step.TrainState(
      params, optimizer.corrected.init(params), jax.random.key(0), frozen,
      {},
  )
  mesh = None
  if sizes is not None:
    mesh = models.make_mesh(*sizes, num_rows=num_tasks * num_splits)
    models.check_mesh(mesh, model.config, PROMPTS // micro)
    state = jax.device_put(
        state, models.shardings(mesh, placement.state_specs(state))
    )
  run = jax.jit(train_step.make_train_step(
      model, optimizer, GRPO, num_splits=num_splits, temperature=0.8,
      aggregate='token_mean', normalize='batch', instrument=instrument,
      num_micro_batches=micro, mesh=mesh,
  ))
  before = jax.tree.map(lambda a: a.sharding, state.params)
  state, measured = run(state, batch(num_tasks, num_splits))
  if sizes is not None:
    after = jax.tree.map(lambda a: a.sharding, state.params)
    assert jax.tree.all(jax.tree.map(
        lambda a, b, c: a.is_equivalent_to(b, c.ndim), before, after,
        state.params,
    )), 'parameters have moved'
  return measured, state


one = functools.cache(functools.partial(step, None))


class SameTest(parameterized.TestCase):

  def assert_same(self, got, want, *, exact=True):
    (measured, state), (expected, other) = got, want
    gradient, oracle = (
        joint_loss.vector(s.opt_state[2][0].mu) for s in (state, other)
    )
    self.assertLess(joint_loss.distance(gradient, oracle), 1e-5)
    if exact and measured.weights is not None:
      # Of 'lagged' steps, which are applied to the next.
      jax.tree.map(
          functools.partial(np.testing.assert_allclose, rtol=1e-5),
          state.opt_state[0].weights_K, other.opt_state[0].weights_K,
      )
    fields = ['loss_R', 'entropy_R', 'sampler_gap_R', 'shares_K']
    for field in fields + (['grams', 'weights'] if exact else []):
      for a, b in zip(
          jax.tree.leaves(getattr(measured, field)),
          jax.tree.leaves(getattr(expected, field)), strict=True,
      ):
        np.testing.assert_allclose(
            a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max(), err_msg=field
        )


@pytest.mark.exhaustive
class ProductTest(SameTest):

  @parameterized.product(
      num_tasks=(2, 3, 4, 8, 16), num_splits=(1, 2), sizes=MESHES
  )
  def test_all_of_all(self, num_tasks, num_splits, sizes):
    args = num_tasks, num_splits, 'two_pass'
    self.assert_same(step(sizes, *args), one(*args))


class MeshTest(SameTest):

  @parameterized.product(sizes=MESHES)
  def test_every_mesh(self, sizes):
    args = 4, 2, 'two_pass'
    self.assert_same(step(sizes, *args), one(*args))

  def test_weights_of_every_layer(self):
    args, blocks = (4, 1, 'in_backward'), dict(blocks='layer', tied=False)
    self.assert_same(step((2, 2, 2), *args, **blocks), one(*args, **blocks))

  @parameterized.parameters(
      # Rows equal to the devices of 'task', more, fewer, and not dividing them.
      ((2, 4, 1), 2, 1), ((4, 2, 1), 8, 1), ((8, 1, 1), 2, 1),
      ((4, 2, 1), 3, 1), ((2, 2, 2), 3, 2), ((8, 1, 1), 16, 1),
      ((4, 2, 1), 3, 2),
  )
  def test_rows(self, sizes, num_tasks, num_splits):
    args = num_tasks, num_splits, 'lagged'
    self.assert_same(step(sizes, *args), one(*args))

  @parameterized.parameters(
      ((4, 2, 1), 4, 1), ((2, 2, 2), 2, 2), ((8, 1, 1), 3, 2),
      ((4, 2, 1), 2, 1, 2),
  )
  def test_stacked(self, sizes, num_tasks, num_splits, micro=1):
    args = num_tasks, num_splits, 'stacked'
    self.assert_same(
        step(sizes, *args, micro=micro), one(*args, micro=micro)
    )

  def test_stacked_activations_are_divided(self):
    def temporary(sizes):
      model, params, _ = model_and_params(False)
      mesh = models.make_mesh(*sizes, num_rows=8)
      losses_fn = task_gradients.make_losses(
          model, GRPO, temperature=1.0, aggregate='token_mean', mesh=mesh
      )
      gradients = task_gradients.row_gradients(losses_fn, 8, mesh)
      own, denominator = batch(8, 1), jnp.ones(8)
      row = rows.Row(own, own.rewards_KxBxG, {}, denominator)
      row = jax.device_put(
          row, models.shardings(mesh, placement.row_specs(row, None))
      )
      params = jax.device_put(
          params, models.shardings(mesh, models.specs(params))
      )
      program = jax.jit(gradients).lower({}, params, row).compile()
      return program.memory_analysis().temp_size_in_bytes

    # With 'tensor' alone every device has all rows.
    self.assertLess(temporary((8, 1, 1)), 0.4 * temporary((1, 1, 8)))

  def test_micro_batches(self):
    got = step((2, 4, 1), 2, 1, 'lagged', micro=2)
    # Other sketches, of the same gradients.
    self.assert_same(got, one(2, 1, 'lagged', micro=2), exact=False)
    whole, _ = one(2, 1, 'lagged')
    norms, want = (
        np.sqrt(sum(
            np.diagonal(g, axis1=-2, axis2=-1).reshape(-1, 2).sum(0)
            for g in jax.tree.leaves(measured.grams)
        )) for measured in (got[0], whole)
    )
    np.testing.assert_allclose(norms, want, rtol=4 * np.sqrt(0.5 / 4096))

  @parameterized.parameters(1, 2)
  def test_without_instruments(self, micro):
    args = dict(micro=micro, instrument=False)
    got, want = step((2, 4, 1), 2, 1, 'lagged', **args), one(
        2, 1, 'lagged', **args
    )
    self.assert_same(got, want)

  @parameterized.parameters('lagged', 'stacked')
  def test_adapters(self, apply):
    lora = models.Lora(2, 4.0, ('q', 'down'))
    self.assert_same(
        step((2, 2, 2), 4, 1, apply, lora=lora), one(4, 1, apply, lora=lora)
    )

  def test_a_kernel_has_the_heads_of_its_device(self):
    anywhere = functools.partial(kernels.cudnn, implementation='xla')
    with mock.patch.dict(kernels.KERNELS, cudnn=anywhere):
      got = step((2, 2, 2), 2, 1, 'lagged', compute=models.Compute(
          attention='cudnn'
      ))
    self.assert_same(got, one(2, 1, 'lagged'))

  @parameterized.parameters(((2, 2, 2), 'lagged'), ((4, 2, 1), 'stacked'))
  def test_some_tokens_after_others(self, sizes, apply):
    # Two tokens of a row, or of all of a device.
    with mock.patch.object(vocabulary, 'MAX_LOGITS', 2 * V):
      got = step(sizes, 4, 2, apply)
    self.assert_same(got, one(4, 2, apply))

  def test_what_is_kept_of_a_layer(self):
    compute = models.Compute(remat='dots')
    self.assert_same(
        step((2, 4, 1), 2, 1, 'lagged', compute=compute),
        one(2, 1, 'lagged'),
    )

  def test_half_precision(self):
    compute = models.Compute(dtype='bfloat16')
    measured, state = step((2, 4, 1), 2, 1, 'lagged', compute=compute)
    expected, other = one(2, 1, 'lagged', compute=compute)
    np.testing.assert_allclose(measured.loss_R, expected.loss_R, atol=2e-2)
    gradient, oracle = (
        joint_loss.vector(s.opt_state[2][0].mu) for s in (state, other)
    )
    self.assertLess(joint_loss.distance(gradient, oracle), 5e-2)


class MakeMeshTest(parameterized.TestCase):

  @parameterized.parameters(
      ((4, 2, 1), 8, (4, 2, 1)), ((4, 2, 1), 6, (2, 4, 1)),
      ((8, 1, 1), 3, (1, 8, 1)), ((4, 1, 2), 2, (2, 2, 2)),
      # What the other two leave.
      ((2, -1, 2), 8, (2, 2, 2)), ((4, -1, 1), 2, (2, 4, 1)),
      ((8, -1, 1), 8, (8, 1, 1)),
  )
  def test_as_many_groups_as_divide_the_rows(self, sizes, num_rows, want):
    mesh = models.make_mesh(*sizes, num_rows=num_rows)
    self.assertEqual(tuple(mesh.shape.values()), want)

  def test_not_all_devices(self):
    with self.assertRaisesRegex(
        ValueError, '2 x 2 x 1 = 4 devices .* and there are 8'
    ):
      models.make_mesh(2, 2, 1, num_rows=2)

  @parameterized.parameters((3, 1), (16, 1), (4, 4))
  def test_nothing_to_leave(self, task, tensor):
    with self.assertRaisesRegex(
        ValueError, f'8 devices cannot be divided by .* = {task} x {tensor}'
    ):
      models.make_mesh(task, -1, tensor, num_rows=2)

  @parameterized.parameters(
      ((1, 8, 1), 4, 'the prompts of a row = 4 .* 8 devices'),
      ((1, 1, 8), 8, 'num_key_value_heads = 2 .* 8 devices'),
  )
  def test_what_does_not_divide(self, sizes, num_prompts, message):
    mesh = models.make_mesh(*sizes, num_rows=1)
    config = model_and_params(True)[0].config
    with self.assertRaisesRegex(ValueError, message):
      models.check_mesh(mesh, config, num_prompts)


if __name__ == '__main__':
  absltest.main()
