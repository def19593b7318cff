"""What could explain the differences between tasks, and how much it does.

Of the prompts that `anatomy` took apart: a row each, with the squared norm of
the prompt's gradient, and of the tasks' four stages.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf

from experiments import tables
import gradlens as gl
from gradlens.report.summary import Estimate

# All prompts have as many completions: their tokens are their mean length.
FACTORS = 'reward', 'abs_advantage', 'prompt_length', 'length', 'surprise'
STAGES = 'token', 'response', 'group', 'mean'
# Prompts of which some completions are right and some are wrong.
MATCHED = 0.25, 0.75


def matched(prompts: pd.DataFrame) -> pd.DataFrame:
  """Prompts of about one pass rate, in tasks that have ten of these or more."""
  own = prompts[prompts.reward.between(*MATCHED)]
  return own[own.groupby('task').reward.transform('size') >= 10]


def within(prompts: pd.DataFrame, factor: str) -> Estimate:
  """Rank correlation of prompts of one task, the mean over tasks."""
  found = [
      float(gl.rank_correlation(
          np.log(own.norm_sq.to_numpy()), own[factor].to_numpy()
      )) for _, own in _informative(prompts).groupby('task')
  ]
  # A factor that does not vary in a task has no correlation there.
  known = np.array([value for value in found if np.isfinite(value)])
  if len(known) < 2:
    return Estimate(np.nan, np.nan, np.nan)
  return tables.correlation(gl.jackknife(np.mean, known))


def across(prompts: pd.DataFrame, factor: str) -> Estimate:
  """Rank correlation of averages over prompts; the jackknife leaves out tasks.

  A single prompt's squared norm is not its task's: how far the prompts of a
  task agree has no part in it.
  """
  means = _informative(prompts).groupby('task')[['norm_sq', factor]].mean()
  return tables.correlation(gl.jackknife(
      gl.rank_correlation, means.norm_sq.to_numpy(), means[factor].to_numpy()
  ))


def of_tasks(
    norms_sq: pd.Series, prompts: pd.DataFrame, factor: str
) -> Estimate:
  """The same of the tasks' own squared norms, unbiased, and all prompts."""
  means = prompts.groupby('task')[factor].mean()
  return tables.correlation(gl.jackknife(
      gl.rank_correlation, norms_sq[means.index].to_numpy(), means.to_numpy()
  ))


def _informative(prompts: pd.DataFrame) -> pd.DataFrame:
  """Those whose completions had different rewards: others have no gradient."""
  return prompts[prompts.norm_sq > 0]


def explained(prompts: pd.DataFrame) -> dict[str, float]:
  """A mixed-effects regression of log squared norms on all factors.

  The task is a random intercept.

  Returns:
    between: variance between tasks, without factors; `between_left`: with them.
    within: variance within tasks, without factors; `within_left`: with them.
    factors: share of all variance that the factors explain (marginal R^2).
    whole: share that factors and tasks explain (conditional R^2).

  References:
    Nakagawa and Schielzeth, A general and simple method for obtaining R2 from
    generalized linear mixed-effects models, 2013
  """
  own = _informative(prompts)
  factors = own[list(FACTORS)]
  data = (factors - factors.mean()) / factors.std()
  data = data.loc[:, data.notna().all()].assign(reward_sq=lambda d: d.reward**2)
  data = data.assign(log_norm=np.log(own.norm_sq), task=own.task)
  terms = ' + '.join(data.columns.drop(['log_norm', 'task']))
  null, full = (
      smf.mixedlm(f'log_norm ~ {right}', data, groups='task').fit(reml=True)
      for right in ('1', terms)
  )
  fixed = float(np.var(full.model.exog @ full.fe_params.to_numpy()))
  left, noise = float(full.cov_re.iloc[0, 0]), float(full.scale)
  total = fixed + left + noise
  return dict(
      between=float(null.cov_re.iloc[0, 0]), between_left=left,
      within=float(null.scale), within_left=noise,
      factors=fixed / total, whole=(fixed + left) / total,
  )


def stage_shares(stages: pd.DataFrame) -> dict[str, Estimate]:
  """How much of the spread of tasks' log squared norms each stage makes.

  The covariance of a stage with the whole over the variance of the whole; they
  add up to 1. Tasks whose unbiased norm is not above 0 have no logarithm.
  """
  kept = stages[stages.norm_sq > 0]
  logs = np.log(kept[list(STAGES)].to_numpy())

  def shares(logs_KxN):
    whole_K = logs_KxN.sum(1)
    centered = logs_KxN - logs_KxN.mean(0)
    return centered.T @ (whole_K - whole_K.mean()) / (
        len(whole_K) * whole_K.var()
    )

  return tables.estimates(STAGES, gl.jackknife(shares, logs))


def agreement(stages: pd.DataFrame, stage: str) -> float:
  """The rank correlation over tasks of a stage in two seeds; NaN of one."""
  wide = stages.pivot(index='task', columns='seed', values=stage).to_numpy()
  if wide.shape[1] < 2:
    return np.nan
  return float(gl.rank_correlation(wide[:, 0], wide[:, 1]))


def factor_rows(
    prompts: pd.DataFrame, norms_sq: pd.Series
) -> Sequence[tuple[Any, ...]]:
  """A row a factor: prompts within tasks and across them, and the tasks."""
  same = matched(prompts)
  return [
      (factor, *(f(table, factor) for f in (within, across)
                 for table in (prompts, same)),
       of_tasks(norms_sq, prompts, factor))
      for factor in FACTORS
  ]
