"""The report as one self-contained HTML file.

Nothing is loaded from outside, and text that a model wrote is escaped; a
content security policy says both again to the browser.
"""

from collections.abc import Sequence
import json

from plotly import offline

from gradlens.report import (
  curves,
  history,
  maps,
  markup,
  samples,
  sentence,
  style,
  summary,
  tables,
)
from gradlens.report.markup import escape

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
<p class="eyebrow">gradlens report &middot; <b>{title}</b></p>
<h1>{headline}</h1>
<p class="lede">{lede}</p>
<dl class="facts">{facts}</dl>
<div class="scroll">{table}</div>
<p class="note">{note}</p>
<div class="chips"><span>Tasks</span>{chips}</div>
<div class="panels">{panels}</div>
</main>
<script type="application/json" id="figures">{figures}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


def render(
    run: history.Run, rows: Sequence[summary.Row], gain_window: int,
) -> str:
  """Renders a run.

  Args:
    run: the run's history.
    rows: its summary.
    gain_window: steps on each side of a learning gain.

  Returns:
    The HTML document.
  """
  panels = _panels(run, gain_window)
  figures = [f for panel in panels for f in panel.figures.values()]
  fills = [curves.fill(k) for k in range(len(run.tasks))]
  plotly = offline.get_plotlyjs()
  sections, number = [], 0
  for panel in panels:
    sections.append(_figure(panel, number))
    number += len(panel.figures)
  sections += [
      _noise(run, rows), samples.section(run), _counters(run),
      _provenance(run)]
  headline, lede = sentence.parts(rows)
  return _PAGE.format(
      policy=markup.policy(plotly, style.SCRIPT), css=style.CSS,
      title=escape(run.workdir.name),
      headline=escape(headline), lede=escape(lede), facts=_facts(run),
      table=tables.to_html(rows, fills), note=_note(run, rows[0]),
      chips=''.join(
          f'<button class="chip" data-task="{k}" aria-pressed="true">'
          f'{markup.swatch(fills[k], task)}</button>'
          for k, task in enumerate(run.tasks)),
      panels=''.join(sections), figures=markup.figures_json(figures),
      plotly=plotly, script=style.SCRIPT)


def _panels(run: history.Run, gain_window: int) -> list[curves.Panel]:
  estimator = summary.estimator(run)
  return [
      curves.norms(run, estimator), curves.reward(run), curves.shares(run),
      curves.gain(run, gain_window), maps.norm_against_gain(run, gain_window),
      curves.weights(run), maps.cosines(run, estimator),
      maps.layers(run, estimator), curves.completions(run)]


def _figure(panel: curves.Panel, number: int) -> str:
  """A panel; its figures are numbered from `number` on."""
  tabs, plots = '', '<p class="empty">Not measured in this run.</p>'
  if len(panel.figures) > 1:
    tabs = ''.join(
        f'<button data-figure="{number + i}" '
        f'aria-pressed="{str(i == 0).lower()}">{escape(label)}</button>'
        for i, label in enumerate(panel.figures))
  if panel.figures:
    plots = ''.join(
        f'<div class="plot" data-figure="{number + i}"'
        f'{" hidden" if i else ""}></div>' for i in range(len(panel.figures)))
  return (f'<figure class="panel{" wide" if panel.wide else ""}">'
          f'<div class="head"><h2>{escape(panel.title)}</h2>'
          f'<div class="tabs">{tabs}</div></div>'
          f'<figcaption>{escape(panel.caption)}</figcaption>'
          f'<div class="plots">{plots}</div></figure>')


def _trained(run: history.Run) -> str:
  rank = run.setting('lora.rank')
  return f'adapters of rank {rank}' if rank else 'all parameters'


def _facts(run: history.Run) -> str:
  done = int(run.steps[-1]) if run.steps.size else 0
  total = run.setting('num_steps')
  facts = {
      'correction': run.setting('correction.name'),
      'loss': f'{run.setting("loss.aggregate")}, normalized by '
              f'{run.setting("loss.normalize")}',
      'batch': f'{len(run.tasks)} tasks × {run.setting("prompts_per_task")} '
               f'prompts × {run.setting("num_completions")} completions',
      'mixture': run.setting('mixture.kind'),
      'trained': _trained(run),
      'splits per task': run.setting('num_splits'),
      'temperature': run.setting('rollout.temperature'),
      'seed': run.setting('seed'),
      'steps': f'{done} of {total}' + ('' if done >= total else ', unfinished'),
  }
  return ''.join(f'<div><dt>{name}</dt><dd>{escape(value)}</dd></div>'
                 for name, value in facts.items())


def _note(run: history.Run, row: summary.Row) -> str:
  """How to read the summary table."""
  return escape(
      f'Averages over {curves.steps(row.steps)}. Squared norm: of what a task '
      f'adds to the joint gradient of {_trained(run)}, estimated '
      + ('without bias ' if row.estimator == 'unbiased' else
         'across splits (which share a denominator, so not quite unbiased) ')
      + 'from pairs of different prompt splits; naive keeps the sampling noise '
      'in; intrinsic is the norm of the task\'s own loss. Update share: part '
      'of the squared length of the step\'s update, noise included. The loss '
      f'is {run.setting("loss.aggregate")}, normalized by '
      f'{run.setting("loss.normalize")}. Intervals are 95%: jackknife over '
      f'{summary.NUM_BLOCKS} blocks of consecutive steps; the ratio\'s hold '
      'for all pairs of tasks at once, as the quietest is picked by looking; '
      'the gain\'s pair the same held-out prompts before and after.')


def _noise(run: history.Run, rows: Sequence[summary.Row]) -> str:
  """How much of the gradients is noise, and what batch would change that."""
  lines = [
      [markup.swatch(curves.fill(k), row.task), tables.number(row.snr),
       tables.bracket(tables.number, *row.critical_batch)]
      for k, row in enumerate(rows)]
  head = ['task', 'signal-to-noise', 'critical batch size [95%]']
  return markup.section('Noise', (
      'Signal-to-noise: the squared norm without noise over what noise adds to '
      'the naive one, both averaged over the run. Critical batch size: the '
      'prompts of a task in an update that would make it 1, an update having '
      f'{run.setting("prompts_per_task") // run.setting("num_mini_batches")} '
      'on average; well above it, more prompts help little. It is not known '
      'where the squared norm may be zero.'),
      f'<div class="scroll">{markup.table(head, lines)}</div>')


def _counters(run: history.Run) -> str:
  """What went wrong, and how often."""
  columns = {
      'verifier errors': ('verifier_errors', 'sum'),
      'verifier time-outs': ('verifier_timeouts', 'sum'),
      'skipped gradients': ('skipped', 'sum'),
      'groups of equal rewards': ('zero_advantage', 'percent'),
      'prompts': ('prompts', 'sum'), 'further prompts': ('refilled', 'sum'),
      'sampler gap (nats)': ('sampler_gap', 'mean'),
      'tokens': ('tokens', 'sum')}
  lines = [
      [markup.swatch(curves.fill(k), task), *(
          _count(run, f'{prefix}/{task}', kind)
          for prefix, kind in columns.values())]
      for k, task in enumerate(run.tasks)]
  return markup.section('Counters', (
      'Totals over the run; groups of equal rewards (all completions of a '
      'prompt rewarded alike) and the gap between the sampler\'s and the '
      'trainer\'s log-probs are means over steps.'),
      f'<div class="scroll">{markup.table(["task", *columns], lines)}</div>')


def _count(run: history.Run, tag: str, kind: str) -> str:
  average = summary.mean(run.values(tag))
  if kind == 'percent':
    return tables.percent(average)
  if kind == 'mean' or average != average:
    return tables.number(average)
  return f'{sum(run.scalars[tag].values()):,.0f}'


def _provenance(run: history.Run) -> str:
  """Config and versions, folded away."""
  config = json.dumps(run.config, indent=2)
  versions = '\n'.join(f'{name} {v}' for name, v in run.versions.items())
  return markup.section('Config and versions', '', (
      '<details><summary>Show</summary><div class="columns">'
      f'<pre>{escape(config)}</pre><pre>{escape(versions)}</pre></div>'
      '</details>'))
