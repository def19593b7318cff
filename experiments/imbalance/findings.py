"""What the study found, as the tables of its README.md."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments import tables
from experiments.imbalance import analysis, rule_outs
from experiments.tables import Found
import gradlens as gl
from gradlens.report.summary import Estimate
from gradlens.report.tables import number

WINDOWS = 1, 2  # blocks of steps before and after one, of a gain


def settings(found: Found) -> list[str]:
  """Those that were run."""
  return list(found['steps'].setting.unique())


def figure_table(found: Found) -> str:
  """Figure 1 as numbers: a row a task, loss `sequence`."""
  header = ['setting', 'task', 'squared norm, in 1e-3', 'to the quietest',
            'held-out reward', 'gain', 'gain of headroom']
  rows = []
  for setting in settings(found):
    steps = tables.of(found['steps'], 'figure', setting, 'sequence')
    heldout = tables.of(found['heldout'], 'figure', setting, 'sequence')
    norms = analysis.averages(steps, 'norm_sq')
    ratios = analysis.ratios(steps, 'norm_sq')
    gains = analysis.gains(heldout)
    headroom = analysis.headroom_gains(heldout)
    for task in sorted(norms, key=lambda t: -norms[t].value):
      own = heldout[heldout.task == task].groupby('step').reward.mean()
      rows.append([
          setting, task, Estimate(*(1e3 * b for b in norms[task])),
          ratios[task], f'{own.iloc[0]:.3f} to {own.iloc[-1]:.3f}',
          gains[task], headroom[task],
      ])
  return tables.markdown(header, rows)


def first_policy(found: Found, setting: str, kind: str) -> pd.DataFrame:
  """Tasks at fixed parameters, the loudest first."""
  own = tables.of(found['fixed'], 'fixed', setting, kind).set_index('task')
  return own.sort_values('norm_sq', ascending=False)


def confounds_table(found: Found) -> str:
  """The largest ratio under every normalization."""
  header = ['setting', 'normalization', 'loudest', 'ratio, first policy',
            'ratio of own losses, first policy', 'loudest in training',
            'ratio, training']
  rows = []
  for setting, kind in tables.kinds(found, 'figure'):
    fixed = first_policy(found, setting, kind)
    steps = tables.of(found['steps'], 'figure', setting, kind)
    loudest, ratio = analysis.spread(steps)
    rows.append([
        setting, kind, fixed.index[0],
        Estimate(*fixed.iloc[0][['ratio', 'ratio_low', 'ratio_high']]),
        number(analysis.largest_ratio(fixed.intrinsic)),
        loudest, ratio,
    ])
  return tables.markdown(header, rows)


def optimizer_table(found: Found) -> str:
  """Shares of the gradient, and of what the optimizer made of it."""
  header = ['setting', 'optimizer', 'loudest', 'share of the gradient',
            'share of the update', 'left by the optimizer']
  rows = []
  for setting, kind in tables.kinds(found, 'optimizer'):
    steps = tables.of(found['steps'], 'optimizer', setting, kind)
    loudest, _ = analysis.spread(steps)
    rows.append([
        setting, kind, loudest,
        *(analysis.averages(steps, column)[loudest]
          for column in ('share', 'share_optimizer')),
        analysis.kept(steps, loudest),
    ])
  return tables.markdown(header, rows)


def claims_table(found: Found) -> str:
  """Rank correlations of tasks' squared norms with what could explain them."""
  columns = 'reward', 'abs_advantage', 'length', 'entropy'
  header = ['setting', 'correlation', *columns, 'gain']
  rows = []
  for setting in settings(found):
    steps = tables.of(found['steps'], 'figure', setting, 'sequence')
    heldout = tables.of(found['heldout'], 'figure', setting, 'sequence')
    gains = analysis.gains(heldout)
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


def windows_table(found: Found) -> str:
  """Does a task with a larger norm gain more next? By the window of the gain.

  Over all blocks of steps and tasks, and of every task by itself.
  """
  header = ['setting', 'window, in blocks', 'all tasks and steps',
            'within tasks']
  rows = []
  for setting in settings(found):
    steps = tables.of(found['steps'], 'figure', setting, 'sequence')
    for window in WINDOWS:
      both = analysis.paper_gains(steps, window).merge(
          steps[['seed', 'task', 'step', 'norm_sq']]
      )
      if both.empty:
        continue  # a run as short as that has none
      inside = both.groupby(['task', 'seed'])[['norm_sq', 'gain']].apply(
          lambda own: analysis.ranks(own.norm_sq, own.gain)
      ).groupby('task').mean()
      rows.append([
          setting, window, f'{analysis.ranks(both.norm_sq, both.gain):.2f}',
          tables.correlation(gl.jackknife(np.mean, inside.to_numpy())),
      ])
  return tables.markdown(header, rows)


def supervised_table(found: Found) -> str:
  """The same policy's gradients by rewards and by reference answers."""
  header = ['setting', 'loss', 'task', 'squared norm, in 1e-3']
  rows = []
  for setting in settings(found):
    for kind, loss in (('sequence', 'GRPO'), ('supervised', 'supervised')):
      fixed = first_policy(found, setting, kind)
      bounds = (1e3 * fixed[name] for name in ('norm_sq', 'low', 'high'))
      rows += [
          [setting, loss, task, Estimate(*values)]
          for task, *values in zip(fixed.index, *bounds, strict=True)
      ]
  return tables.markdown(header, rows)


def stages(found: Found) -> pd.DataFrame:
  """Of every task, the means over seeds."""
  columns = [*rule_outs.STAGES, 'norm_sq']
  return found['stages'].groupby('task')[columns].mean()


def stages_table(found: Found) -> str:
  """What the spread between tasks is made of."""
  stages_of = stages(found)
  shares = rule_outs.stage_shares(stages_of)
  header = ['stage', 'smallest', 'largest', 'share of the spread',
            'rank correlation of two seeds']
  rows = [
      [stage, f'{own.min():.3g} ({own.idxmin()})',
       f'{own.max():.3g} ({own.idxmax()})', shares[stage],
       number(rule_outs.agreement(found['stages'], stage))]
      for stage, own in stages_of[list(rule_outs.STAGES)].items()
  ]
  return tables.markdown(header, rows)


def factors_table(found: Found) -> str:
  """Rank correlations of squared norms with what could explain them.

  Of single prompts within tasks and averaged across them, both also at matched
  pass rate; and of the tasks' own.
  """
  header = ['factor', 'prompts, within tasks', 'matched pass rate',
            'prompts\' average, across tasks', 'matched pass rate',
            'tasks\' own, across tasks']
  rows = rule_outs.factor_rows(found['prompts'], stages(found).norm_sq)
  return tables.markdown(header, rows)


def regression_table(found: Found) -> str:
  """The mixed-effects regression, of all prompts and of matched ones."""
  header = ['prompts', 'number', 'tasks', 'variance between tasks',
            'with factors', 'variance within', 'with factors',
            'R2 of factors', 'R2 with tasks']
  rows = []
  for name, prompts in (
      ('all', found['prompts']),
      ('matched', rule_outs.matched(found['prompts'])),
  ):
    of = rule_outs.explained(prompts)
    rows.append([
        name, int((prompts.norm_sq > 0).sum()), prompts.task.nunique(),
        *(f'{of[key]:.3g}' for key in (
            'between', 'between_left', 'within', 'within_left', 'factors',
            'whole')),
    ])
  return tables.markdown(header, rows)


def function_table(found: Found) -> str:
  """Of each task, what steps along its gradient do to the policy."""
  header = ['setting', 'task', 'squared norm, in 1e-3',
            'divergence by its own step, in nats', 'that over the squared norm',
            'of other tasks, by its step']
  rows = []
  for setting, table in found['function'].groupby('setting', sort=False):
    own = table[table['on'] == table['of']].set_index('of')
    others = table[table['on'] != table['of']].groupby('of').kl.mean()
    norms = first_policy(found, setting, 'sequence').norm_sq
    for task in own.kl.sort_values(ascending=False).index:
      bounds = [
          Estimate(*own.loc[task, [name, f'{name}_low', f'{name}_high']])
          for name in ('kl', 'per_norm')
      ]
      rows.append([
          setting, task, number(1e3 * norms[task]), *bounds,
          number(others[task]),
      ])
  return tables.markdown(header, rows)


def blocks_table(found: Found) -> str:
  """Does a block of parameters follow the whole, from step to step?"""
  names, inside, across = analysis.followers(found['blocks'])
  header = ['block', 'within tasks, over steps', 'across tasks']
  return tables.markdown(header, [
      [name, inside[name], across[name]] for name in names
  ])


def all_tables(found: Found) -> Iterator[str]:
  """In the order of README.md."""
  yield figure_table(found)
  yield confounds_table(found)
  yield optimizer_table(found)
  yield claims_table(found)
  yield windows_table(found)
  yield supervised_table(found)
  yield stages_table(found)
  yield factors_table(found)
  yield regression_table(found)
  yield function_table(found)
  yield blocks_table(found)
