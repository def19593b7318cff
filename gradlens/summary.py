"""Summary: the tasks of a Gram matrix as a dict of numbers, and as a table."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gradlens.diagnostics import cosines, imbalance, shares
from gradlens.estimates import quotient
from gradlens.gram import task_gram


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
        f'intrinsic_{quantity}': quotient(values_K, scale_K)
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
  scalars['imbalance'] = float(imbalance(norms_sq_K))
  return Summary(scalars, names)


def _number(value: float) -> str:
  return 'n/a' if np.isnan(value) else f'{value:.3g}'
