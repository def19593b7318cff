"""The summary in words: who is loudest, by how much, and what it gained."""

from collections.abc import Callable, Sequence
import math

import numpy as np

from gradlens.report import curves, summary, tables

# With fewer measured steps the blocks of the jackknife are single steps.
_FEW_STEPS = summary.NUM_BLOCKS


def closing_sentence(rows: Sequence[summary.Row]) -> str:
  """Says what the summary shows, and no more than its intervals allow.

  Args:
    rows: one per task.

  Returns:
    Which task is loudest and by how much, and what it gained.
  """
  return ' '.join(filter(None, parts(rows)))


def parts(rows: Sequence[summary.Row]) -> tuple[str, str]:
  """The closing sentence's two parts, on loudness and on gain."""
  measured = [r for r in rows if math.isfinite(r.contribution.value)]
  if not measured:
    return ('No unbiased gradient norm has been measured in this run, so no '
            'task can be called loud or quiet.', '')
  loudest = max(measured, key=lambda row: row.contribution.value)
  loudness = _loudness(loudest, measured)
  if loudest.steps < _FEW_STEPS:
    loudness = (f'After only {curves.steps(loudest.steps)}, too few to rank '
                f'tasks, {loudness}')
  return loudness, _gain(loudest, rows)


def _loudness(loudest: summary.Row, rows: Sequence[summary.Row]) -> str:
  name = loudest.task
  if len(rows) == 1:
    return (f'{name} has a squared gradient norm of '
            f'{_value(loudest.contribution, tables.number)}, with no other '
            'task to compare it with.')
  quietest = min(rows, key=lambda row: row.contribution.value)
  if not loudest.ratio.bounded:
    return (f'{name} looks loudest, but the squared gradient norm of '
            f'{quietest.task}, the quietest, is too uncertain for a ratio.')
  _, low, high = loudest.ratio
  ratio = (f'{tables.number(loudest.ratio.value)} times that of '
           f'{quietest.task}, the quietest')
  interval = f'(95% interval {tables.number(low)} to {tables.number(high)})'
  if low <= 1 <= high:
    return (f'{name} is not clearly loudest: its squared gradient norm is '
            f'{ratio} {interval}, and the interval includes 1.')
  close = [row.task for row in rows if row is not loudest
           and row.contribution.high >= loudest.contribution.low]
  beside = f' (not clearly above {_join(close)})' if close else ''
  verb = 'looks' if loudest.steps < _FEW_STEPS else 'is'
  return (f'{name} {verb} loudest{beside}: its squared gradient norm is '
          f'{ratio} {interval}.')


def _gain(loudest: summary.Row, rows: Sequence[summary.Row]) -> str:
  gain = loudest.gain
  if not math.isfinite(gain.value):
    return ('What it gained is not known: held-out reward was not evaluated '
            'both before and after.')
  others = [row.gain for row in rows
            if row is not loudest and math.isfinite(row.gain.value)]
  sentence = f'Its held-out reward changed by {_value(gain, tables.signed)}'
  if gain.bounded and gain.low <= 0 <= gain.high:
    sentence += ', which includes no change'
  return f'{sentence}{_compared(gain, others)}.'


def _compared(
    gain: summary.Estimate, others: Sequence[summary.Estimate],
) -> str:
  """The loudest task's gain against the average of the others."""
  if not others:
    return ''
  average = summary.mean(np.array([other.value for other in others]))
  # Tasks have different prompts: errors are independent and add in squares.
  halves = [(e.high - e.low) / 2 for e in others]
  error = math.hypot(gain.high - gain.value, math.hypot(*halves) / len(others))
  if not math.isfinite(error):
    verdict = 'without an interval to compare it with'
  elif abs(gain.value - average) <= error:
    verdict = 'not clearly different from'
  else:
    verdict = 'more than' if gain.value > average else 'less than'
  each = 'the other task\'s' if len(others) == 1 else (
      f'the other {len(others)} tasks\' average of')
  return f', {verdict} {each} {tables.signed(average)}'


def _value(
    estimate: summary.Estimate, form: Callable[[float], str],
) -> str:
  value, low, high = (form(x) for x in estimate)
  if not estimate.bounded:
    return value
  return f'{value} (95% interval {low} to {high})'


def _join(names: Sequence[str]) -> str:
  return names[0] if len(names) == 1 else (
      f'{", ".join(names[:-1])} and {names[-1]}')
