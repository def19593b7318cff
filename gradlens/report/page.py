"""The report as one self-contained HTML file.

Nothing is loaded from outside, and text that a model wrote is escaped; a
content security policy says both again to the browser.
"""

from collections.abc import Sequence
import importlib.resources

from gradlens.report import (
    compare,
    content,
    curves,
    details,
    figures,
    groups,
    history,
    markup,
    sentence,
    summary,
)
from gradlens.report.markup import escape

# Put together in this order.
_SCRIPTS = ('base', 'axes', 'lines', 'maps', 'bars', 'samples', 'main')
_CHOICES = (
    ('', 'all rewards'), ('1', 'reward 1'), ('part', 'between 0 and 1'),
    ('0', 'reward 0'))

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{css}</style>
</head>
<body data-live="{live}">
<a class="skip" href="#figures">Skip to the figures</a>
<header class="top">
<p class="eyebrow">gradlens report &middot; <b>{title}</b></p>
<div class="tools"><span id="live" role="status"></span>
<button id="theme" type="button">Theme: system</button></div>
</header>
<main>
<h1>{headline}</h1>
{overview}
<p class="note">{links}</p>
{controls}
<noscript><p class="empty">The figures need JavaScript; the tables do not.</p>
</noscript>
<div class="panels" id="figures">{panels}</div>
{samples}
{tails}
</main>
<div id="tip" hidden></div>
<p id="said" class="hidden" role="status" aria-live="polite"></p>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def render(
    runs: Sequence[history.Run], gain_window: int, live: str = '',
) -> str:
  """Renders runs.

  Args:
    runs: their histories.
    gain_window: steps on each side of a learning gain.
    live: what the page's server calls this state of the runs: the page asks
      now and then whether there is another. '' never asks.

  Returns:
    The HTML document.
  """
  of = groups.grouped(runs)
  rows = [summary.summarize(run) for run in runs]
  names = groups.names(runs)
  script = _assets('js', _SCRIPTS)
  return _PAGE.format(
      policy=markup.policy(script, live=bool(live)),
      css=_assets('css', ('page',)), title=escape(_title(names, of)), live=live,
      headline=escape(_headline(runs, rows, of)),
      overview=_overview(runs, rows, of, names), links=_links(),
      controls=_controls(runs, of, names),
      panels=''.join(_figure(own, runs, gain_window)
                     for own in figures.FIGURES),
      samples=_samples(), tails=_tails(runs, rows, names),
      data=markup.island(content.collect(runs, of, gain_window)),
      script=script)


def _assets(kind: str, names: Sequence[str]) -> str:
  folder = importlib.resources.files('gradlens.report') / 'assets'
  return '\n'.join((folder / f'{name}.{kind}').read_text('utf-8')
                   for name in names)


def _title(names: Sequence[str], of: Sequence[groups.Group]) -> str:
  return names[0] if len(names) == 1 else ' · '.join(g.label for g in of)


def _headline(
    runs: Sequence[history.Run], rows: Sequence[Sequence[summary.Row]],
    of: Sequence[groups.Group],
) -> str:
  if len(runs) == 1:
    return sentence.parts(rows[0])[0]
  if len(of) == 1:
    return f'{len(runs)} runs that differ by their seeds'
  keys = ', '.join(of[0].differs) or 'nothing'
  return (f'{len(runs)} runs in {len(of)} groups, whose configs differ in '
          f'{keys}')


def _overview(
    runs: Sequence[history.Run], rows: Sequence[Sequence[summary.Row]],
    of: Sequence[groups.Group], names: Sequence[str],
) -> str:
  """Of a single run its summary; of several how they compare."""
  if len(runs) == 1:
    return details.head(runs[0], rows[0])
  seeds = [[runs[i].setting('seed') for i in group.members] for group in of]
  lines = compare.lines(runs, of)
  return (compare.legend_html(of, seeds, names)
          + '<h2>Groups, task by task</h2>' + compare.to_html(lines)
          + f'<p class="note">{escape(compare.note(of))}</p>')


def _links() -> str:
  return ('The numbers behind this page: <a href="report.csv">report.csv</a>, '
          'the tables, and <a href="report_steps.csv">report_steps.csv</a>, '
          'every metric of every step.')


def _controls(
    runs: Sequence[history.Run], of: Sequence[groups.Group],
    names: Sequence[str],
) -> str:
  """What is shown: tasks, groups, and which of the runs."""
  parts = [_chips('Tasks', 'task', content.all_tasks(runs))]
  if len(of) > 1:
    parts.append(_chips('Groups', 'group', [
        f'{compare.letter(g)} {group.label}' for g, group in enumerate(of)]))
    parts.append(_select('by', 'Panels by', (
        ('task', 'task'), ('group', 'group'))))
  if len(runs) > 1:
    parts.append(_select('run', 'One run', tuple(
        (str(i), name) for i, name in enumerate(names))))
  return (f'<div class="controls" role="region" aria-label="What is shown">'
          f'{"".join(parts)}</div>')


def _chips(title: str, kind: str, names: Sequence[str]) -> str:
  buttons = ''.join(
      f'<button type="button" class="chip" data-{kind}="{i}" '
      'aria-pressed="true"><svg class="key" width="22" height="8" '
      f'aria-hidden="true"></svg>{escape(name)}</button>'
      for i, name in enumerate(names))
  return (f'<div class="chips" role="group" aria-label="{title}">'
          f'<span>{title}</span>{buttons}</div>')


def _select(key: str, title: str, options: Sequence[tuple[str, str]]) -> str:
  choices = ''.join(f'<option value="{escape(value)}">{escape(name)}</option>'
                    for value, name in options)
  return (f'<label class="choice">{title} <select id="{key}">{choices}'
          '</select></label>')


def _figure(
    figure: figures.Figure, runs: Sequence[history.Run], gain_window: int,
) -> str:
  labels = sorted({summary.estimator(run) for run in runs})

  def words(text: str) -> str:
    text = text.replace('{estimator}', ' or '.join(labels))
    text = text.replace('{window}', curves.steps(gain_window))
    return escape(text[:1].upper() + text[1:])

  tabs = ''
  if len(figure.tabs) > 1:
    tabs = ''.join(
        f'<button type="button" data-tab="{i}" '
        f'aria-pressed="{str(i == 0).lower()}">'
        f'{words(tab.label).lower()}</button>'
        for i, tab in enumerate(figure.tabs))
    tabs = (f'<div class="tabs" role="group" aria-label="{figure.title}: '
            f'which">{tabs}</div>')
  smoothing = _smoothing(figure, runs) if figure.tabs else ''
  return (f'<figure class="panel{" wide" if figure.wide else ""}" '
          f'id="{figure.key}" data-kind="{figure.kind}" '
          f'data-of="{figure.of}" aria-labelledby="{figure.key}-title">'
          f'<div class="head"><h2 id="{figure.key}-title">{figure.title}'
          f'<span class="which"></span></h2>{tabs}</div>'
          f'<figcaption>{words(figure.caption)}{smoothing}</figcaption>'
          '<div class="plots"></div><details class="numbers">'
          '<summary>Numbers</summary><div class="scroll" tabindex="0"></div>'
          '</details></figure>')


def _smoothing(
    figure: figures.Figure, runs: Sequence[history.Run],
) -> str:
  """How lines were made of steps; several runs of a group have intervals."""
  tab = figure.tabs[0]
  text = ''
  if tab.kind == 'metric':
    text = f' Lines are rolling means over 1/{tab.part} of a run'
    text += '; single steps are drawn thin.' if tab.raw else '.'
  if len(runs) > 1:
    text += ' Bands' if tab.kind != 'heldout' else ' Bars of a group of runs'
    text += ' are 95% intervals of the mean over seeds, by Student\'s t.'
  return text


def _samples() -> str:
  """Where the script puts samples, and how they are searched."""
  filters = ''.join(
      _select(key, title, options) for key, title, options in (
          ('sample-task', 'Task', (('', 'all'),)),
          ('sample-run', 'Run', (('', 'all'),)),
          ('sample-when', 'When', (('', 'any step'), ('first', 'first'),
                                   ('last', 'last'))),
          ('sample-reward', 'Reward', _CHOICES)))
  return ('<section class="panel wide" id="samples" '
          'aria-labelledby="samples-title"><div class="head">'
          '<h2 id="samples-title">Sample completions</h2></div>'
          '<p class="caption">Of held-out prompts, at the first, the middle '
          'and the last evaluation of a run.</p><div class="filters" '
          'role="search"><label class="choice">Search <input id="search" '
          'type="search" placeholder="words in any text"></label>'
          f'{filters}</div><p id="found" role="status"></p>'
          '<div class="list"></div><button type="button" id="more">Show more'
          '</button></section>')


def _tails(
    runs: Sequence[history.Run], rows: Sequence[Sequence[summary.Row]],
    names: Sequence[str],
) -> str:
  """A part for each run, of which the chosen one is shown."""
  parts = []
  for i, (run, own) in enumerate(zip(runs, rows, strict=True)):
    head = ''
    if len(runs) > 1:
      head = (f'<p class="headline">{escape(sentence.parts(own)[0])}</p>'
              f'{details.head(run, own)}')
    parts.append(
        f'<section class="panel wide run" data-run="{i}"'
        f'{" hidden" if i else ""}><h2>The run {escape(names[i])}</h2>'
        f'{head}{details.tail(run, own)}</section>')
  return ''.join(parts)
