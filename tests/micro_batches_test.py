"""Gradients accumulated over micro-batches, in each way to apply them."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tapped_decoder as decoder
from tapped_decoder import R, relative

import gradlens as gl


def losses_fn(tied):
  return functools.partial(decoder.losses_fn, tied)


def run(correction, batches, **kwargs):
  """Updates `[steps, N]` of plain descent on a tied model; the last state."""
  tx = optax.chain(correction, optax.sgd(1.0))
  value_and_grad = gl.value_and_grad_for(correction, losses_fn(True), **kwargs)

  @jax.jit
  def step(params, state, *batch):
    _, grads, grams = value_and_grad(params, state, *batch)
    return tx.update(grads, state, params, gram=grams)

  params = decoder.params(True)
  state, updates = tx.init(params), []
  for batch in batches:
    update, state = step(params, state, *batch)
    updates.append(decoder.flat(update))
  return np.stack(updates), state[0]


def micro_batches(num_micro, num_steps=1):
  """`[M, R, ...]`: every row's sequences in M parts, each with its own mean."""
  for step in range(num_steps):
    parts = [decoder.batch(seed=100 * step + m) for m in range(num_micro)]
    yield jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


class MicroBatchesTest(parameterized.TestCase):

  def oracle(self, tied, batch):
    params = decoder.params(tied)
    return sum(
        decoder.matrix(decoder.rows(tied, params, [a[m] for a in batch]))
        for m in range(len(batch[0]))
    )

  def test_stacked_is_exact(self):
    (batch,) = micro_batches(3)
    correction = gl.correct(gl.equalize_norms(), num_tasks=R)
    (update,), state = run(correction, [batch], num_micro_batches=3)
    rows = self.oracle(True, batch)
    self.assertLess(relative(state.gram_RxR, rows @ rows.T), 1e-5)
    want = (rows / np.linalg.norm(rows, axis=1, keepdims=True) / R).sum(0)
    self.assertLess(relative(update, -want), 1e-5)

  @parameterized.parameters('two_pass', 'lagged')
  def test_through_taps_the_gradient_is_exact_for_its_weights(self, apply):
    (batch,) = micro_batches(3)
    correction = gl.correct(gl.equalize_norms(), num_tasks=R, apply=apply)
    kwargs = dict(num_micro_batches=3, sketch_size=512)
    updates, state = run(correction, [batch, batch], **kwargs)
    rows = self.oracle(True, batch)
    # Both steps see one batch, so that the weights of both are the same.
    want = np.asarray(state.weights_K, np.float64) @ rows
    self.assertLess(relative(updates[1], -want), 1e-5)
    # And its Gram matrix is right to the sketches' error: 4 standard errors of
    # sqrt(2 / 512) = 6.3%. That of the last micro-batch alone would be off by
    # more.
    exact = rows @ rows.T
    lengths = np.sqrt(np.diag(exact))
    error = abs(state.gram_RxR - exact) / np.outer(lengths, lengths)
    self.assertLess(error.max(), 0.25)
    alone = self.oracle(True, [a[-1:] for a in batch])
    self.assertGreater(
        (abs(alone @ alone.T - exact) / np.outer(lengths, lengths)).max(), 0.5
    )

  def test_in_backward_refuses(self):
    correction = gl.correct(
        gl.total(), num_tasks=R, apply='in_backward', blocks=gl.by_layer
    )
    with self.assertRaisesRegex(ValueError, 'one micro-batch, not of'):
      gl.value_and_grad_for(
          correction, losses_fn(False), num_micro_batches=2
      )

  def test_micro_batches_lead(self):
    correction = gl.correct(gl.total(), num_tasks=R, apply='lagged')
    params = decoder.params(False)
    f = gl.value_and_grad_for(
        correction, losses_fn(False), num_micro_batches=3
    )
    with self.assertRaisesRegex(ValueError, r'batch\[0\] has shape \(4, 2'):
      f(params, correction.init(params), *decoder.batch())


if __name__ == '__main__':
  absltest.main()
