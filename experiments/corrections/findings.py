"""What the comparison found, as the tables of its README.md."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments import scores, tables
from experiments.tables import Found
import gradlens as gl
from gradlens.report.summary import Estimate

BASELINE = 'total'


def best_rates(heldout: pd.DataFrame) -> dict[str, float]:
  """Of each method, the rate with the best last reward, averaged."""
  last = heldout[heldout.step == heldout.step.max()]
  mean = last.groupby(['method', 'rate']).reward.mean().unstack()
  return {method: float(rate) for method, rate in mean.idxmax(axis=1).items()}


def methods(found: Found, part: str) -> list[str]:
  """Those of a part, in their order."""
  heldout = found['heldout']
  return list(heldout[heldout.part == part].method.unique())


def last(found: Found, part: str, method: str) -> np.ndarray:
  """Held-out rewards at the end, `[N, K]`."""
  return _wide(found, part, method)[-1]


def gains(found: Found, part: str, method: str) -> np.ndarray:
  """Last less first, `[N, K]`."""
  rewards_ExNxK = _wide(found, part, method)
  return rewards_ExNxK[-1] - rewards_ExNxK[0]


def areas(found: Found, part: str, method: str) -> np.ndarray:
  """Areas under the curves over their length: mean rewards, `[N, K]`."""
  rewards_ExNxK = _wide(found, part, method)
  return (rewards_ExNxK[1:] + rewards_ExNxK[:-1]).mean(0) / 2


def _wide(found: Found, part: str, method: str) -> np.ndarray:
  heldout = found['heldout']
  own = heldout[(heldout.part == part) & (heldout.method == method)]
  wide = own.pivot(index=['step', 'seed'], columns='task', values='reward')
  steps = wide.index.get_level_values('step').nunique()
  return wide.to_numpy().reshape(steps, -1, wide.shape[1])


def compared(found: Found) -> list[str]:
  """Methods of the core that are compared with the plain sum."""
  return [name for name in methods(found, 'core') if name != BASELINE]


def seeds(found: Found) -> int:
  """Of every method of the core."""
  return len(last(found, 'core', BASELINE))


def differences(found: Found, method: str) -> Estimate:
  """Average last reward less that of the plain sum, seed by seed."""
  return scores.paired(
      last(found, 'core', method).mean(1), last(found, 'core', BASELINE).mean(1)
  )


def worst_differences(found: Found, method: str) -> Estimate:
  """The reward of the worst task less that of the plain sum's worst task."""
  return tables.estimate(gl.jackknife(
      lambda own, plain: scores.worst(own) - scores.worst(plain),
      last(found, 'core', method), last(found, 'core', BASELINE),
  ))


def core_table(found: Found) -> str:
  """A row a method."""
  header = [f'method, {seeds(found)} seeds', 'rate', 'last reward',
            'less the sum\'s', 'interquartile mean', 'worst task',
            'area under the curve', 'gain',
            'better than the sum']
  rates = found['runs'].set_index(['part', 'method']).rate
  plain = last(found, 'core', BASELINE)
  rows = []
  for method in methods(found, 'core'):
    own = last(found, 'core', method)
    rate = np.ravel(rates.loc[('core', method)])[0]
    other = method != BASELINE
    rows.append([
        method, f'{rate:.0e}', scores.mean(own),
        differences(found, method) if other else '',
        scores.estimate(scores.iqm, own), scores.estimate(scores.worst, own),
        scores.mean(areas(found, 'core', method)),
        scores.mean(gains(found, 'core', method)),
        scores.estimate(scores.improvement, own, plain) if other else '',
    ])
  return tables.markdown(header, rows)


def _spreads(found: Found, method: str, column: str) -> np.ndarray:
  """The largest task's mean share over steps less the smallest's: `[N]`."""
  steps = found['steps']
  own = steps[(steps.part == 'core') & (steps.method == method)]
  means = own.groupby(['seed', 'task'])[column].mean().unstack()
  return (means.max(axis=1) - means.min(axis=1)).to_numpy()


def shares_table(found: Found) -> str:
  """What corrections make of the tasks' shares, and Adam of that."""
  header = ['method', 'of the gradient', 'after the correction',
            'after the optimizer', 'less the sum\'s']
  columns = 'share', 'share_corrected', 'share_optimizer'
  plain_N = _spreads(found, BASELINE, columns[-1])
  rows = []
  for method in methods(found, 'core'):
    spreads = [_spreads(found, method, column) for column in columns]
    rows.append([
        method, *map(scores.mean, spreads),
        scores.paired(spreads[-1], plain_N) if method != BASELINE else '',
    ])
  return tables.markdown(header, rows)


def others_table(found: Found) -> str:
  """Every other method, and the plain sum: one seed, of no known interval."""
  header = ['method, 1 seed', 'last reward', "less the sum's", 'worst task',
            'gain']
  heldout = found['heldout']
  [seed] = heldout[heldout.part == 'others'].seed.unique()
  own = found | dict(heldout=heldout[heldout.seed == seed])
  [plain_K] = last(own, 'core', BASELINE)
  rows = []
  for part, method in [
      ('core', BASELINE), *(('others', name) for name in methods(own, 'others'))
  ]:
    [last_K], [gains_K] = last(own, part, method), gains(own, part, method)
    less = last_K.mean() - plain_K.mean()
    rows.append([
        method, f'{last_K.mean():.3f}',
        f'{less:+.3f}' if method != BASELINE else '',
        f'{last_K.min():.3f}', f'{gains_K.mean():+.3f}',
    ])
  return tables.markdown(header, rows)


def all_tables(found: Found) -> Iterator[str]:
  """In the order of README.md."""
  yield core_table(found)
  yield shares_table(found)
  if methods(found, 'others'):
    yield others_table(found)
