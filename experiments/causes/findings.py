"""What the study of causes found, as the tables of its README.md."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments import scores, tables
from experiments.causes import arms
from experiments.imbalance import analysis
from experiments.tables import Found
import gradlens as gl
from gradlens.report.summary import Estimate
from gradlens.report.tables import number


def _rewards(
    found: Found, part: str, setting: str, kind: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
  wide = tables.of(found['heldout'], part, setting, kind).pivot(
      index=['seed', 'task'], columns='step', values='reward'
  )
  first, last = wide.columns.min(), wide.columns.max()
  return wide[first].unstack('task'), wide[last].unstack('task')


def lasts(found: Found, part: str, setting: str, kind: str) -> pd.DataFrame:
  """Last held-out rewards: a row per seed, a column per task."""
  return _rewards(found, part, setting, kind)[1]


def gains(found: Found, part: str, setting: str, kind: str) -> pd.DataFrame:
  """The same less the first."""
  first, last = _rewards(found, part, setting, kind)
  return last - first


def base_gains(found: Found, setting: str) -> pd.DataFrame:
  """Of the runs in which nothing is changed."""
  return gains(found, arms.BASE[0], setting, arms.BASE[1])


def _paired(
    own: pd.DataFrame, base: pd.DataFrame, tasks: list[str]
) -> Estimate:
  """Of the mean over some tasks, seed by seed."""
  return scores.paired(
      own[tasks].mean(axis=1).to_numpy(), base[tasks].mean(axis=1).to_numpy()
  )


def dose_table(found: Found) -> str:
  """Gradients of one task times a factor, all together as long as before."""
  header = ['setting', 'task', 'times', 'share of the gradient',
            'of the update', 'its gain', 'less that without',
            'gain of the others', 'less that without']
  rows = []
  for setting, kind in tables.kinds(found, 'dose'):
    task, _, factor = kind.partition('@')
    base = base_gains(found, setting)
    own = gains(found, 'dose', setting, kind)
    others = [name for name in base if name != task]
    steps = tables.of(found['steps'], 'dose', setting, kind)
    share = steps[steps.task == task]
    rows.append([
        setting, task, factor, f'{share.share_corrected.mean():.0%}',
        f'{share.share_optimizer.mean():.0%}',
        f'{own[task].mean():.3f}', _paired(own, base, [task]),
        f'{own[others].mean(axis=None):.3f}', _paired(own, base, others),
    ])
  return tables.markdown(header, rows)


def references_table(found: Found) -> str:
  """Each task among the others, by itself, and what it takes from them.

  Last rewards: all start with one policy, but what is sampled of it for the
  first evaluation depends on which tasks there are.
  """
  header = ['setting', 'task', 'squared norm, in 1e-3',
            'last reward among four', 'alone', 'alone less among four',
            'the others without it', 'less that with it']
  rows = []
  for setting, task in tables.kinds(found, 'alone'):
    base = lasts(found, arms.BASE[0], setting, arms.BASE[1])
    alone = lasts(found, 'alone', setting, task)
    steps = tables.of(found['steps'], arms.BASE[0], setting, arms.BASE[1])
    norm = analysis.averages(steps, 'norm_sq')[task]
    row = [setting, task, Estimate(*(1e3 * bound for bound in norm)),
           f'{base[task].mean():.3f}', f'{alone[task].mean():.3f}',
           _paired(alone, base, [task]), '', '']
    if (setting, task) in tables.kinds(found, 'without'):
      without = lasts(found, 'without', setting, task)
      row[-2:] = (f'{without.mean(axis=None):.3f}',
                  _paired(without, base, list(without)))
    rows.append(row)
  return tables.markdown(header, rows)


def sampling_table(found: Found) -> str:
  """Prompts in proportion to gradients, beside as many of every task."""
  header = ['setting', 'task', 'prompts, by gradients', 'gain, uniform',
            'gain, by gradients', 'difference']
  rows = []
  for setting, kind in tables.kinds(found, 'sampling'):
    base, own = base_gains(found, setting), gains(
        found, 'sampling', setting, kind
    )
    steps = tables.of(found['steps'], 'sampling', setting, kind)
    prompts = steps.groupby('task').prompts.mean()
    rows += [
        [setting, task, f'{prompts[task]:.1f}', f'{base[task].mean():.3f}',
         f'{own[task].mean():.3f}', _paired(own, base, [task])]
        for task in base
    ]
    rows.append([
        setting, 'all', f'{prompts.sum():.0f}', f'{base.mean(axis=None):.3f}',
        f'{own.mean(axis=None):.3f}', _paired(own, base, list(base)),
    ])
  return tables.markdown(header, rows)


def of_subsets(found: Found) -> pd.DataFrame:
  """A row per random subset: its tasks, their spread, and what goes with it."""
  rows = []
  for setting, kind in tables.kinds(found, 'subset'):
    steps = tables.of(found['steps'], 'subset', setting, kind)
    norms = steps.groupby('task').norm_sq.mean()
    gain = gains(found, 'subset', setting, kind).iloc[0][norms.index]
    rows.append(dict(
        tasks=', '.join(norms.sort_values(ascending=False).index),
        ratio=analysis.largest_ratio(norms),
        correlation=analysis.ranks(norms, gain),
    ))
  return pd.DataFrame(rows)


def subsets_table(found: Found) -> str:
  """Random tasks: how far apart, and does the loudest gain most?"""
  subsets = of_subsets(found)
  rows = [
      [row.tasks, number(row.ratio), f'{row.correlation:.2f}']
      for row in subsets.itertuples()
  ]
  mean = tables.correlation(
      gl.jackknife(np.mean, subsets.correlation.to_numpy())
  )
  # Where the quietest is not above 0, the ratio is as large as any.
  median = subsets.ratio.fillna(np.inf).median()
  rows.append([f'{len(subsets)} subsets', f'median {number(median)}', mean])
  return tables.markdown(
      ['tasks, loudest first', 'largest ratio',
       'rank correlation of squared norm and gain'], rows,
  )


def all_tables(found: Found) -> Iterator[str]:
  """In the order of README.md."""
  yield dose_table(found)
  yield references_table(found)
  yield sampling_table(found)
  yield subsets_table(found)
