"""Goal: the objective that a config describes, put together from its terms."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import numpy as np

from gradlens import advantages, losses
from gradlens.experience import Batch
from gradlens.step import objective
from gradlens.step.optimizer import choose


def _surrogate(c: Any) -> objective.Term:
  """What stands for the reward."""
  clips = dict(clip_low=c.clip_low, clip_high=c.clip_high)
  make = functools.partial(losses.SURROGATES[c.surrogate], **clips)
  if c.dual_clip:
    make = functools.partial(losses.dual_clipped, **clips, bound=c.dual_clip)
  if c.importance_cap:
    return objective.corrected_surrogate(make, cap=c.importance_cap)
  return objective.surrogate(make)


def _advantages(
    config: Any, weights_KxM: np.ndarray
) -> Callable[[Batch, jax.Array], jax.Array]:
  """Of a batch's rewards, added first or each by itself."""
  a, num_splits = config.advantage, config.num_splits
  if a.scale != advantages.DECOUPLED:
    return lambda batch, filled_KxB: advantages.relative(
        batch.rewards_KxBxG, filled_KxB, baseline=a.baseline, scale=a.scale,
        num_splits=num_splits,
    )
  if weights_KxM.shape[1] == 1:
    raise ValueError(
        f'advantage.scale={a.scale!r} is for tasks of several rewards, and no'
        " task has; take scale='std', or give a task a verifier such as"
        " '0.9*math+0.1*format?pattern=...'."
    )
  return lambda batch, filled_KxB: advantages.decoupled(
      batch.parts_KxBxGxM, weights_KxM, filled_KxB, num_splits=num_splits
  )


def _rewarded(
    config: Any, stop_tokens: tuple[int, ...], weights_KxM: np.ndarray
) -> objective.Objective:
  """Rewards of sampled completions."""
  c = config.loss
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
  return objective.Objective(
      select, _advantages(config, weights_KxM), tuple(terms), tuple(policies),
      objective.success,
  )


def make_objective(
    config: Any, stop_tokens: tuple[int, ...], weights_KxM: np.ndarray
) -> objective.Objective:
  """What the config maximizes.

  Args:
    config: of a run.
    stop_tokens: any of which ends a completion.
    weights_KxM: of each task's rewards.

  Raises:
    ValueError: an unknown name, or rewards to be told apart that are one.
  """
  makers = dict(
      grpo=lambda: _rewarded(config, stop_tokens, weights_KxM),
      supervised=objective.supervised,
  )
  return choose('objective', config.objective, makers)()
