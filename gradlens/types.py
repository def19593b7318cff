"""Vocabulary of the library: dimensions, rows, weightings and blocks.

Shapes live in names: `gram_RxR`, `weights_K`, `rewards_KxBxG`. Scalars and
parameter pytrees carry none; a stacked gradient is `grads_KxP`.

  K  tasks
  S  splits of a task's prompts
  R  rows, R = K * S, task-major: r = k * S + s
  B  prompts, or examples, of one task
  G  completions of one prompt
  L  tokens of a sequence
  V  vocabulary
  D  model width
  H  attention heads
  F  feed-forward width
  N  a flattened leaf, or the examples of a flat batch
  P  a leaf's own shape

Rows are contributions: they add up to the gradient of the batch loss. A task's
gradient is the sum of its S rows.
"""

from collections.abc import Callable
import dataclasses
import numbers
from typing import Any, NamedTuple

import jax

PyTree = Any


class Stacked(NamedTuple):
  """A block that is many layers at once: leaves stacked along `axis`.

  Attributes:
    name: the block's name.
    axis: the layer axis, counted on the parameter's own axes (no task axis).
  """

  name: str
  axis: int = 0


# (path, leaf) -> a block's name, or Stacked for a leaf of scanned layers. The
# leaf has a parameter's `shape` (no task axis) and `dtype`, and no values.
Blocks = Callable[[tuple, jax.ShapeDtypeStruct], str | Stacked]


@dataclasses.dataclass(frozen=True)
class _InitOfTasks:
  """A weighting's `init`, which refuses the parameters optax would hand it."""

  init: Callable[[int], PyTree]
  name: str

  def __call__(self, num_tasks: int) -> PyTree:
    if isinstance(num_tasks, numbers.Integral):
      return self.init(num_tasks)
    raise TypeError(
        f'{self.name}() is a weighting; write gl.correct(gl.{self.name}(), '
        'num_tasks=K)'
    )


@dataclasses.dataclass(frozen=True)
class Weighting:
  """A correction: a function from the Gram matrix to one weight per task.

  The update is `sum_k weights_K[k] * g_k`. Combining the gradients is
  `correct`'s work; a weighting never sees one.

  Attributes:
    init: `init(num_tasks) -> state`, a pytree of arrays.
    update: `update(gram_KxK, state, **extras) -> (weights_K, state)`, pure and
      jittable, with the structure of the state kept. Extras that it does not
      know are to be ignored.
    name: the name of its factory, for messages.

  >>> import jax.numpy as jnp
  >>> import gradlens as gl
  >>> weighting = gl.total()
  >>> state = weighting.init(2)
  >>> weights_K, state = weighting.update(jnp.eye(2), state)
  >>> print(weights_K)
  [1. 1.]
  """

  init: Callable[[int], PyTree]
  update: Callable[..., tuple[jax.Array, PyTree]]
  name: str = 'weighting'

  def __post_init__(self) -> None:
    object.__setattr__(self, 'init', _InitOfTasks(self.init, self.name))
