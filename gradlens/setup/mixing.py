"""Mixing: the mixture of a run and what it feeds the steps, from a config."""

from typing import Any

from gradlens import tasks
from gradlens.experience import Answer
from gradlens.feed import Feed
from gradlens.mixture import Mixture
from gradlens.setup import build
from gradlens.setup.values import coupled, max_prompts

# Whose weights do not depend on what a step tells of a task.
_BLIND = 'total', 'mean', 'constant'


def mixture(config: Any, all_tasks: list[tasks.Task]) -> Mixture:
  """Which prompts the steps of a run take.

  Raises:
    ValueError: quotas that cannot be met, a kind that learns from what is not
      measured, or a correction of tasks that are not there.
  """
  m = config.mixture
  made = Mixture(
      all_tasks, config.prompts_per_task, config.seed,
      num_splits=config.num_splits, max_prompts=max_prompts(config),
      kind=m.kind, kwargs=m.kwargs.to_dict(), active=m.active.to_dict(),
      num_steps=config.num_steps,
  )
  about_kind = f'mixture.kind={m.kind!r} with {m.kwargs.to_dict()}'
  if made.kind.needs == 'rewards' and config.objective != 'grpo':
    raise ValueError(
        f'{about_kind} learns from rewards, and objective='
        f'{config.objective!r} has none; choose another kind.'
    )
  if made.kind.needs in ('naive', 'unbiased') and not config.instrument_every:
    raise ValueError(
        f'{about_kind} learns from gradients, which instrument_every=0 does not'
        ' measure; set it to 1, or choose another kind.'
    )
  if made.kind.needs == 'unbiased' and (
      config.num_splits == 1 or coupled(config)
  ):
    raise ValueError(
        f'{about_kind} needs splits that are independent; set num_splits='
        f'{config.num_splits} to 2 or more, loss.aggregate='
        f"{config.loss.aggregate!r} to another than 'token_mean' and"
        f' loss.mask_truncated={config.loss.mask_truncated} to False, or take'
        " kind='gradient' with estimate='naive'."
    )
  if made.absent and config.correction.name not in _BLIND:
    raise ValueError(
        f'correction.name={config.correction.name!r} would take a task without'
        ' prompts for one that learns nothing, and with mixture.active='
        f'{m.active.to_dict()} and {about_kind} task {made.absent[0]!r} has'
        ' none at some step; draw all tasks at every step, or take'
        f' correction.name={", ".join(map(repr, _BLIND))}.'
    )
  return made


def feed(
    config: Any, run: build.Setup, drawn: Mixture, state: dict[str, Any],
    answer: Answer,
) -> Feed:
  """What each step learns from."""
  return Feed(
      drawn, answer, run.names, state, num_splits=config.num_splits,
      refill_rounds=config.mixture.refill_rounds,
  )
