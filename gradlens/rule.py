"""Rule: from the Gram matrix of rows to the weights that are applied."""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlens.gram import task_gram
from gradlens.types import PyTree, Weighting


class Weighed(NamedTuple):
  """What a rule makes of one Gram matrix.

  Attributes:
    gram_RxR: with zeros in the rows and columns of tasks left out.
    gram_KxK: of tasks, as the weighting saw it.
    weights_K: float32; 0 for a task left out.
    state: the weighting's new state.
    used_K: False where a task was left out, or its weight was not finite.
  """

  gram_RxR: jax.Array
  gram_KxK: jax.Array
  weights_K: jax.Array
  state: PyTree
  used_K: jax.Array


@dataclasses.dataclass(frozen=True)
class Rule:
  """A weighting, and how it is to be used; hashable.

  One rule weighs wherever Gram matrices arise: on stacked gradients, between
  two backward passes, or inside of one.

  Attributes:
    weighting: from `[K, K]` to `[K]`.
    num_tasks: K.
    num_splits: S.
    kind: of the Gram matrix that the weighting sees, as in `task_gram`.
    match_norm: whether weights are rescaled to the length of the plain sum.
  """

  weighting: Weighting
  num_tasks: int
  num_splits: int = 1
  kind: str = 'naive'
  match_norm: bool = False

  @property
  def num_rows(self) -> int:
    """R = K * S."""
    return self.num_tasks * self.num_splits

  def rows(self, values_K: jax.Array) -> jax.Array:
    """A value of each task, for each of its rows: `[..., K]` to `[..., R]`."""
    return jnp.repeat(values_K, self.num_splits, axis=-1)

  def finite_tasks(self, gram_RxR: jax.Array) -> jax.Array:
    """Which tasks have finite squared norms, `[..., K]`."""
    # The diagonal only: a bad row spoils its products with good ones as well.
    norms_sq_R = jnp.diagonal(gram_RxR, axis1=-2, axis2=-1)
    norms_sq_KxS = norms_sq_R.reshape(
        *norms_sq_R.shape[:-1], self.num_tasks, self.num_splits
    )
    return jnp.isfinite(norms_sq_KxS).all(axis=-1)

  def weigh(
      self,
      gram_RxR: jax.Array,
      state: PyTree,
      kept_K: jax.Array,
      extras: Mapping[str, Any],
  ) -> Weighed:
    """Weighs the tasks in `kept_K` by the Gram matrix of their rows.

    Where there are splits, the weighting also gets `gram_cross_KxK`.
    """
    kept_R = self.rows(kept_K)
    gram_RxR = jnp.where(kept_R[:, None] & kept_R[None, :], gram_RxR, 0.0)
    gram_KxK = task_gram(gram_RxR, self.num_splits, self.kind)
    if self.num_splits > 1:
      cross_KxK = task_gram(gram_RxR, self.num_splits, 'cross')
      extras = {'gram_cross_KxK': cross_KxK, **extras}
    weights_K, state = self.weighting.update(gram_KxK, state, **extras)
    if jnp.shape(weights_K) != (self.num_tasks,):
      raise ValueError(
          f'{self.weighting.name} returned weights of shape '
          f'{jnp.shape(weights_K)}, expected ({self.num_tasks},)'
      )
    used_K = kept_K & jnp.isfinite(weights_K)
    weights_K = jnp.where(used_K, weights_K, 0.0).astype(jnp.float32)
    if self.match_norm:
      naive_KxK = task_gram(gram_RxR, self.num_splits)
      weights_K = weights_K * _stretch(naive_KxK, weights_K)
    return Weighed(gram_RxR, gram_KxK, weights_K, state, used_K)


def weighted_sum(
    grads_RxP: jax.Array,
    weights: jax.Array,
    kept_R: jax.Array,
    axis: int | None = None,
) -> jax.Array:
  """One leaf's sum over rows, float32 or wider.

  Args:
    grads_RxP: `[R, *param]`.
    weights: `[R]`, or `[layers, R]` where the parameter has layers on `axis`.
    kept_R: rows that are False take no part, whatever they hold.
    axis: the layer axis, counted on the parameter.
  """
  dtype = jnp.promote_types(grads_RxP.dtype, jnp.float32)
  batch = () if axis is None else (axis,)

  def contract(rows):
    # A product, and not a sum over the rows' axis: several times faster where
    # that axis is not the last. Local on every shard.
    summed = jax.lax.dot_general(
        weights.astype(dtype),
        rows,
        (((weights.ndim - 1,), (0,)), (batch and (0,), batch and (axis + 1,))),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
    return summed if axis is None else jnp.moveaxis(summed, 0, axis)

  def skip(rows):
    # A skipped row is replaced, not multiplied by 0: 0 * inf is NaN.
    kept_RxP = kept_R.reshape(-1, *[1] * (rows.ndim - 1))
    return contract(jnp.where(kept_RxP, rows, 0))

  return jax.lax.cond(kept_R.all(), contract, skip, grads_RxP)


def _stretch(gram_KxK: jax.Array, weights_K: jax.Array) -> jax.Array:
  """The length of the unweighted sum over that of the weighted sum."""
  products_KxK = weights_K[:, None] * gram_KxK * weights_K[None, :]
  own_sq = jnp.sum(products_KxK)
  # Below the rounding of its terms a length is unknown, and is left as it is.
  terms = jnp.sum(jnp.sqrt(jnp.maximum(jnp.diag(products_KxK), 0.0)))
  known = own_sq > jnp.finfo(jnp.float32).eps * terms**2
  total_sq = jnp.maximum(jnp.sum(gram_KxK), 0.0)
  ratio = jnp.sqrt(total_sq) / jnp.sqrt(jnp.where(known, own_sq, 1.0))
  return jnp.where(known, ratio, 1.0)
