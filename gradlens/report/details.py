"""Details: what the page says of one run, beside figures."""

from collections.abc import Sequence
import json

from gradlens.report import curves, history, markup, sentence, summary, tables
from gradlens.report.markup import escape


def head(run: history.Run, rows: Sequence[summary.Row]) -> str:
  """What the run's loudest task gained, the run's facts and its table."""
  return (f'<p class="lede">{escape(sentence.parts(rows)[1])}</p>'
          f'<dl class="facts">{_facts(run)}</dl>'
          f'{tables.to_html(rows)}<p class="note">{_note(run, rows[0])}</p>')


def tail(run: history.Run, rows: Sequence[summary.Row]) -> str:
  """Noise, counters, config and versions."""
  return _noise(run, rows) + _counters(run) + _provenance(run)


def _section(title: str, caption: str, body: str) -> str:
  return (f'<div class="part"><h3>{escape(title)}</h3>'
          f'<p class="caption">{escape(caption)}</p>{body}</div>')


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
      [escape(row.task), tables.number(row.snr),
       tables.bracket(tables.number, *row.critical_batch)]
      for row in rows]
  names = ['task', 'signal-to-noise', 'critical batch size [95%]']
  return _section('Noise', (
      'Signal-to-noise: the squared norm without noise over what noise adds to '
      'the naive one, both averaged over the run. Critical batch size: the '
      'prompts of a task in an update that would make it 1, an update having '
      f'{run.setting("prompts_per_task") // run.setting("num_mini_batches")} '
      'on average; well above it, more prompts help little. It is not known '
      'where the squared norm may be zero.'), markup.table(names, lines))


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
      [escape(task), *(
          _count(run, f'{prefix}/{task}', kind)
          for prefix, kind in columns.values())]
      for task in run.tasks]
  return _section('Counters', (
      'Totals over the run; groups of equal rewards (all completions of a '
      'prompt rewarded alike) and the gap between the sampler\'s and the '
      'trainer\'s log-probs are means over steps.'),
      markup.table(['task', *columns], lines))


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
  return ('<details><summary>Config and versions</summary>'
          f'<div class="columns"><pre>{escape(config)}</pre>'
          f'<pre>{escape(versions)}</pre></div></details>')
