"""Low-rank adapters: the parameters that are trained, beside frozen ones."""

from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from gradlens.models import forward
from gradlens.models.config import LINEAR, Lora

_NAMES = ('lora_a', 'lora_b')


def is_adapter(path: tuple, value: Any) -> bool:
  """Whether a parameter belongs to an adapter, by its path."""
  del value
  return path[-1] in _NAMES


def split(params: Any) -> tuple[Any, Any]:
  """Trained and frozen: adapters and all else, or all and nothing."""
  flat = traverse_util.flatten_dict(params)
  adapters = {
      path: leaf for path, leaf in flat.items() if is_adapter(path, leaf)
  }
  if not adapters:
    return params, {}
  frozen = {path: leaf for path, leaf in flat.items() if path not in adapters}
  return (
      traverse_util.unflatten_dict(adapters),
      traverse_util.unflatten_dict(frozen),
  )


def join(trained: Any, frozen: Any) -> Any:
  """All parameters; the inverse of `split`, and no copy."""
  return traverse_util.unflatten_dict(
      traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(trained)
  )


def adapt(
    model: forward.Model, lora: Lora, key: jax.Array
) -> tuple[forward.Model, Any]:
  """The model with adapters, and these: what is computed has not changed yet.

  Args:
    model: without.
    lora: the adapters.
    key: of their first values.

  Returns:
    The model, and adapters to be trained; `join` them with the parameters of
    the model without.

  Raises:
    ValueError: an adapter of no rank, or of a layer that is none.
  """
  if lora.rank < 1:
    raise ValueError(f'lora.rank={lora.rank} must be at least 1.')
  unknown = [name for name in lora.targets if name not in LINEAR]
  if unknown or not lora.targets:
    raise ValueError(
        f'lora.targets={"+".join(lora.targets)!r} must name some of'
        f' {", ".join(LINEAR)}.'
    )
  adapted = forward.build(model.config, lora)._replace(compute=model.compute)
  # Compiled, so that parameters which are not used are not drawn.
  adapters = jax.jit(lambda key: split(forward.init(adapted, key))[0])(key)
  return adapted, adapters


def merge(model: forward.Model, params: Any) -> tuple[forward.Model, Any]:
  """The same model without adapters: they are added to the kernels.

  In the dtype of the adapters, which the frozen kernels may not have.
  """
  if model.lora is None:
    return model, params
  flat = traverse_util.flatten_dict(params)
  scale = model.lora.alpha / model.lora.rank
  merged = {}
  for path, leaf in flat.items():
    if is_adapter(path, leaf):
      continue
    a, b = (flat.get((*path[:-1], name)) for name in _NAMES)
    if path[-1] == 'kernel' and a is not None:
      product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
      leaf = leaf.astype(product.dtype) + scale * product
    merged[path] = leaf
  plain = forward.build(model.config)._replace(compute=model.compute)
  return plain, traverse_util.unflatten_dict(merged)
