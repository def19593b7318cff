"""Figures averaged over the run: blocks, directions, size against gain.

Dims here: T training steps, K tasks, M blocks of parameters.
"""

import html
import math

import numpy as np
import plotly.graph_objects as go

from gradlens.report import curves, history, summary

_LAYER = 'layer_norm_sq/'
# Half transparent over the page, so that one text color can be read on all.
_SEQUENTIAL = [[0, 'rgba(0,114,178,0.03)'], [1, 'rgba(0,114,178,0.6)']]
_DIVERGING = [[0, 'rgba(213,94,0,0.7)'], [0.5, 'rgba(128,128,128,0.05)'],
              [1, 'rgba(0,114,178,0.7)']]
_MAX_ANNOTATED = 14


def layers(run: history.Run, estimator: str) -> curves.Panel:
  """Each block's share of every task's squared norm."""
  blocks = _blocks(run)
  norms_KxM = np.array([
      [summary.mean(run.values(f'{_LAYER}{block}/{task}')) for block in blocks]
      for task in run.tasks])
  caption = (f'Run-averaged {estimator} squared norm of a block over the sum '
             'of all blocks, contribution; a row adds up to 100%. A negative '
             'share is noise around zero.')
  if not np.isfinite(norms_KxM).any():
    return curves.Panel('Squared norm by block', caption, {}, wide=True)
  totals_K = norms_KxM.sum(-1, where=np.isfinite(norms_KxM))
  shares_KxM = np.full(norms_KxM.shape, math.nan)
  np.divide(norms_KxM, totals_K[:, None], out=shares_KxM,
            where=totals_K[:, None] > 0)
  figure = _heat_map(run, shares_KxM, blocks, '%{z:.0%}', _SEQUENTIAL)
  figure.update_traces(
      zmin=0, zmax=float(np.nan_to_num(shares_KxM).max()),
      hovertemplate='%{y}, %{x}: %{z:.1%}<extra></extra>')
  return curves.Panel('Squared norm by block', caption, {'': figure}, wide=True)


def _blocks(run: history.Run) -> list[str]:
  """Names of the measured blocks: those before the layers first."""
  ends = tuple(f'/{task}' for task in run.tasks)
  names = {tag[len(_LAYER):tag.rindex('/')] for tag in run.scalars
           if tag.startswith(_LAYER) and tag.endswith(ends)}
  return sorted(names, key=lambda name: (
      0 if name.startswith('embed') else 1 if name.startswith('layers') else 2,
      name not in ('norm', 'final_norm'), name))


def cosines(run: history.Run, estimator: str) -> curves.Panel:
  """Cosines between the tasks' gradients, averaged over the run."""
  cosines_KxK = cosine_matrix(run)
  caption = ('Run-averaged inner product over the root of the run-averaged '
             f'{estimator} squared norms. Noise may carry a value past 1.')
  figures = {}
  if np.isfinite(cosines_KxK).any():
    figure = _heat_map(run, cosines_KxK, run.tasks, '%{z:.2f}', _DIVERGING)
    figure.update_traces(zmin=-1, zmax=1, hovertemplate=(
        '%{y} and %{x}: %{z:.3f}<extra></extra>'))
    figures[''] = figure
  return curves.Panel('Cosines between tasks', caption, figures)


def cosine_matrix(run: history.Run) -> np.ndarray:
  """Debiased cosines [K, K]; NaN where a norm is not above zero."""
  norms_K = np.array([summary.mean(norms_T)
                      for norms_T in run.per_task('norm_sq/unbiased').T])
  num_tasks = len(run.tasks)
  cosines_KxK = np.full((num_tasks, num_tasks), math.nan)
  for i, one in enumerate(run.tasks):
    for j, other in enumerate(run.tasks):
      if not (norms_K[i] > 0 and norms_K[j] > 0):
        continue
      inner = 1.0 if i == j else summary.mean(np.concatenate([
          run.values(f'inner/{one}/{other}'),
          run.values(f'inner/{other}/{one}')]))
      scale = 1.0 if i == j else math.sqrt(norms_K[i] * norms_K[j])
      cosines_KxK[i, j] = inner / scale
  return cosines_KxK


def _heat_map(
    run: history.Run, values_KxM: np.ndarray, columns: list[str], form: str,
    scale: list,
) -> go.Figure:
  figure = go.Figure(go.Heatmap(
      z=values_KxM, x=[html.escape(name) for name in columns],
      y=[html.escape(task) for task in run.tasks], colorscale=scale,
      showscale=False, xgap=2, ygap=2,
      texttemplate=form if len(columns) <= _MAX_ANNOTATED else None))
  figure.update_xaxes(showgrid=False, type='category', side='top')
  figure.update_yaxes(showgrid=False, type='category', autorange='reversed')
  figure.update_layout(
      height=max(300, 60 + 26 * len(run.tasks)),
      margin={'l': 12, 'r': 12, 't': 40, 'b': 12})
  figure.update_xaxes(automargin=True)
  figure.update_yaxes(automargin=True)
  return figure


def norm_against_gain(run: history.Run, window: int) -> curves.Panel:
  """Squared norm against learning gain, by quarter of the run."""
  figure = go.Figure()
  shown, hidden = [], 0
  averages = [summary.mean(norms_T)
              for norms_T in run.per_task('norm_sq/unbiased').T]
  # Noise around zero has no end on a log axis: leave out what lies far below.
  floor = min((a for a in averages if a > 0), default=0) / 10
  for k in range(len(run.tasks)):
    norms_Q, gains_Q = quarters(run, k, window)
    known_Q = np.isfinite(norms_Q) & np.isfinite(gains_Q)
    shown_Q = known_Q & (norms_Q > floor)
    hidden += int(known_Q.sum() - shown_Q.sum())
    shown += norms_Q[shown_Q].tolist()
    figure.add_trace(curves.trace(
        run, k, x=norms_Q[shown_Q], y=gains_Q[shown_Q],
        mode='lines+markers+text', line={'width': 1},
        marker={'size': 20, 'opacity': 0.9}, textfont={'color': '#fff'},
        text=[str(q + 1) for q in np.flatnonzero(shown_Q)],
        hovertemplate='quarter %{text}: squared norm %{x:.3g}, '
                      'gain %{y:+.3f}'))
  figure.update_layout(height=320, margin={'l': 56, 'r': 12, 't': 8, 'b': 44})
  figure.update_xaxes(**curves.log_axis(shown),
                      title_text='squared norm (contribution)')
  figure.update_yaxes(title_text='gain in reward', zeroline=True)
  caption = ('Run-averaged squared norm and mean learning gain of each quarter '
             'of the run (1 to 4). If size meant potential, points would rise '
             'to the right.')
  if hidden:
    caption += (f' Left out, near zero or below: {hidden} of '
                f'{hidden + len(shown)}.')
  return curves.Panel('Norm against gain', caption,
                      {'': figure} if shown else {})


def quarters(
    run: history.Run, k: int, window: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Mean contribution [4] and mean learning gain [4] of task k."""
  task = run.tasks[k]
  norms_T = run.values(f'norm_sq/unbiased/{task}')
  gains_T = curves.learning_gain(run.values(f'reward/{task}'), window)
  norms, gains = (
      [summary.mean(part) for part in np.array_split(values_T, 4)]
      for values_T in (norms_T, gains_T))
  return np.array(norms), np.array(gains)
