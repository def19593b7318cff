"""Diagnostics: what a Gram matrix says about the tasks, with its error."""

from collections.abc import Callable, Mapping, Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

from gradlens.gram import task_gram


def shares(gram_KxK: jax.Array, weights_K: jax.Array) -> jax.Array:
  r"""Every task's share of an update, along the update; they add up to 1.

  .. math:: \text{share}_k = \frac{w_k \langle g_k, d \rangle}{\|d\|^2},
    \qquad d = \sum_l w_l g_l

  A share below 0 is a task that the update moves against. With weights 1 these
  are the shares before correction.

  Args:
    gram_KxK: `[K, K]`.
    weights_K: `[K]`.

  Returns:
    `[K]`; zeros if the update is zero.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_KxK = jnp.array([[3., 0.], [0., 1.]])
  >>> print(gl.shares(gram_KxK, jnp.ones(2)))
  [0.75 0.25]
  """
  products_KxK = weights_K[:, None] * gram_KxK * weights_K[None, :]
  length_sq = jnp.sum(products_KxK)
  moves = length_sq > 0
  along_K = products_KxK.sum(axis=1)
  return jnp.where(moves, along_K / jnp.where(moves, length_sq, 1.0), 0.0)


def cosines(gram_KxK: jax.Array) -> jax.Array:
  """The cosine of every pair of tasks; NaN where a squared norm is not above 0.

  Of a debiased Gram matrix, single values may lie outside [-1, 1].

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> print(gl.cosines(jnp.array([[4., -3.], [-3., 9.]])))
  [[ 1.  -0.5]
   [-0.5  1. ]]
  """
  norms_sq_K = jnp.diag(gram_KxK)
  present_K = norms_sq_K > 0
  norms_K = jnp.sqrt(jnp.where(present_K, norms_sq_K, 1.0))
  cosines_KxK = gram_KxK / norms_K[:, None] / norms_K[None, :]
  defined_KxK = present_K[:, None] & present_K[None, :]
  return jnp.where(defined_KxK, cosines_KxK, jnp.nan)


def jackknife(
    statistic: Callable[..., jax.Array],
    *arrays: jax.Array,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  r"""A statistic with an interval, from independent blocks of observations.

  The delete-one jackknife, with Student's t quantile at n - 1 degrees of
  freedom:

  .. math:: \hat\theta \pm t_{n-1} \sqrt{\frac{n-1}{n}
    \sum_i (\hat\theta_{(i)} - \hat\theta_{(\cdot)})^2}

  For smooth statistics, and best for those with a symmetric distribution: take
  the logarithm of a ratio, and exponentiate the interval.

  Args:
    statistic: `statistic(*arrays)`, a number or an array of them, whatever the
      number of blocks.
    *arrays: each with the n blocks on its leading axis.
    level: the probability that the interval holds the true value.

  Returns:
    `(estimate, low, high)`: the statistic of all blocks, and its interval.

  Raises:
    ValueError: with fewer than two blocks, or arrays of unequal numbers.

  References:
    Efron and Stein, The Jackknife Estimate of Variance, 1981

  >>> import numpy as np
  >>> import gradlens as gl
  >>> estimate, low, high = gl.jackknife(np.mean, np.array([1., 2., 3.]))
  >>> print(f'{estimate:.3f} [{low:.3f}, {high:.3f}]')
  2.000 [-0.484, 4.484]
  """
  arrays = [np.asarray(array) for array in arrays]
  counts = {len(array) for array in arrays}
  if len(counts) != 1 or min(counts) < 2:
    raise ValueError(
        'jackknife needs the same two or more blocks in every array, got '
        f'{[len(array) for array in arrays]}'
    )
  (n,) = counts
  estimate = np.asarray(statistic(*arrays), np.float64)
  without = np.stack([
      np.asarray(statistic(*(np.delete(array, i, 0) for array in arrays)))
      for i in range(n)
  ]).astype(np.float64)
  spread = np.sqrt((n - 1) * np.var(without, axis=0))
  margin = _student_t(level, n - 1) * spread
  return estimate, estimate - margin, estimate + margin


def _student_t(level: float, degrees: int) -> float:
  """The t that |T| stays below with probability `level`."""
  # With t = sqrt(degrees) * tan(angle) the density is a power of a cosine.
  angles = np.linspace(0, np.pi / 2, 100_001)
  density = np.cos(angles) ** (degrees - 1)
  below = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
  angle = np.interp(level, below / below[-1], angles)
  return math.sqrt(degrees) * math.tan(angle)


class Summary(dict):
  """Numbers by tag, `quantity/task`; as a string, a table.

  Attributes:
    names: the tasks, in order.
  """

  def __init__(
      self, scalars: Mapping[str, float], names: Sequence[str]
  ) -> None:
    super().__init__(scalars)
    self.names = tuple(names)

  def __str__(self) -> str:
    table = [['', *self.names]]
    for label, quantity in _LINES.items():
      values = [self.get(f'{quantity}/{name}', np.nan) for name in self.names]
      # A missing unbiased norm is shown: the naive one is no substitute.
      if quantity == 'norm_sq/unbiased' or not np.isnan(values).all():
        table.append([label, *map(_number, values)])
    for one in self.names:
      cosines = [self._cosine(one, other) for other in self.names]
      table.append([f'cosine {one}', *map(_number, cosines)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        label.ljust(widths[0]) + ''.join(
            cell.rjust(2 + width)
            for cell, width in zip(cells, widths[1:], strict=True)
        )
        for label, *cells in table
    ]
    return '\n'.join([*lines, self._imbalance()])

  def _cosine(self, one: str, other: str) -> float:
    if one == other:
      return 1.0
    first, second = sorted((one, other), key=self.names.index)
    return self[f'cosine/{first}/{second}']

  def _imbalance(self) -> str:
    kinds = ('unbiased', 'naive')
    kind = next(k for k in kinds if f'norm_sq/{k}/{self.names[0]}' in self)
    norms = {name: self[f'norm_sq/{kind}/{name}'] for name in self.names}
    loudest, quietest = max(norms, key=norms.get), min(norms, key=norms.get)
    return (
        f'imbalance {_number(self["imbalance"])}: {kind} squared norm of '
        f'{loudest} over {quietest}'
    )


_LINES = {
    'norm^2 naive': 'norm_sq/naive',
    'norm^2 unbiased': 'norm_sq/unbiased',
    'intrinsic naive': 'intrinsic_norm_sq/naive',
    'intrinsic unbiased': 'intrinsic_norm_sq/unbiased',
    'share before': 'share/before',
    'share after': 'share/after',
    'weight': 'weight',
}


def summarize(
    gram_RxR: jax.Array,
    weights_K: jax.Array,
    *,
    num_splits: int,
    names: Sequence[str],
    loss_shares_K: jax.Array | None = None,
) -> Summary:
  r"""The tasks' norms, shares, weights and cosines, as a dict and as a table.

  Norms of rows are contributions to the update. An intrinsic norm is that of
  the task's own normalized loss: the contribution over `loss_share ** 2`.

  Unbiased norms need two splits: without, there are the naive ones, noise
  included. Cosines are debiased as well where there are splits: of the
  `'cross'` Gram matrix, which is right for tasks that share prompts too.

  Args:
    gram_RxR: `[K * S, K * S]`, task-major, of one step or a mean over steps.
    weights_K: the weights of the correction.
    num_splits: S.
    names: K different names.
    loss_shares_K: the share of a task's own loss in the batch loss, such as its
      fraction of the tokens.

  Returns:
    A dict of floats that prints as a table, with the tags `norm_sq/naive/T`,
    `norm_sq/unbiased/T`, `intrinsic_norm_sq/naive/T`,
    `intrinsic_norm_sq/unbiased/T`, `share/before/T`, `share/after/T`,
    `weight/T` for a task T, `cosine/T/U` for a pair in order, and `imbalance`:
    the loudest squared norm over the quietest. What was not measured is absent;
    what is undefined, such as a ratio to a norm not above 0, is NaN.

  Raises:
    ValueError: if sizes do not match, or two tasks have one name.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> gram_RxR = jnp.array([[8., 4., 1., 0.], [4., 8., 0., 1.],
  ...                       [1., 0., 2., 1.], [0., 1., 1., 2.]])
  >>> print(gl.summarize(gram_RxR, jnp.array([0.5, 1.]), num_splits=2,
  ...                    names=['code', 'math']))
                    code   math
  norm^2 naive        24      6
  norm^2 unbiased     16      4
  share before     0.765  0.235
  share after        0.5    0.5
  weight             0.5      1
  cosine code          1      0
  cosine math          0      1
  imbalance 4: unbiased squared norm of code over math
  """
  gram_RxR = jnp.asarray(gram_RxR, jnp.float32)
  weights_K = jnp.asarray(weights_K, jnp.float32)
  num_rows = len(names) * num_splits
  if gram_RxR.shape != (num_rows, num_rows) or weights_K.shape != (len(names),):
    raise ValueError(
        f'gram_RxR has shape {gram_RxR.shape} and weights_K {weights_K.shape} '
        f'for {len(names)} names and num_splits={num_splits}'
    )
  if len(set(names)) < len(names):
    raise ValueError(f'every task needs a name of its own, got {list(names)}')

  naive_KxK = best_KxK = task_gram(gram_RxR, num_splits)
  columns = {
      'share/before': shares(naive_KxK, jnp.ones(len(names))),
      'share/after': shares(naive_KxK, weights_K),
      'weight': weights_K,
      'norm_sq/naive': jnp.diag(naive_KxK),
  }
  if num_splits > 1:
    best_KxK = task_gram(gram_RxR, num_splits, 'cross')
    columns['norm_sq/unbiased'] = jnp.diag(best_KxK)
  if loss_shares_K is not None:
    scale_K = jnp.square(jnp.asarray(loss_shares_K, jnp.float32))
    columns |= {
        f'intrinsic_{quantity}': _ratio(values_K, scale_K)
        for quantity, values_K in columns.items()
        if quantity.startswith('norm_sq')
    }
  scalars = {
      f'{quantity}/{name}': float(value)
      for quantity, values_K in columns.items()
      for name, value in zip(names, values_K, strict=True)
  }
  cosines_KxK = np.asarray(cosines(best_KxK))
  for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
    scalars[f'cosine/{names[i]}/{names[j]}'] = float(cosines_KxK[i, j])
  norms_sq_K = jnp.diag(best_KxK)
  scalars['imbalance'] = float(_ratio(norms_sq_K.max(), norms_sq_K.min()))
  return Summary(scalars, names)


def _ratio(value: jax.Array, by: jax.Array) -> jax.Array:
  """`value / by`; NaN where `by` is not above 0."""
  return jnp.where(by > 0, value / jnp.where(by > 0, by, 1.0), jnp.nan)


def _number(value: float) -> str:
  return 'n/a' if np.isnan(value) else f'{value:.3g}'
