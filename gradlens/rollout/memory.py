"""What the sampler's cache needs, and what the device has."""

import os
from typing import Any

import jax

from gradlens import models


def cache_bytes(
    model: models.Model, params: Any, num_prompts: int, num_completions: int,
    prompt_tokens: int, max_new_tokens: int, num_slots: int | None,
) -> int:
  """Keys and values of all prompts, and of the completions of all slots."""
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
  return token * (prompts + slots * num_completions * max_new_tokens)


def free_bytes(device: jax.Device) -> int:
  """Of the device; of the whole machine where a device does not tell."""
  stats = device.memory_stats()
  if stats is None:
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  return stats['bytes_limit'] - stats['bytes_in_use']


def check_memory(
    model: models.Model, params: Any, num_prompts: int, num_completions: int,
    prompt_tokens: int, max_new_tokens: int, num_slots: int | None,
) -> None:
  """Refuses a cache that cannot be, before anything is allocated.

  Raises:
    ValueError: with both sizes, and what to lower.
  """
  need = cache_bytes(
      model, params, num_prompts, num_completions, prompt_tokens,
      max_new_tokens, num_slots,
  )
  free = free_bytes(jax.local_devices()[0])
  if need > free:
    slots = num_prompts if num_slots is None else num_slots
    raise ValueError(
        f'the cache of {num_prompts} prompts of {prompt_tokens} tokens, with'
        f' {num_completions} completions of {max_new_tokens} in'
        f' {slots} slots, needs {need / 1e9:.1f} GB, and'
        f' {free / 1e9:.1f} GB are free; lower num_slots, num_completions or'
        ' max_new_tokens.'
    )
