"""What the study of estimators found, as the tables of its README.md."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments import tables
from experiments.estimators import estimators
from experiments.tables import Found
import gradlens as gl


def estimators_table(found: Found) -> str:
  """Bias and spread of each estimator, in units of the true squared norm."""
  true = found['truth'].set_index('task')
  header = ['task', 'squared norm, in 1e-3', 'estimator', 'mean, of the truth',
            'standard deviation, of the truth', 'below 0']
  rows = []
  for task, own in found['steps'].groupby('task', sort=False):
    value = true.norm_sq[task]
    bounds = (1e3 * true.loc[task, name] for name in ('norm_sq', 'low', 'high'))
    first = [task, tables.estimate(bounds)]
    values = {
        name: part.norm_sq
        for name, part in own.groupby('estimator', sort=False)
    }
    for name in values:
      mean, spread, below = _ema(values['pairs']) if name == 'ema' else (
          values[name].mean(), values[name].std(),
          f'{(values[name] < 0).mean():.0%}',
      )
      rows.append([
          *first, name, f'{mean / value:.3g}', f'{spread / abs(value):.3g}',
          below,
      ])
      first = ['', '']
  return tables.markdown(header, rows)


def _ema(pairs: pd.Series) -> tuple[float, float, str]:
  """Mean and spread of the running mean's last value, of independent steps.

  Not of its values along one run, which hang together. How often it is below 0
  one run does not say.
  """
  weights_T = estimators.DECAY ** np.arange(len(pairs))
  weights_T /= weights_T.sum()
  return pairs.mean(), pairs.std() * np.sqrt((weights_T**2).sum()), ''


def ratios_table(found: Found) -> str:
  """The largest ratio between tasks by four readings."""
  names = dict(
      truth='all pairs of rows',
      of_steps='mean of every step\'s largest, naive',
      averaged='ratio of averages, unbiased',
      apart='chosen in one half of the steps, measured in the other',
  )
  row = found['ratios'].iloc[0]
  return tables.markdown(
      ['reading', 'largest ratio'],
      [[text, f'{row[name]:.3g}'] for name, text in names.items()],
  )


def sketches_table(found: Found) -> str:
  """Errors of sketches of every size, and their bound."""
  header = ['size', *found['sketches'].task.unique(), 'sqrt(2 / size)']
  rows = [
      [size, *(f'{error:.1%}' for error in own.error),
       f'{(2 / size) ** 0.5:.1%}']
      for size, own in found['sketches'].groupby('size')
  ]
  return tables.markdown(header, rows)


def blocks_table(found: Found) -> str:
  """How well each block ranks tasks, and its share of their norms."""
  header = ['block', 'share of all tasks\' squared norms',
            'rank correlation with the whole']
  whole = found['blocks'].drop_duplicates('task').whole.sum()
  rows = []
  for block, own in found['blocks'].groupby('block', sort=False):
    bounds = gl.jackknife(
        gl.rank_correlation, own.norm_sq.to_numpy(), own.whole.to_numpy()
    )
    rows.append([
        block, f'{own.norm_sq.sum() / whole:.0%}', tables.correlation(bounds)
    ])
  return tables.markdown(header, rows)


def all_tables(found: Found) -> Iterator[str]:
  """In the order of README.md."""
  yield estimators_table(found)
  yield ratios_table(found)
  yield sketches_table(found)
  yield blocks_table(found)
