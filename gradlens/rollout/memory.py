"""What the sampler's cache needs, and what the device has."""

import os
from typing import Any

import jax
from jax.sharding import Mesh

from gradlens import models


def cache_bytes(
    model: models.Model, params: Any, num_prompts: int, num_completions: int,
    prompt_tokens: int, max_new_tokens: int, num_slots: int | None,
    mesh: Mesh | None = None,
) -> int:
  """Keys and values of all prompts, and of the completions of all slots.

  On a mesh, of a device; prompts and slots are those of its group.
  """
  config = model.config
  embedding = jax.eval_shape(model.compute.cast, params)['embed']['embedding']
  token = (
      2 * config.num_hidden_layers * config.num_key_value_heads
      * config.head_dim * embedding.dtype.itemsize
  )
  slots = num_prompts if num_slots is None else num_slots
  prompts = num_prompts * prompt_tokens
  if slots < num_prompts:
    prompts += slots * prompt_tokens  # those being decoded, beside the queue's
  size = token * (prompts + slots * num_completions * max_new_tokens)
  return size if mesh is None else size // mesh.shape[models.TENSOR]


def gathered_bytes(
    model: models.Model, params: Any, mesh: Mesh | None
) -> int:
  """Of the parameters' copy on each device: gathered, or of another dtype."""
  cast = jax.eval_shape(model.compute.cast, params)
  size = sum(
      own.size * own.dtype.itemsize
      for own, param in zip(*map(jax.tree.leaves, (cast, params)), strict=True)
      if mesh is not None or own.dtype != param.dtype
  )
  return size if mesh is None else size // mesh.shape[models.TENSOR]


def free_bytes(device: jax.Device) -> int:
  """Of the device; of the whole machine where a device does not tell."""
  stats = device.memory_stats()
  if stats is None:
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  return stats['bytes_limit'] - stats['bytes_in_use']


def check_memory(
    model: models.Model, params: Any, num_prompts: int, num_completions: int,
    prompt_tokens: int, max_new_tokens: int, num_slots: int | None,
    mesh: Mesh | None = None,
) -> None:
  """Refuses a cache that cannot be, before anything is allocated.

  Raises:
    ValueError: with both sizes, and what to lower.
  """
  need = cache_bytes(
      model, params, num_prompts, num_completions, prompt_tokens,
      max_new_tokens, num_slots, mesh,
  )
  copy = gathered_bytes(model, params, mesh)
  free = free_bytes(jax.local_devices()[0]) - copy
  if need > free:
    slots = num_prompts if num_slots is None else num_slots
    raise ValueError(
        f'the cache of {num_prompts} prompts of {prompt_tokens} tokens, with'
        f' {num_completions} completions of {max_new_tokens} in'
        f' {slots} slots, needs {need / 1e9:.1f} GB, and'
        f' {free / 1e9:.1f} GB are free'
        + (f' beside {copy / 1e9:.1f} GB of parameters' if copy else '')
        + '; lower num_slots, num_completions or max_new_tokens'
        + ('.' if mesh is None else ', or raise rollout.tensor.')
    )
