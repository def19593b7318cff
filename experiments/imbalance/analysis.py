"""What the tables say: ratios of norms, gains and shares, with intervals.

K tasks, T blocks of steps of all seeds, one seed after the other.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments import tables
import gradlens as gl
from gradlens.report.summary import Estimate

# Of steps, in every run: what the jackknife leaves out is one of them.
_BLOCKS = 10


def series(steps: pd.DataFrame, column: str) -> tuple[list[str], np.ndarray]:
  """Names of the tasks, and their values `[T, K]`."""
  wide = steps.pivot(index=['seed', 'step'], columns='task', values=column)
  return list(wide.columns), wide.to_numpy()


def averages(steps: pd.DataFrame, column: str) -> dict[str, Estimate]:
  """Over steps and seeds, of each task."""
  names, values_TxK = series(steps, column)
  bounds = gl.over_steps(
      lambda means_K: means_K, values_TxK,
      num_blocks=_BLOCKS * steps.seed.nunique(),
  )
  return tables.estimates(names, bounds)


def kept(steps: pd.DataFrame, task: str) -> Estimate:
  """What the optimizer leaves of a task's share: a ratio of averages."""
  own = steps[steps.task == task].sort_values(['seed', 'step'])
  return tables.estimate(gl.over_steps(
      lambda means_2: means_2[1] / means_2[0],
      own[['share', 'share_optimizer']].to_numpy(),
      num_blocks=_BLOCKS * steps.seed.nunique(),
  ))


def ratios(steps: pd.DataFrame, column: str) -> dict[str, Estimate]:
  """Of each task's average to the smallest; intervals hold for all pairs."""
  names, values_TxK = series(steps, column)
  bounds = gl.norm_ratios(
      values_TxK, num_blocks=_BLOCKS * steps.seed.nunique()
  )
  return tables.estimates(names, bounds)


def gains(heldout: pd.DataFrame) -> dict[str, Estimate]:
  """Held-out reward, last less first, over seeds (Student's t)."""
  return _gains(heldout, lambda first, last: last - first)


def headroom_gains(heldout: pd.DataFrame) -> dict[str, Estimate]:
  """The same, of what there was to gain."""
  return _gains(heldout, lambda first, last: (last - first) / (1 - first))


def _gains(heldout: pd.DataFrame, gain) -> dict[str, Estimate]:
  found = {}
  for task, own in heldout.groupby('task'):
    wide = own.pivot(index='seed', columns='step', values='reward')
    of_seeds = gain(
        wide[wide.columns.min()].to_numpy(), wide[wide.columns.max()].to_numpy()
    )
    found[task] = tables.estimate(gl.jackknife(np.mean, of_seeds))
  return found


def paper_gains(steps: pd.DataFrame, window: int) -> pd.DataFrame:
  """Training reward of as many blocks after a block, less that before it."""
  rows = []
  for (seed, task), own in steps.groupby(['seed', 'task']):
    reward_T = own.sort_values('step').reward.to_numpy()
    at = own.sort_values('step').step.to_numpy()
    for t in range(window, len(reward_T) - window):
      rows.append(dict(
          seed=seed, task=task, step=at[t],
          gain=reward_T[t + 1:t + 1 + window].mean()
          - reward_T[t - window:t].mean(),
      ))
  table = pd.DataFrame(rows, columns=['seed', 'task', 'step', 'gain'])
  # Of a short run there are none, and no numbers to tell the types by.
  return table.astype(dict(step=float, gain=float))


def spread(steps: pd.DataFrame) -> tuple[str, Estimate]:
  """The loudest task on average, and how much louder it is than the quietest.

  There is no ratio to a norm that cannot be told from 0.
  """
  means = steps.groupby('task').norm_sq.mean()
  return means.idxmax(), ratios(steps, 'norm_sq')[means.idxmax()]


def followers(
    blocks: pd.DataFrame,
) -> tuple[list[str], dict[str, Estimate], dict[str, Estimate]]:
  """How well a block of parameters follows the squared norm of all of them.

  Args:
    blocks: a row per setting, seed, task and step, a column per block.

  Returns:
    Names of the blocks; the rank correlation over the steps of a run, averaged
    over tasks and seeds; and that of the averages of all settings' tasks. The
    jackknife leaves out tasks.
  """
  labels = ['part', 'setting', 'kind', 'seed', 'task', 'step']
  names = [column for column in blocks.columns if column not in labels]
  table = blocks.assign(whole=blocks[names].sum(axis=1))
  inside, across = {}, {}
  means = table.groupby(['setting', 'task'])[[*names, 'whole']].mean()
  for name in names:
    of_runs = table.groupby(['setting', 'task', 'seed'])[[name, 'whole']].apply(
        lambda own, name=name: ranks(own[name], own.whole)
    )
    of_tasks = of_runs.groupby(['setting', 'task']).mean().to_numpy()
    inside[name] = tables.correlation(gl.jackknife(np.mean, of_tasks))
    across[name] = tables.correlation(gl.jackknife(
        gl.rank_correlation, means[name].to_numpy(), means.whole.to_numpy()
    ))
  return names, inside, across


def largest_ratio(norms_K: pd.Series) -> float:
  """Between two tasks; NaN where the smallest estimate is not above 0."""
  smallest = norms_K.min()
  return float(norms_K.max() / smallest) if smallest > 0 else np.nan


def ranks(values: Sequence[float], others: Sequence[float]) -> float:
  """Spearman's rank correlation."""
  return float(gl.rank_correlation(np.array(values), np.array(others)))
