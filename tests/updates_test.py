"""Products with an update, Adam's metric, and blocks that stand for all."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
from stacked_grads import flat, grads_of, params_like, rows_of

import gradlens as gl


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class UpdateTest(absltest.TestCase):

  def test_along_is_the_product_with_every_row(self):
    params = params_like()
    grads = grads_of(params)
    update = jax.tree.map(lambda a: a[0], grads_of(params, 1, seed=7))
    np.testing.assert_allclose(
        gl.along(grads, update), rows_of(grads) @ flat(update), rtol=1e-5
    )

  def test_gains_are_those_of_the_losses_to_first_order(self):
    # f_k(x) = <a_k, x> + |x|^2 / 2 at a small step: the losses fall by -<g, d>.
    a = jnp.asarray(normal(3, 6))
    x = jnp.asarray(normal(6, seed=1))

    def losses_K(x):
      return a @ x + jnp.sum(x**2) / 2

    step = 1e-3 * jnp.asarray(normal(6, seed=2))
    grads = a + x[None]
    change = losses_K(x + step) - losses_K(x)
    np.testing.assert_allclose(gl.along(grads, step), change, atol=2e-5)
    self.assertGreater(np.abs(change).max(), 1e-3)

  def test_shares_add_up_and_may_be_negative(self):
    shares = gl.shares_along(jnp.array([-3.0, 1.0, -2.0]))
    np.testing.assert_allclose(shares, [0.75, -0.25, 0.5])
    self.assertTrue(np.isnan(gl.shares_along(jnp.array([1.0, -1.0]))).all())

  def test_adam_may_undo_what_a_correction_gave(self):
    # Two tasks on parameters of their own, one 100 times as loud. Equalized,
    # their shares are 1/2; Adam's first step is a sign, so that the loud task's
    # loss falls 100 times as much again.
    params = jnp.zeros(2)
    grads = jnp.array([[100.0, 0.0], [0.0, 1.0]])
    tx = optax.chain(
        gl.correct(gl.equalize_norms(), num_tasks=2), optax.adam(1e-2)
    )
    updates, state = tx.update(grads, tx.init(params), params)
    before = gl.shares(gl.gram(grads), gl.task_weights(state))
    after = gl.shares_along(gl.along(grads, updates))
    np.testing.assert_allclose(before, [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(after, [100 / 101, 1 / 101], rtol=1e-4)


class MetricTest(parameterized.TestCase):

  def test_is_what_adam_multiplies_by(self):
    # Without momentum, Adam's update is -lr * m * g.
    tx = optax.adam(1e-2, b1=0.0)
    params = jnp.zeros(5)
    state = tx.init(params)
    for seed in range(3):
      grad = jnp.asarray(normal(5, seed=seed))
      update, state = tx.update(grad, state)
    # 1 - 0.999^3 is 3e-3 with an error of 6e-8, of which the root takes half.
    np.testing.assert_allclose(
        -1e-2 * gl.adam_metric(state) * grad, update, rtol=3e-5
    )

  def test_before_the_first_step_it_is_ones(self):
    state = optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(jnp.zeros(3))
    np.testing.assert_array_equal(gl.adam_metric(state), np.ones(3))

  @parameterized.parameters(0, 2)
  def test_not_one_adam(self, count):
    tx = optax.chain(optax.clip(1.0), *[optax.adam(1e-3)] * count)
    with self.assertRaisesRegex(ValueError, f'holds {count} states of Adam'):
      gl.adam_metric(tx.init(jnp.zeros(3)))

  def test_gram_in_a_metric(self):
    params = params_like()
    grads = grads_of(params)
    metric = jax.tree.map(
        lambda a: jnp.square(a[0]), grads_of(params, 1, seed=3)
    )
    rows = rows_of(grads)
    np.testing.assert_allclose(
        gl.metric_gram(grads, metric), rows * flat(metric) @ rows.T, rtol=1e-4,
        atol=1e-4,
    )


class BlocksTest(absltest.TestCase):

  def test_ranks_by_hand(self):
    # Ranks 1, 2, 3, 4 against 2, 1, 4, 3: differences 1, so
    # 1 - 6 * 4 / (4 * 15) = 0.6. Equal values share a rank.
    x = jnp.array([10.0, 20.0, 30.0, 40.0])
    got = gl.rank_correlation(x, jnp.array([2.0, 1.0, 9.0, 3.0]))
    np.testing.assert_allclose(got, 0.6, rtol=1e-6)
    # Ranks 1.5, 1.5, 3, 4: 4.5 / sqrt(5 * 4.5).
    got = gl.rank_correlation(x, jnp.array([1.0, 1.0, 5.0, 7.0]))
    np.testing.assert_allclose(got, 4.5 / np.sqrt(5 * 4.5), rtol=1e-6)
    self.assertTrue(np.isnan(gl.rank_correlation(x, jnp.ones(4))))

  def test_a_block_that_follows_the_whole_and_one_that_does_not(self):
    rng = np.random.default_rng(0)
    loud = rng.uniform(1, 100, (50, 2))
    norms_sq = {
        'follows': jnp.asarray(loud + rng.uniform(0, 1, (50, 2)), jnp.float32),
        'noise': jnp.asarray(rng.uniform(0, 1, (50, 2)), jnp.float32),
    }
    proxies = gl.block_proxies(norms_sq)
    self.assertGreater(proxies['follows'].min(), 0.99)
    self.assertLess(np.abs(proxies['noise']).max(), 0.5)


if __name__ == '__main__':
  absltest.main()
