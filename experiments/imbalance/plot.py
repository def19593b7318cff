"""Draws the figures of the study, and prints its tables, from its results.

    python -m experiments.imbalance.plot

The tables are those of README.md; `--check` says whether they are.
"""

from collections.abc import Iterator
import pathlib

from absl import app, flags
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments import study, tables
from experiments.imbalance import analysis

_HERE = pathlib.Path(__file__).parent
_VARIANT = flags.DEFINE_string('variant', 'all', 'That was run.')
_CHECK = flags.DEFINE_bool(
    'check', False, 'Fail if README.md has other tables.'
)
WINDOW = 2  # blocks of steps before and after one, of a learning gain
# Safe for color blindness (Okabe and Ito).
_COLORS = '#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00'
_STYLE = {
    'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 9,
    'svg.hashsalt': 'gradlens', 'svg.fonttype': 'none',
    'axes.grid': True, 'grid.alpha': 0.25,
    'figure.constrained_layout.use': True,
}


def read(results: pathlib.Path) -> dict[str, pd.DataFrame]:
  """All tables, by name."""
  return {path.stem: pd.read_csv(path) for path in results.glob('*.csv')}


def settings(found: dict[str, pd.DataFrame]) -> list[str]:
  """Those that were run."""
  return list(found['steps'].setting.unique())


def kinds(
    found: dict[str, pd.DataFrame], part: str
) -> list[tuple[str, str]]:
  """Settings and kinds of a part that were run, in their order."""
  steps = found['steps']
  pairs = steps[steps.part == part][['setting', 'kind']].drop_duplicates()
  return list(pairs.itertuples(index=False, name=None))


def of(
    table: pd.DataFrame, part: str, setting: str, kind: str
) -> pd.DataFrame:
  """The rows of some arms."""
  return table[
      (table.part == part) & (table.setting == setting) & (table.kind == kind)
  ]


def figure_table(found: dict[str, pd.DataFrame]) -> str:
  """Figure 1 as numbers: a row a task, loss `sequence`."""
  header = ['setting', 'task', 'squared norm, in 1e-3', 'to the quietest',
            'held-out reward', 'gain', 'gain of headroom']
  rows = []
  for setting in settings(found):
    steps = of(found['steps'], 'figure', setting, 'sequence')
    heldout = of(found['heldout'], 'figure', setting, 'sequence')
    norms = analysis.averages(steps, 'norm_sq')
    ratios = analysis.ratios(steps, 'norm_sq')
    gains = analysis.gains(heldout)
    headroom = analysis.headroom_gains(heldout)
    for task in sorted(norms, key=lambda t: -norms[t].value):
      own = heldout[heldout.task == task].groupby('step').reward.mean()
      rows.append([
          setting, task, analysis.Estimate(*(1e3 * b for b in norms[task])),
          ratios[task], f'{own.iloc[0]:.3f} to {own.iloc[-1]:.3f}',
          gains[task], headroom[task],
      ])
  return tables.markdown(header, rows)


def confounds_table(found: dict[str, pd.DataFrame]) -> str:
  """The largest ratio under every normalization."""
  header = ['setting', 'normalization', 'loudest', 'ratio, first policy',
            'ratio of own losses, first policy', 'loudest in training',
            'ratio, training']
  rows = []
  for setting, kind in kinds(found, 'figure'):
    fixed = of(found['fixed'], 'fixed', setting, kind).set_index('task')
    steps = of(found['steps'], 'figure', setting, kind)
    loudest, ratio = analysis.spread(analysis.ratios(steps, 'norm_sq'))
    rows.append([
        setting, kind, fixed.norm_sq.idxmax(),
        f'{fixed.norm_sq.max() / fixed.norm_sq.min():.3g}',
        f'{fixed.intrinsic.max() / fixed.intrinsic.min():.3g}',
        loudest, ratio,
    ])
  return tables.markdown(header, rows)


def optimizer_table(found: dict[str, pd.DataFrame]) -> str:
  """Shares of the gradient, and of what the optimizer made of it."""
  header = ['setting', 'optimizer', 'loudest', 'share of the gradient',
            'share of the update']
  rows = []
  for setting, kind in kinds(found, 'optimizer'):
    steps = of(found['steps'], 'optimizer', setting, kind)
    loudest, _ = analysis.spread(analysis.ratios(steps, 'norm_sq'))
    rows.append([
        setting, kind, loudest,
        *(analysis.averages(steps, column)[loudest]
          for column in ('share', 'share_optimizer')),
    ])
  return tables.markdown(header, rows)


def claims_table(found: dict[str, pd.DataFrame]) -> str:
  """Rank correlations of tasks' squared norms with what could explain them."""
  columns = 'reward', 'abs_advantage', 'length', 'entropy'
  header = ['setting', 'correlation', *columns, 'gain']
  rows = []
  for setting in settings(found):
    steps = of(found['steps'], 'figure', setting, 'sequence')
    gains = analysis.gains(of(found['heldout'], 'figure', setting, 'sequence'))
    names, norms_TxK = analysis.series(steps, 'norm_sq')
    others = {c: analysis.series(steps, c)[1] for c in columns}
    within = [
        np.mean([analysis.ranks(norms_TxK[:, k], others[c][:, k])
                 for k in range(len(names))]) for c in columns
    ]
    across = [
        analysis.ranks(norms_TxK.mean(0), others[c].mean(0)) for c in columns
    ]
    across.append(analysis.ranks(
        norms_TxK.mean(0), [gains[name].value for name in names]
    ))
    rows.append([setting, 'within tasks', *(f'{v:.2f}' for v in within), ''])
    rows.append([setting, f'across {len(names)} tasks',
                 *(f'{v:.2f}' for v in across)])
  return tables.markdown(header, rows)


def all_tables(found: dict[str, pd.DataFrame]) -> Iterator[str]:
  """In the order of README.md."""
  yield figure_table(found)
  yield confounds_table(found)
  yield optimizer_table(found)
  yield claims_table(found)


def _curve(axes, table, column, color, label):
  """Mean over seeds, and their range."""
  over = table.groupby('step')[column]
  mean = over.mean()
  axes.plot(mean.index, mean, color=color, label=label)
  axes.fill_between(mean.index, over.min(), over.max(), color=color, alpha=0.2,
                    linewidth=0)


def draw_figure(found: dict[str, pd.DataFrame]) -> plt.Figure:
  """Squared norms, learning gains and rewards, as in the paper's figure 1."""
  figure, grid = plt.subplots(
      len(settings(found)), 3, figsize=(9, 2.6 * len(settings(found))),
      sharex=True, squeeze=False,
  )
  titles = 'squared norm (unbiased)', 'learning gain', 'training reward'
  for line, setting in zip(grid, settings(found), strict=True):
    steps = of(found['steps'], 'figure', setting, 'sequence')
    gains = analysis.paper_gains(steps, WINDOW)
    for color, (task, own) in zip(_COLORS, steps.groupby('task'), strict=False):
      _curve(line[0], own, 'norm_sq', color, task)
      _curve(line[1], gains[gains.task == task], 'gain', color, task)
      _curve(line[2], own, 'reward', color, task)
    line[0].set_ylabel(setting)
    line[0].axhline(0, color='gray', linewidth=0.5)
    line[1].axhline(0, color='gray', linewidth=0.5)
    line[2].legend(frameon=False, fontsize=8)
  for axes, title in zip(grid[0], titles, strict=True):
    axes.set_title(title)
  for axes in grid[-1]:
    axes.set_xlabel('step')
  return figure


def draw_confounds(found: dict[str, pd.DataFrame]) -> plt.Figure:
  """Norms of the first policy's gradients under every normalization."""
  figure, grid = plt.subplots(
      1, len(settings(found)), figsize=(9, 3), squeeze=False
  )
  for axes, setting in zip(grid[0], settings(found), strict=True):
    table = found['fixed'][found['fixed'].setting == setting]
    for color, (task, own) in zip(_COLORS, table.groupby('task'), strict=False):
      own = own.set_index('kind')
      axes.errorbar(
          own.index, own.norm_sq, color=color, label=task, capsize=2,
          yerr=[own.norm_sq - own.low, own.high - own.norm_sq],
          marker='o', markersize=4, linewidth=1,
      )
    axes.set_title(setting)
    axes.set_yscale('symlog', linthresh=1e-4)
    axes.set_xlabel('normalization of the loss')
    axes.legend(frameon=False, fontsize=8)
  grid[0, 0].set_ylabel('squared norm (unbiased)')
  return figure


def main(argv: list[str]) -> None:
  """Figures, then tables."""
  del argv
  _, results, folder = study.places(_HERE, _VARIANT.value)
  found = read(results)
  folder.mkdir(parents=True, exist_ok=True)
  with plt.rc_context(_STYLE):
    for name, draw in dict(
        figure=draw_figure, confounds=draw_confounds
    ).items():
      figure = draw(found)
      figure.savefig(folder / f'{name}.svg', metadata=dict(Date=None))
      plt.close(figure)
  text = '\n\n'.join(all_tables(found))
  print(text)
  readme = (_HERE / 'README.md').read_text('utf-8')
  if _CHECK.value and not all(t in readme for t in all_tables(found)):
    raise SystemExit('README.md has other tables than these.')


if __name__ == '__main__':
  app.run(main)
