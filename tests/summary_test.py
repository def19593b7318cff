"""The table of tasks, and the numbers in it, by hand."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl


class SummaryTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    # Two tasks of two splits; inner products with the update by hand below.
    self.gram_RxR = jnp.array([
        [8.0, 4.0, 1.0, 0.0],
        [4.0, 8.0, 0.0, 1.0],
        [1.0, 0.0, 2.0, 1.0],
        [0.0, 1.0, 1.0, 2.0],
    ])

  def test_numbers(self):
    summary = gl.summarize(
        self.gram_RxR, jnp.array([0.5, 1.0]), num_splits=2,
        names=['code', 'math'], loss_shares_K=jnp.array([0.8, 0.2]),
    )
    expected = {
        'norm_sq/naive/code': 24, 'norm_sq/naive/math': 6,
        # Twice the sum of the two products between splits.
        'norm_sq/unbiased/code': 16, 'norm_sq/unbiased/math': 4,
        'intrinsic_norm_sq/naive/code': 24 / 0.64,
        'intrinsic_norm_sq/naive/math': 6 / 0.04,
        'intrinsic_norm_sq/unbiased/code': 16 / 0.64,
        'intrinsic_norm_sq/unbiased/math': 4 / 0.04,
        # Naive products 24, 2, 6: the update has length^2 34, then 6 + 2 + 6.
        'share/before/code': 26 / 34, 'share/before/math': 8 / 34,
        'share/after/code': 7 / 14, 'share/after/math': 7 / 14,
        'weight/code': 0.5, 'weight/math': 1,
        # The tasks have products in equal splits only: shared noise.
        'cosine/code/math': 0,
        'imbalance': 4,
    }
    self.assertEqual(set(summary), set(expected))
    for tag, value in expected.items():
      np.testing.assert_allclose(summary[tag], value, rtol=1e-6, err_msg=tag)
      self.assertIsInstance(summary[tag], float)

  def test_the_table_is_aligned_and_in_the_order_of_names(self):
    summary = gl.summarize(
        self.gram_RxR, jnp.array([0.5, 1.0]), num_splits=2,
        names=['z', 'a long name'], loss_shares_K=jnp.array([0.8, 0.2]),
    )
    *lines, closing = str(summary).splitlines()
    self.assertLen({len(line) for line in lines}, 1)
    self.assertEqual(lines[0].split(maxsplit=1), ['z', 'a long name'])
    self.assertEqual(lines[2].split(), ['norm^2', 'unbiased', '16', '4'])
    self.assertEqual(lines[4].split(), ['intrinsic', 'unbiased', '25', '100'])
    self.assertEqual(
        closing, 'imbalance 4: unbiased squared norm of z over a long name'
    )

  def test_without_splits_the_unbiased_norm_is_not_available(self):
    summary = gl.summarize(
        jnp.array([[9.0, 3.0], [3.0, 4.0]]), jnp.ones(2), num_splits=1,
        names=['code', 'math'],
    )
    self.assertNotIn('norm_sq/unbiased/code', summary)
    self.assertNotIn('intrinsic_norm_sq/naive/code', summary)
    np.testing.assert_allclose(summary['cosine/code/math'], 0.5, rtol=1e-6)
    table = str(summary)
    self.assertRegex(table, r'norm\^2 unbiased +n/a +n/a\n')
    self.assertNotIn('intrinsic', table)
    self.assertIn('imbalance 2.25: naive squared norm of code over math', table)

  def test_a_norm_below_zero_has_no_ratio(self):
    gram_RxR = self.gram_RxR.at[2, 3].set(-1.0).at[3, 2].set(-1.0)
    summary = gl.summarize(
        gram_RxR, jnp.ones(2), num_splits=2, names=['code', 'math']
    )
    self.assertEqual(summary['norm_sq/unbiased/math'], -4)
    self.assertTrue(np.isnan(summary['imbalance']))
    self.assertRegex(str(summary), r'cosine math +n/a')
    self.assertIn('imbalance n/a: unbiased', str(summary))

  def test_an_empty_task_has_no_intrinsic_norm(self):
    summary = gl.summarize(
        jnp.diag(jnp.array([4.0, 0.0])), jnp.ones(2), num_splits=1,
        names=['code', 'math'], loss_shares_K=jnp.array([1.0, 0.0]),
    )
    self.assertTrue(np.isnan(summary['intrinsic_norm_sq/naive/math']))
    self.assertEqual(summary['intrinsic_norm_sq/naive/code'], 4)

  def test_a_task_under_two_names(self):
    # The rows are the same, noise included.
    rng = np.random.default_rng(0)
    rows = jnp.asarray(np.tile(rng.normal(size=(2, 30)) + 0.5, (2, 1)))
    summary = gl.summarize(
        jax.jit(gl.gram)(rows), jnp.ones(2), num_splits=2, names=['a', 'b']
    )
    for tag, value in (('cosine/a/b', 1), ('imbalance', 1)):
      np.testing.assert_allclose(summary[tag], value, rtol=1e-5)

  @parameterized.parameters(
      (1, ['a', 'b'], r'shape \(4, 4\)'),
      (2, ['a', 'b', 'c'], 'for 3 names'),
      (2, ['a', 'a'], 'name of its own'),
  )
  def test_misuse(self, num_splits, names, message):
    with self.assertRaisesRegex(ValueError, message):
      gl.summarize(
          self.gram_RxR, jnp.ones(2), num_splits=num_splits, names=names
      )


if __name__ == '__main__':
  absltest.main()
