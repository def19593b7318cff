"""Sketches add up, are unbiased, and err by no more than they say."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl
from gradlens.sketch import _hash, sketch_gram

SIZE = 256


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def errors(rows_TxRxN, size):
  """Errors of the Gram, relative to the rows' lengths, for T draws."""
  grams = jax.vmap(gl.gram)(rows_TxRxN)
  sketches = jax.vmap(lambda rows: gl.sketch(rows, size))(rows_TxRxN)
  sketched = sketch_gram(sketches)
  lengths = jnp.sqrt(jnp.diagonal(grams, axis1=1, axis2=2))
  scale = lengths[:, :, None] * lengths[:, None, :]
  return np.asarray((sketched - grams) / scale), np.asarray(grams / scale)


class SketchTest(parameterized.TestCase):

  def test_is_linear(self):
    a, b = (
        {'w': normal(3, 40, 50, seed=s), 'b': normal(3, 7, seed=s + 9)}
        for s in (0, 1)
    )
    both = jax.tree.map(lambda x, y: 2 * x - y, a, b)
    np.testing.assert_allclose(
        gl.sketch(both, SIZE), 2 * gl.sketch(a, SIZE) - gl.sketch(b, SIZE),
        atol=1e-3,
    )

  def test_every_entry_goes_to_one_bucket_with_a_sign(self):
    # A row for every entry: its sketch has one entry, 1 or -1.
    for num_entries in (1, SIZE, 3 * SIZE + 5):
      sketch = np.asarray(gl.sketch(jnp.eye(num_entries), SIZE))
      np.testing.assert_array_equal(np.abs(sketch).sum(1), np.ones(num_entries))
      self.assertLessEqual(set(np.unique(sketch)), {-1.0, 0.0, 1.0})

  def test_buckets_and_signs_are_even(self):
    # 100 entries a bucket: were they independent, counts would spread by 10;
    # signs of 25,600 entries sum to 0 +- 160, of one bucket to 0 +- 10.
    n = 100 * SIZE
    ones = gl.sketch(jnp.ones((1, n)), SIZE)[0]
    odd = int(jnp.sum(_hash(jnp.arange(n, dtype=jnp.uint32), 0) & 1))
    self.assertLess(abs(2 * odd - n), 5 * 160)
    self.assertLess(abs(np.std(ones) - 10), 3)
    self.assertLess(abs(np.mean(ones)), 5 * 10 / np.sqrt(SIZE))

  @parameterized.named_parameters(
      ('dense', lambda rows: rows),
      # Strided buckets would put this column into a few of them: an error of
      # order 1, where the bound is 0.09.
      ('one dominant column', lambda rows: rows.at[..., 5].multiply(100.0)),
      ('one dominant row', lambda rows: rows.at[:, :, 3].multiply(100.0)),
      ('parallel rows', lambda rows: rows[:, :1] * jnp.array(
          [1.0, -1.0, 0.5])[None, :, None, None]),
  )
  def test_error_is_within_the_bound(self, change):
    # Var <= (|x|^2 |y|^2 + <x, y>^2) / size. Which entries meet is fixed, so
    # draws are of the values; each row is of 128 x 64 = 32 runs of 256.
    draws = 300
    rows = change(normal(draws, 3, 128, 64))
    error, cosine = errors(rows, SIZE)
    bound = (1 + cosine**2).mean(0) / SIZE
    mean_square = (error**2).mean(0)
    np.testing.assert_array_less(mean_square, 1.4 * bound)
    # And no bias: five standard errors.
    np.testing.assert_array_less(
        np.abs(error.mean(0)), 5 * np.sqrt(bound / draws)
    )

  def test_the_bound_is_of_the_right_order(self):
    error, cosine = errors(normal(300, 3, 128, 64), SIZE)
    bound = (1 + cosine**2).mean(0) / SIZE
    np.testing.assert_array_less(bound / 2, (error**2).mean(0))

  def test_four_times_the_size_halves_the_error(self):
    rows = normal(200, 2, 64, 256)
    small, large = (
        np.sqrt((errors(rows, size)[0] ** 2).mean()) for size in (64, 256)
    )
    self.assertBetween(small / large, 1.6, 2.5)

  def test_leaves_do_not_share_their_signs(self):
    # Two equal leaves: with equal signs and buckets, the sketch would be twice
    # that of one, a squared norm of 4 in place of 2.
    leaf = normal(1, 20_000)
    both = gl.sketch({'a': leaf, 'b': leaf}, SIZE)
    alone = gl.sketch({'a': leaf}, SIZE)
    ratio = float(jnp.sum(both**2) / jnp.sum(alone**2))
    self.assertBetween(ratio, 1.5, 2.5)

  def test_misuse(self):
    with self.assertRaisesRegex(ValueError, 'size=0 holds nothing'):
      gl.sketch(jnp.ones((2, 3)), 0)


if __name__ == '__main__':
  absltest.main()
