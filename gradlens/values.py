"""Values: what a config may say, key by key."""

from collections.abc import Iterator
import contextlib
import functools
from typing import Any

from gradlens import models
from gradlens.optimizer import choose

# The smallest values that mean anything, and the names there are.
_AT_LEAST = {
    'num_steps': 1, 'prompts_per_task': 1, 'num_splits': 1, 'inner_epochs': 1,
    'num_completions': 1, 'num_micro_batches': 1, 'instrument_every': 0,
    'rollout.max_prompt_tokens': 1, 'rollout.max_new_tokens': 1,
    'rollout.num_slots': 0, 'rollout.tensor': 0, 'evaluate.every': 1,
    'evaluate.batch_size': 1, 'evaluate.num_completions': 1,
    'checkpoint.every': 1, 'checkpoint.keep': 1, 'gain_window': 1,
    'lora.rank': 0,
    'mesh.task': 1, 'mesh.fsdp': -1, 'mesh.tensor': 1,
    'profile.start': 0, 'profile.steps': 0, 'mixture.max_prompts': 0,
    'mixture.refill_rounds': 0,
}
_CHOICES = {
    'loss.aggregate': ('token_mean', 'sequence_mean', 'fixed_length'),
    'loss.normalize': ('batch', 'task'),
    'advantage.scale': ('std', 'none'),
    'compute.dtype': ('float32', 'bfloat16'),
    'compute.attention': ('auto', *models.KERNELS),
    'compute.remat': tuple(models.REMAT),
}


def check_values(config: Any) -> None:
  """Refuses values that mean nothing, each by itself.

  Raises:
    ValueError: one sentence with the key, the value and what there can be.
  """
  values = {
      key: functools.reduce(getattr, key.split('.'), config)
      for key in (*_AT_LEAST, *_CHOICES)
  }
  for key, least in _AT_LEAST.items():
    if values[key] < least:
      raise ValueError(f'config.{key}={values[key]} must be {least} or more.')
  for key, names in _CHOICES.items():
    choose(key, values[key], dict.fromkeys(names))
  if config.rollout.temperature <= 0:
    raise ValueError(
        f'config.rollout.temperature={config.rollout.temperature} must be above'
        ' 0: the policy that is trained is the one that is sampled.'
    )
  parts = config.num_splits * config.num_micro_batches
  key = 'mixture.max_prompts' if config.mixture.max_prompts else (
      'prompts_per_task'
  )
  if max_prompts(config) % parts:
    raise ValueError(
        f'{key}={max_prompts(config)} is not a multiple of'
        f' num_splits={config.num_splits} x num_micro_batches='
        f'{config.num_micro_batches}.'
    )
  _check_mixture(config)


def max_prompts(config: Any) -> int:
  """Places for the prompts of a task in a batch."""
  if config.mixture.max_prompts:
    return config.mixture.max_prompts
  return config.prompts_per_task


def _check_mixture(config: Any) -> None:
  """Refuses what a mixture cannot be together with.

  Raises:
    ValueError: one sentence with keys, values and the fix.
  """
  most, prompts = config.mixture.max_prompts, config.prompts_per_task
  if most and most < prompts:
    raise ValueError(
        f'mixture.max_prompts={most} is below prompts_per_task={prompts}, the'
        ' mean over tasks; raise it, or set 0.'
    )
  if prompts % config.num_splits:
    raise ValueError(
        f'prompts_per_task={prompts} is not a multiple of num_splits='
        f'{config.num_splits}.'
    )
  if config.mixture.refill_rounds and (
      config.objective != 'grpo' or config.num_completions == 1
  ):
    raise ValueError(
        f'mixture.refill_rounds={config.mixture.refill_rounds} replaces prompts'
        ' whose completions have equal rewards, and these are all: objective='
        f'{config.objective!r}, num_completions={config.num_completions}; set'
        ' it to 0.'
    )


@contextlib.contextmanager
def about(key: str) -> Iterator[None]:
  """Names the key of the config that an error is about."""
  try:
    yield
  except (FileNotFoundError, ValueError) as error:
    raise ValueError(f'{key}: {error}') from error
