"""Values: what a config may say, key by key."""

from collections.abc import Iterator
import contextlib
import functools
import math
from typing import Any

from gradlens import advantages, losses, models
from gradlens.step.optimizer import choose
from gradlens.workdir import best

# The smallest values that mean anything, and the names there are.
_AT_LEAST = {
    'num_steps': 1, 'prompts_per_task': 1, 'num_splits': 1, 'inner_epochs': 1,
    'num_completions': 1, 'num_micro_batches': 1, 'num_mini_batches': 1,
    'instrument_every': 0, 'loss.clip_low': 0, 'loss.clip_high': 0,
    'loss.kl_coef': 0, 'loss.entropy_coef': 0,
    'rollout.max_prompt_tokens': 1, 'rollout.max_new_tokens': 1,
    'rollout.num_slots': 0, 'rollout.tensor': 0, 'evaluate.every': 1,
    'evaluate.batch_size': 1, 'evaluate.num_completions': 1,
    'checkpoint.every': 1, 'checkpoint.keep': 1, 'gain_window': 1,
    'lora.rank': 0,
    'mesh.task': 1, 'mesh.fsdp': -1, 'mesh.tensor': 1,
    'verifier.num_workers': 0, 'verifier.memory_mb': 64,
    'profile.start': 0, 'profile.steps': 0, 'mixture.max_prompts': 0,
    'mixture.refill_rounds': 0,
}
_ABOVE_0 = ('verifier.cpu_seconds', 'verifier.wall_seconds')
_CHOICES = {
    'loss.aggregate': losses.AGGREGATES,
    'loss.normalize': losses.NORMALIZES,
    'loss.surrogate': tuple(losses.SURROGATES),
    'loss.kl_estimator': tuple(losses.ESTIMATORS),
    'advantage.baseline': advantages.BASELINES,
    'advantage.scale': (*advantages.SCALES, advantages.DECOUPLED),
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
      for key in (*_AT_LEAST, *_ABOVE_0, *_CHOICES)
  }
  for key, least in _AT_LEAST.items():
    if values[key] < least:
      raise ValueError(f'config.{key}={values[key]} must be {least} or more.')
  for key in _ABOVE_0:
    # 0 would disarm a timer; NaN is in no interval.
    if not 0 < values[key] < math.inf:
      raise ValueError(f'config.{key}={values[key]} must be a number above 0.')
  for key, names in _CHOICES.items():
    choose(key, values[key], dict.fromkeys(names))
  if config.rollout.temperature <= 0:
    raise ValueError(
        f'config.rollout.temperature={config.rollout.temperature} must be above'
        ' 0: the policy that is trained is the one that is sampled.'
    )
  _check_lag(config)
  _check_evaluation(config)
  parts = (
      config.num_splits * config.num_mini_batches * config.num_micro_batches
  )
  key = 'mixture.max_prompts' if config.mixture.max_prompts else (
      'prompts_per_task'
  )
  if max_prompts(config) % parts:
    raise ValueError(
        f'{key}={max_prompts(config)} is not a multiple of'
        f' num_splits={config.num_splits} x num_mini_batches='
        f'{config.num_mini_batches} x num_micro_batches='
        f'{config.num_micro_batches}.'
    )
  _check_mixture(config)
  _check_advantages(config)
  _check_loss(config)
  _check_splits(config)


def _check_lag(config: Any) -> None:
  """Refuses policies that are further behind, or sample nothing."""
  lag = config.rollout.lag
  if lag not in (0, 1):
    raise ValueError(
        f'config.rollout.lag={lag} must be 0 or 1: a batch is sampled by the'
        ' policy that it updates, or by the one of the step before.'
    )
  if lag and config.objective != 'grpo':
    raise ValueError(
        f'config.rollout.lag={lag} is about what a policy samples, and'
        f' objective={config.objective!r} samples nothing; set it to 0.'
    )


def _check_advantages(config: Any) -> None:
  """Refuses baselines and scales that do not go together."""
  baseline, scale = config.advantage.baseline, config.advantage.scale
  if baseline in ('task', 'batch') and scale == 'std':
    raise ValueError(
        "config.advantage.scale='std' is the deviation of a group, and"
        f" advantage.baseline={baseline!r} is not of a group; use scale='task',"
        " 'batch' or 'none'."
    )
  if scale == advantages.DECOUPLED and baseline != 'group':
    raise ValueError(
        f'config.advantage.scale={scale!r} takes each reward by its group, and'
        f" advantage.baseline={baseline!r} is another; set it to 'group'."
    )
  if baseline == 'leave_one_out' and config.num_completions < 2:
    raise ValueError(
        f"config.advantage.baseline='leave_one_out' needs other completions,"
        f' and num_completions={config.num_completions}; raise it to 2 or more.'
    )


def _check_loss(config: Any) -> None:
  """Refuses terms of the loss that do not go together."""
  loss = config.loss
  for key in ('dual_clip', 'importance_cap'):
    if loss[key] and loss[key] <= 1:
      raise ValueError(
          f'config.loss.{key}={loss[key]} must be above 1, the ratio of a'
          ' policy to itself, or 0, which is without.'
      )
  if loss.dual_clip and loss.surrogate != 'clip':
    raise ValueError(
        f'config.loss.dual_clip={loss.dual_clip} belongs to surrogate=\'clip\','
        f' and loss.surrogate={loss.surrogate!r}; set dual_clip=0.'
    )
  if loss.surrogate == 'gspo' and loss.aggregate != 'sequence_mean':
    raise ValueError(
        "config.loss.surrogate='gspo' is a loss of whole completions, and"
        f" loss.aggregate={loss.aggregate!r} would weigh them by their lengths;"
        " use aggregate='sequence_mean', or surrogate='gspo_token'."
    )
  if loss.kl_coef and loss.kl_estimator == 'k1' and not loss.kl_weighted:
    raise ValueError(
        "config.loss.kl_estimator='k1' has a gradient of mean 0, which pulls"
        " nowhere; set loss.kl_weighted=True, or use 'k2' or 'k3'."
    )
  wanted = [
      key for key in (
          'kl_coef', 'entropy_coef', 'importance_cap', 'mask_truncated'
      ) if loss[key]
  ]
  if config.objective == 'supervised' and wanted:
    raise ValueError(
        f'config.loss.{wanted[0]}={loss[wanted[0]]} is about sampled'
        " completions, and objective='supervised' has none; leave it at its"
        ' default.'
    )


def coupled(config: Any) -> bool:
  """Whether the splits of a task depend on each other."""
  return losses.couples_splits(
      aggregate=config.loss.aggregate,
      mask_truncated=config.loss.mask_truncated,
  )


def _check_splits(config: Any) -> None:
  """Refuses estimates from splits that depend on each other."""
  kind = config.correction.kind
  if kind == 'naive':
    return
  if coupled(config):
    raise ValueError(
        f'correction.kind={kind!r} needs splits that are independent, but'
        f' loss.aggregate={config.loss.aggregate!r} with loss.mask_truncated='
        f'{config.loss.mask_truncated} divides all by what was sampled in the'
        " batch; use another aggregate than 'token_mean' and mask_truncated="
        "False, or kind='naive'."
    )


def _check_evaluation(config: Any) -> None:
  evaluate, saved = config.evaluate, config.checkpoint
  if evaluate.temperature < 0:
    raise ValueError(
        f'config.evaluate.temperature={evaluate.temperature} must be 0 or more.'
    )
  if evaluate.temperature == 0 and evaluate.num_completions > 1:
    raise ValueError(
        'config.evaluate.temperature=0.0 makes all completions of a prompt the'
        f' same; set evaluate.num_completions={evaluate.num_completions} to 1.'
    )
  if not best.by_evaluation(saved.best):
    return  # What steps record is known when they are built.
  known = ['heldout', *(f'heldout/{name}' for name in config.tasks)]
  if best.split(saved.best)[0] not in known:
    raise ValueError(
        f'config.checkpoint.best={saved.best!r} must be one of'
        f' {", ".join(map(repr, known))}, or what steps record.'
    )
  if saved.every % evaluate.every:
    raise ValueError(
        f'config.checkpoint.every={saved.every} must be a multiple of'
        f' evaluate.every={evaluate.every} where checkpoint.best is'
        f' {saved.best!r}: a checkpoint is chosen by its evaluation.'
    )


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
  if config.num_mini_batches > 1 and most > prompts:
    raise ValueError(
        f'num_mini_batches={config.num_mini_batches} divides the places of a'
        f' step, and mixture.max_prompts={most} above prompts_per_task='
        f'{prompts} leaves some of them empty, so that an update may have no'
        ' prompt of a task; set num_mini_batches=1, or mixture.max_prompts=0.'
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
  baseline = config.advantage.baseline
  if config.mixture.refill_rounds and baseline in ('task', 'batch'):
    raise ValueError(
        f'mixture.refill_rounds={config.mixture.refill_rounds} replaces prompts'
        ' whose completions have equal rewards, which teach something with'
        f' advantage.baseline={baseline!r}; set it to 0, or take baseline='
        "'group' or 'leave_one_out'."
    )


@contextlib.contextmanager
def about(key: str) -> Iterator[None]:
  """Names the key of the config that an error is about."""
  try:
    yield
  except (FileNotFoundError, ValueError) as error:
    raise ValueError(f'{key}: {error}') from error
