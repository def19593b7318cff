"""The optimizer that a config names: one chain in two forms, and its errors."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradlens as gl
from gradlens.configs import default
from gradlens.step.optimizer import make_optimizer

K, S = 2, 2


def _config(**changes):
  config = default.get_config()
  config.num_steps = 20
  config.update_from_flattened_dict(
      {key.replace('__', '.'): value for key, value in changes.items()}
  )
  return config


def _params():
  return dict(layers=dict(w=jnp.ones((2, 3))), head=jnp.full(4, 2.0))


class ScheduleTest(parameterized.TestCase):

  @parameterized.parameters('constant', 'cosine')
  def test_without_warmup_the_rate_starts_at_its_peak(self, schedule):
    rate = make_optimizer(
        _config(optimizer__schedule=schedule, optimizer__warmup_steps=0),
        K, None,
    ).schedule
    self.assertAlmostEqual(float(rate(0)), 1e-3)
    # Half of a cosine is left after half of the steps.
    later = dict(constant=1e-3, cosine=5e-4)[schedule]
    self.assertAlmostEqual(float(rate(10)), later)

  @parameterized.parameters('constant', 'cosine')
  def test_warmup_is_linear(self, schedule):
    rate = make_optimizer(
        _config(optimizer__schedule=schedule, optimizer__warmup_steps=4),
        K, None,
    ).schedule
    got = [float(rate(step)) for step in range(1, 5)]
    np.testing.assert_allclose(got, [2.5e-4, 5e-4, 7.5e-4, 1e-3], rtol=1e-5)


class ChainTest(absltest.TestCase):

  def test_both_forms_make_the_same_update(self):
    optimizer = make_optimizer(_config(optimizer__warmup_steps=1), K, None)
    params = _params()
    state = optimizer.corrected.init(params)
    gl.check(optimizer.corrected, params, num_tasks=K, num_splits=S)
    keys = jax.random.split(jax.random.key(0), 3)
    plain = state
    for key in keys:
      rows = jax.tree.map(
          lambda p, key=key: jax.random.normal(key, (K * S, *p.shape)), params
      )
      updates, state = optimizer.corrected.update(rows, state, params)
      summed = jax.tree.map(lambda g: g.sum(0), rows)
      correction, *rest = plain
      plain_updates, rest = optimizer.plain.update(summed, tuple(rest), params)
      plain = (correction, *rest)
    self.assertGreater(float(optax.tree.norm(updates)), 1e-4)
    for got, want in ((updates, plain_updates), (state[1:], plain[1:])):
      jax.tree.map(
          lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9),
          got, want,
      )

  def test_weights_by_layer(self):
    optimizer = make_optimizer(
        _config(correction__name='equalize_norms', correction__blocks='layer'),
        K, None,
    )
    params = _params()
    rows = jax.tree.map(lambda p: jnp.ones((K * S, *p.shape)), params)
    _, state = optimizer.corrected.update(
        rows, optimizer.corrected.init(params), params
    )
    # A task's gradient, of two rows, is 2 everywhere: its length in the head is
    # 4, in a layer 2 sqrt(3). Both weights are 1 / (2 * length).
    weights = gl.task_weights(state)
    np.testing.assert_allclose(weights['head'], [1 / 8] * 2, rtol=1e-5)
    np.testing.assert_allclose(
        weights['layers'], np.full((2, 2), 1 / (4 * np.sqrt(3))), rtol=1e-5
    )

  def test_a_weighting_of_ones_own_stands_in(self):
    mine = gl.stateless(lambda gram_KxK: jnp.array([3.0, 5.0]), 'mine')
    optimizer = make_optimizer(_config(), K, mine)
    params = _params()
    rows = jax.tree.map(lambda p: jnp.ones((K * S, *p.shape)), params)
    _, state = optimizer.corrected.update(
        rows, optimizer.corrected.init(params), params
    )
    np.testing.assert_array_equal(gl.task_weights(state), [3.0, 5.0])


class DescentTest(parameterized.TestCase):

  def updates(self, grads, **changes):
    """Of parameters of 2, by gradients that are one task's."""
    optimizer = make_optimizer(
        _config(optimizer__warmup_steps=0, **changes), 1, None
    )
    params = dict(w=jnp.full(2, 2.0))
    state, found = optimizer.corrected.init(params), []
    for grad in grads:
      rows = dict(w=jnp.stack([jnp.asarray(grad), jnp.zeros(2)]))
      update, state = optimizer.corrected.update(rows, state, params)
      found.append(update['w'])
    return np.array(found)

  def test_sgd_has_no_memory(self):
    grads = np.array([[3.0, -4.0], [0.3, 0.4]])
    # The first is clipped to a length of 1; decay comes after that.
    want = -1e-3 * (np.array([[0.6, -0.8], [0.3, 0.4]]) + 0.1 * 2)
    got = self.updates(
        grads, optimizer__name='sgd', optimizer__weight_decay=0.1
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_without_clipping(self):
    grads = np.array([[3.0, -4.0]])
    got = self.updates(grads, optimizer__name='sgd', optimizer__clip_norm=0.0)
    np.testing.assert_allclose(got, -1e-3 * grads, rtol=1e-5)

  def test_lion_takes_signs(self):
    # Moments are (1 - b2) g = 0.01 g after one step; the second update is the
    # sign of 0.9 of these and 0.1 of the second gradient: of
    # (0.009 * 0.6 - 0.1 * 0.1, -0.009 * 0.8 + 0.1 * 0.05).
    got = self.updates(
        np.array([[0.6, -0.8], [-0.1, 0.05]]), optimizer__name='lion'
    )
    np.testing.assert_allclose(got, -1e-3 * np.array([[1, -1], [-1, -1]]))


class ErrorTest(parameterized.TestCase):

  @parameterized.parameters(
      ('correction__name', 'pcgrads', "correction.name='pcgrads'.*pcgrad"),
      ('correction__blocks', 'leaf', "correction.blocks='leaf'.*global, layer"),
      ('optimizer__schedule', 'step', "optimizer.schedule='step'.*cosine"),
      ('optimizer__name', 'adam', "optimizer.name='adam'.*adamw, lion, sgd"),
  )
  def test_an_unknown_name_is_named_with_the_choices(self, key, value, message):
    with self.assertRaisesRegex(ValueError, message):
      make_optimizer(_config(**{key: value}), K, None)

  def test_arguments_that_do_not_fit(self):
    config = _config(correction__name='equalize_norms')
    config.correction.kwargs.aim = 'min'
    with self.assertRaisesRegex(ValueError, "correction.kwargs=.*'aim'"):
      make_optimizer(config, K, None)


if __name__ == '__main__':
  absltest.main()
