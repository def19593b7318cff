"""Goal: the objective that a config describes, put together from its terms."""

import functools
from typing import Any

from gradlens import advantages, losses, objective
from gradlens.optimizer import choose


def _surrogate(c: Any) -> objective.Term:
  """What stands for the reward."""
  clips = dict(clip_low=c.clip_low, clip_high=c.clip_high)
  make = functools.partial(losses.SURROGATES[c.surrogate], **clips)
  if c.dual_clip:
    make = functools.partial(losses.dual_clipped, **clips, bound=c.dual_clip)
  if c.importance_cap:
    return objective.corrected_surrogate(make, cap=c.importance_cap)
  return objective.surrogate(make)


def _rewarded(
    config: Any, stop_tokens: tuple[int, ...]
) -> objective.Objective:
  """Rewards of sampled completions."""
  a, c = config.advantage, config.loss
  terms, policies, select = [_surrogate(c)], [], objective.everything
  if c.importance_cap:
    policies.append(objective.OLD)
  if c.kl_coef:
    kl = objective.weighted_kl if c.kl_weighted else objective.kl
    terms.append(kl(coef=c.kl_coef, estimator=c.kl_estimator))
    policies.append(objective.REFERENCE)
  if c.entropy_coef:
    terms.append(objective.entropy_bonus(coef=c.entropy_coef))
  if c.mask_truncated:
    select = functools.partial(
        objective.without_truncated, stop_tokens=stop_tokens
    )
  relative = functools.partial(
      advantages.relative, baseline=a.baseline, scale=a.scale,
      num_splits=config.num_splits,
  )
  return objective.Objective(
      select, relative, tuple(terms), tuple(policies), objective.success
  )


def make_objective(
    config: Any, stop_tokens: tuple[int, ...]
) -> objective.Objective:
  """What the config maximizes.

  Args:
    config: of a run.
    stop_tokens: any of which ends a completion.

  Raises:
    ValueError: an unknown name.
  """
  makers = dict(
      grpo=lambda: _rewarded(config, stop_tokens),
      supervised=objective.supervised,
  )
  return choose('objective', config.objective, makers)()
