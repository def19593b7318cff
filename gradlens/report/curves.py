"""Figures over training steps.

Dims here: T training steps, K tasks.
"""

from collections.abc import Sequence
import html
import math
from typing import Any, NamedTuple

import numpy as np
from plotly import subplots
import plotly.graph_objects as go

from gradlens.report import history, summary

# Okabe and Ito's colors for all kinds of color vision, without the yellow and
# the black that vanish on a light or a dark page; a second round is dashed.
_PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7',
            '#E69F00', '#56B4E9', '#8A6FD1', '#8C8C8C')
_SYMBOLS = ('circle', 'square', 'diamond', 'hexagon')
_MAX_POINTS = 1000
# A rolling mean takes a twelfth of the run; near zero, norms need more.
_PART = 12
_NORM_PART = 6


class Panel(NamedTuple):
  """A figure of the page.

  Attributes:
    title: what is plotted.
    caption: one or two sentences: how it was estimated, in what units.
    figures: {label: figure}; several labels are shown as tabs, none at all
      says that nothing was measured.
    wide: takes the whole width of the page.
  """
  title: str
  caption: str
  figures: dict[str, go.Figure]
  wide: bool = False


def color(k: int) -> str:
  """The color of task k, the same in all figures and tables."""
  return _PALETTE[k % len(_PALETTE)]


def fill(k: int) -> str:
  """CSS background in the color of task k, broken where lines are dashed."""
  if k < len(_PALETTE):
    return color(k)
  return (f'linear-gradient(90deg, {color(k)} 36%, transparent 36% 64%, '
          f'{color(k)} 64%)')


def trace(run: history.Run, k: int, **kwargs: Any) -> go.Scatter:
  """A line or points of task k; its legend group lets the page switch it."""
  kwargs.setdefault('mode', 'lines')
  kwargs.setdefault('name', html.escape(run.tasks[k]))
  line = {'color': color(k), 'width': 2,
          'dash': 'solid' if k < len(_PALETTE) else 'dash'}
  marker = {'color': color(k), 'symbol': _SYMBOLS[k % len(_SYMBOLS)]}
  return go.Scatter(
      legendgroup=str(k), showlegend=False,
      line=line | kwargs.pop('line', {}),
      marker=marker | kwargs.pop('marker', {}), **kwargs)


def grid(titles: list[str], height: int = 300, **kwargs: Any) -> go.Figure:
  """An empty row of plots over training steps."""
  figure = subplots.make_subplots(
      1, len(titles), subplot_titles=titles, horizontal_spacing=0.07, **kwargs)
  figure.update_layout(height=height, hovermode='x unified', margin={
      'l': 56, 'r': 12, 't': 28 if any(titles) else 8, 'b': 44})
  for annotation, axis in zip(
      figure.layout.annotations, figure.select_xaxes(), strict=False):
    annotation.update(x=axis.domain[0], xanchor='left', font_size=13)
  figure.update_xaxes(title_text='training step')
  return figure


def log_axis(values: Sequence[float]) -> dict[str, Any]:
  """Axis settings: the range around positive values, with few, plain ticks."""
  low = math.log10(min(values, default=1)) - 0.3
  high = math.log10(max(values, default=1)) + 0.3
  decades = range(math.floor(low), math.ceil(high) + 1)
  factors = (1,) if high - low > 3 else (1, 3) if high - low > 1 else (1, 2, 5)
  ticks = {float(f'{factor}e{decade}'): f'{factor}e{decade}'
           for decade in decades for factor in factors}
  return {'type': 'log', 'range': [low, high], 'tickvals': list(ticks),
          'ticktext': list(ticks.values())}


def rolling(values_T: np.ndarray, part: int = _PART) -> np.ndarray:
  """Centered rolling mean over 1 / part of the values, less at the ends."""
  window = max(1, len(values_T) // part)
  after = window // 2 + 1
  before = window - after
  return np.array([
      summary.mean(values_T[max(0, t - before):t + after])
      for t in range(len(values_T))])


def learning_gain(rewards_T: np.ndarray, window: int) -> np.ndarray:
  """Mean reward of the next `window` steps minus that of the last ones.

  Args:
    rewards_T: training reward, NaN where absent.
    window: steps on each side; step t itself is in neither.

  Returns:
    Gains [T], NaN where a side does not have its `window` steps.
  """
  gains_T = np.full(len(rewards_T), math.nan)
  for t in range(window, len(rewards_T) - window):
    gains_T[t] = (summary.mean(rewards_T[t + 1:t + 1 + window])
                  - summary.mean(rewards_T[t - window:t]))
  return gains_T


def _series(
    run: history.Run, prefix: str, k: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Steps and values of task k where the metric was measured."""
  values_T = run.values(f'{prefix}/{run.tasks[k]}')
  kept_T = np.isfinite(values_T)
  return run.steps[kept_T], values_T[kept_T]


def _thin(values_T: np.ndarray) -> np.ndarray:
  return values_T[::math.ceil(max(1, len(values_T)) / _MAX_POINTS)]


def _add_lines(
    figure: go.Figure, run: history.Run, prefix: str, col: int,
) -> bool:
  """Rolling means of every task over faint single steps; False if none."""
  drawn = False
  for k in range(len(run.tasks)):
    steps_T, values_T = _series(run, prefix, k)
    drawn = drawn or steps_T.size > 0
    figure.add_trace(
        trace(run, k, x=_thin(steps_T), y=_thin(values_T), opacity=0.25,
              line={'width': 1}, hoverinfo='skip'), 1, col)
    figure.add_trace(
        trace(run, k, x=_thin(steps_T), y=_thin(rolling(values_T)),
              hovertemplate='%{y:.4g}'), 1, col)
  return drawn


def steps(count: int) -> str:
  """A number of steps in words."""
  return '1 step' if count == 1 else f'{count} steps'


def _smoothing(run: history.Run, part: int = _PART) -> str:
  window = len(run.steps) // part
  return (f'Lines are rolling means over 1/{part} of the run ({window} steps)'
          if window > 1 else 'Lines join single steps')


def reward(run: history.Run) -> Panel:
  """Training and held-out reward."""
  figure = grid([''], height=340)
  drawn = _add_lines(figure, run, 'reward', 1)
  for k, task in enumerate(run.tasks):
    steps_E, means_E = run.heldout(task)
    drawn = drawn or steps_E.size > 0
    errors_E = [_error(run, int(step), task) for step in steps_E]
    figure.add_trace(
        trace(run, k, x=steps_E, y=means_E, mode='markers',
              error_y={'type': 'data', 'array': errors_E, 'thickness': 1.2,
                       'width': 0, 'color': color(k)},
              marker={'size': 9}, name=f'{html.escape(task)}, held-out',
              hovertemplate='%{y:.3f}'), 1, 1)
  figure.update_yaxes(title_text='mean reward')
  caption = (f'{_smoothing(run)} of the training reward (single steps faint). '
             'Points: held-out reward of the same prompts at every '
             'evaluation, with 95% intervals over prompts.')
  return Panel('Reward', caption, {'': figure} if drawn else {}, wide=True)


def _error(run: history.Run, step: int, task: str) -> float:
  """Half a 95% interval of a held-out mean, NaN without rewards per prompt."""
  rewards_N = run.evals.get(step, {}).get(task, np.zeros(0))
  if rewards_N.size < 2:
    return math.nan
  return 1.96 * rewards_N.std(ddof=1) / math.sqrt(rewards_N.size)


def norms(run: history.Run, estimator: str) -> Panel:
  """Naive and unbiased squared norms, of contributions and intrinsic."""
  figures, hidden = {}, 0
  for label, prefix in (('contribution', 'norm_sq'),
                        ('intrinsic', 'intrinsic_norm_sq')):
    figure = grid([estimator, 'naive'], height=360, shared_yaxes=True)
    averages, largest = [], []
    for col, kind in ((1, 'unbiased'), (2, 'naive')):
      for k in range(len(run.tasks)):
        steps_T, values_T = _series(run, f'{prefix}/{kind}', k)
        smooth_T = rolling(values_T, _NORM_PART)
        hidden += int((smooth_T <= 0).sum())
        smooth_T[smooth_T <= 0] = math.nan
        averages.append(summary.mean(values_T))
        largest.append(np.nan_to_num(smooth_T).max(initial=0))
        figure.add_trace(trace(run, k, x=_thin(steps_T), y=_thin(smooth_T),
                               hovertemplate='%{y:.3g}'), 1, col)
    averages = [average for average in averages if average > 0]
    if averages:
      # Noise around zero has no end on a log axis: cut it under the quietest.
      figure.update_yaxes(**log_axis([min(averages) / 2, max(largest)]))
      figure.update_yaxes(title_text='squared norm', col=1)
      figures[label] = figure
  return Panel('Squared gradient norm', (
      f'{_smoothing(run, _NORM_PART)}. Left: only products of different splits '
      'of a task\'s prompts, free of sampling noise. Right: the plain squared '
      'norm, noise included. Contribution: what enters the update; intrinsic: '
      f'of the task\'s own loss.{_gaps(hidden)}'), figures, wide=True)


def _gaps(hidden: int) -> str:
  """What a log axis cannot show."""
  return (' Near zero an estimate may be negative: the log axis shows gaps '
          'there, the table counts them in.' if hidden else '')


def shares(run: history.Run) -> Panel:
  """Share of the update, before and after the correction."""
  correction = run.setting('correction.name')
  figure = grid(['before', f'after {html.escape(str(correction))}'],
                shared_yaxes=True)
  drawn = [_add_shares(figure, run, 'share/before', 1),
           _add_shares(figure, run, 'share/after', 2)]
  figure.update_yaxes(tickformat='.0%')
  figure.update_yaxes(title_text='share of update', col=1)
  caption = (f'{_smoothing(run)}. A task\'s share is its part of the squared '
             'length of the step\'s update, noise included; it is below zero '
             'where the update moves against the task.')
  return Panel('Share of the update', caption,
               {'': figure} if any(drawn) else {}, wide=True)


def _add_shares(
    figure: go.Figure, run: history.Run, prefix: str, col: int,
) -> bool:
  series = [_series(run, prefix, k) for k in range(len(run.tasks))]
  smooth = [rolling(values_T) for _, values_T in series]
  # A share is negative where a task opposes the update: areas cannot show it.
  stack = {} if any((s < 0).any() for s in smooth) else {
      'stackgroup': prefix, 'line': {'width': 0.5}}
  for k, (steps_T, _) in enumerate(series):
    figure.add_trace(
        trace(run, k, x=_thin(steps_T), y=_thin(smooth[k]),
              hovertemplate='%{y:.1%}', **stack), 1, col)
  return any(steps_T.size for steps_T, _ in series)


def weights(run: history.Run) -> Panel:
  """Weights of the correction."""
  figure = grid([''])
  drawn = _add_lines(figure, run, 'weight', 1)
  figure.update_yaxes(title_text='weight')
  return Panel(
      'Weights', f'{_smoothing(run)} of the factor on each task\'s gradient; '
      '1 leaves it as it is.', {'': figure} if drawn else {})


def gain(run: history.Run, window: int) -> Panel:
  """Learning gain."""
  figure = grid([''], height=320)
  gains = [learning_gain(run.values(f'reward/{t}'), window) for t in run.tasks]
  for k, gains_T in enumerate(gains):
    figure.add_trace(
        trace(run, k, x=_thin(run.steps), y=_thin(gains_T),
              hovertemplate='%{y:+.3f}'), 1, 1)
  figure.update_yaxes(title_text='gain in reward', zeroline=True)
  drawn = any(np.isfinite(gains_T).any() for gains_T in gains)
  return Panel(
      'Learning gain', f'Mean training reward of the next {steps(window)} '
      f'minus that of the last {steps(window)}. A run shorter than '
      f'{2 * window + 1} steps has none.', {'': figure} if drawn else {})


def completions(run: history.Run) -> Panel:
  """Length, entropy and size of advantages."""
  figure = grid(['length (tokens)', 'entropy (nats per token)',
                 'mean |advantage|'], height=270)
  drawn = [_add_lines(figure, run, prefix, col) for col, prefix in enumerate(
      ('length', 'entropy', 'abs_advantage'), start=1)]
  return Panel(
      'Completions', f'{_smoothing(run)}, averaged over a step\'s completions: '
      'candidates for why a norm is large.',
      {'': figure} if any(drawn) else {}, wide=True)
