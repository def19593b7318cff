"""A tap that keeps its forward pass: the same numbers, and no copies."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl

R, N, D = 6, 3, 20


def _params():
  keys = jax.random.split(jax.random.key(0), 4)
  return dict(
      table=jax.random.normal(keys[0], (12, D)),
      layers=dict(
          w=0.3 * jax.random.normal(keys[1], (4, D, D)),
          b=0.1 * jax.random.normal(keys[2], (4, D)),
      ),
      head=jax.random.normal(keys[3], (D,)),
  )


def _losses_fn(remat, policy=None):
  """A tied table, scanned layers with an argument shared by rows, a head."""

  def layer(params, x_NxD, scale_R, shift_D):
    y = jnp.tanh(x_NxD @ params['w'] + (params['b'] * scale_R)[None])
    return x_NxD + y * shift_D[None]

  def head(params, x_NxD, table):
    return jnp.sum(jnp.sin(x_NxD @ table.T) @ jnp.ones(12)) + jnp.sum(
        x_NxD @ params
    )

  if policy is not None:
    layer = jax.checkpoint(layer, policy=policy)
  embed = gl.tap(
      lambda table, tokens: table[tokens], owns=lambda table: table,
      remat=remat,
  )
  layer = gl.tap(layer, extra_axes=(0, None), remat=remat)
  head = gl.tap(head, remat=remat)

  def losses_fn(params, probes, tokens_RxN, scale_R, shift_D):
    x_R, table = embed(params['table'], tokens_RxN, probes['table'])

    def step(x_R, of_layer):
      own, probe = of_layer
      return layer(own, x_R, probe, scale_R, shift_D), None

    x_R, _ = jax.lax.scan(step, x_R, (params['layers'], probes['layers']))
    return head(params['head'], x_R, probes['head'], shared=table)

  return losses_fn


def _batch():
  keys = jax.random.split(jax.random.key(1), 3)
  return (
      jax.random.randint(keys[0], (R, N), 0, 12),
      jax.random.uniform(keys[1], (R,)),
      jax.random.uniform(keys[2], (D,)),
  )


_PROBES = dict(
    table=gl.Probe(R), layers=gl.Probe(R, 4), head=gl.Probe(R)
)


class RematTest(parameterized.TestCase):

  @parameterized.product(
      policy=[None, jax.checkpoint_policies.dots_saveable],
      jit=[True, False],
  )
  def test_gradient_and_grams_are_the_same(self, policy, jit):
    want = gl.value_grad_gram(_losses_fn(True))(_params(), _PROBES, *_batch())
    f = gl.value_grad_gram(_losses_fn(False, policy))
    got = (jax.jit(f) if jit else f)(_params(), _PROBES, *_batch())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4),
        got, want,
    )
    self.assertGreater(float(jnp.diag(want[2]['layers'].sum(0)).min()), 0.1)

  @parameterized.parameters('in_backward', 'two_pass', 'lagged')
  def test_corrections_are_the_same(self, apply):
    correction = gl.correct(
        gl.pcgrad(), num_tasks=3, num_splits=2, apply=apply,
        blocks=gl.by_layer if apply == 'in_backward' else None,
    )
    params = _params()
    state = correction.init(params)
    kept, again = (
        gl.value_and_grad_for(correction, _losses_fn(remat))(
            params, state, *_batch()
        )
        for remat in (False, True)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4),
        kept, again,
    )

  def test_integers_and_unused_results(self):
    block = gl.tap(
        lambda w, x: (x @ w, jnp.argmax(x), jnp.ones(2)), remat=False
    )

    def losses_fn(w, probe, x_RxN):
      y_R, place_R, ones_Rx2 = block(w, x_RxN, probe)
      return y_R * (1 + place_R) + ones_Rx2.sum(1)

    x_RxN = jnp.array([[3.0, 0.0], [1.0, 2.0]])
    losses_R, grad, gram_RxR = gl.value_grad_gram(losses_fn)(
        jnp.ones(2), gl.Probe(2), x_RxN
    )
    # Rows' gradients are x (1 + argmax x): [3, 0] and [2, 4].
    np.testing.assert_allclose(losses_R, [5.0, 8.0])
    np.testing.assert_allclose(grad, [5.0, 4.0])
    np.testing.assert_allclose(gram_RxR, [[9.0, 6.0], [6.0, 20.0]])

  def test_what_rows_share_is_kept_once(self):
    rows, size = 64, 100
    w = jnp.ones((size, size))
    x_RxN = jnp.ones((rows, size))
    block = gl.tap(lambda w, x: jnp.tanh(x @ w), remat=False)
    _, pull = jax.vjp(
        lambda w, x_RxN: block(w, x_RxN, gl.Probe(rows)), w, x_RxN
    )
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(pull))
    # Twice the parameters (for the tap, and for the pullback) and few rows; a
    # copy for each row would be 64 times the parameters.
    self.assertLess(kept, 2 * w.nbytes + 6 * x_RxN.nbytes)
    self.assertGreater(kept, w.nbytes)


if __name__ == '__main__':
  absltest.main()
