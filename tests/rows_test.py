"""Gradients of rows add up to the joint loss's, whatever it divides by."""

import functools
import itertools

from absl.testing import absltest, parameterized
import jax
import joint_loss
from joint_loss import EMPTY, TEMPERATURE, K
import numpy as np
import pytest

from gradlens.step import objective, task_gradients
from gradlens.step import rows as rows_lib

S = 2
R = K * S
AGGREGATES = ('sequence_mean', 'token_mean', 'fixed_length')
NORMALIZES = ('batch', 'task')
GRPO = objective.grpo(
    advantage_scale='std', clip_low=joint_loss.CLIP_LOW,
    clip_high=joint_loss.CLIP_HIGH,
)

pytestmark = pytest.mark.slow


@functools.cache
def _row_gradients(aggregate):
  losses_fn = task_gradients.make_losses(
      joint_loss.policy()[0], GRPO, temperature=TEMPERATURE,
      aggregate=aggregate,
  )
  return jax.jit(task_gradients.row_gradients(losses_fn, R))


class RowsTest(parameterized.TestCase):

  @parameterized.product(aggregate=AGGREGATES, normalize=NORMALIZES)
  def test_rows_add_up_to_the_joint_gradient(self, aggregate, normalize):
    batch = joint_loss.random_batch()
    expected = {
        names: joint_loss.joint(batch, joint_loss.token_weights(batch, *names))
        for names in itertools.product(AGGREGATES, NORMALIZES)
    }
    loss, gradient = expected.pop((aggregate, normalize))
    found = GRPO.advantages(batch, None)
    row, _ = rows_lib.make_rows(
        rows_lib.Prompts(batch, found, {}), S, aggregate=aggregate,
        normalize=normalize,
    )
    (loss_R, _), grads, _ = _row_gradients(aggregate)(
        {}, joint_loss.policy()[1], row
    )
    rows = joint_loss.rows(grads, R)
    error = joint_loss.distance(rows.sum(0), gradient)
    self.assertLess(error, 1e-5)  # float32 rounding
    np.testing.assert_allclose(loss_R.sum(), loss, rtol=1e-5)
    empty = np.arange(R) // S == EMPTY
    np.testing.assert_array_equal(rows[empty], 0.0)
    np.testing.assert_array_equal(loss_R[empty], 0.0)
    for _, other in expected.values():
      self.assertGreater(joint_loss.distance(other, gradient), 1e-2)


if __name__ == '__main__':
  absltest.main()
