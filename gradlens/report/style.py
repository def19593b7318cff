"""The page's style sheet and script."""

CSS = """
:root {
  --page: #fbfbfa; --card: #ffffff; --ink: #1d2229; --soft: #5c6670;
  --rule: #e3e5e8; --grid: #eceef0; --zero: #b9bfc6; --good: #00805c;
  --sans: -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
    "Liberation Sans", system-ui, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono",
    monospace;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1b1f24; --ink: #e6e8ea; --soft: #9aa4ae;
    --rule: #30363d; --grid: #2a2f36; --zero: #5d6670; --good: #3fc79a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 var(--sans); }
main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 80px; }
.eyebrow { margin: 0; color: var(--soft); font-size: 13px; }
.eyebrow b { color: var(--ink); font-weight: 600; }
h1 { font-size: 27px; line-height: 1.28; font-weight: 600; max-width: 36em;
  margin: 10px 0 8px; letter-spacing: -0.014em; text-wrap: pretty; }
.lede { font-size: 17px; max-width: 62em; margin: 0 0 24px;
  text-wrap: pretty; }
h2 { font-size: 17px; font-weight: 600; margin: 0; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 32px; margin: 0 0 26px;
  padding: 14px 0; border: solid var(--rule); border-width: 1px 0; }
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.summary { width: 100%; font-size: 14px; }
.summary th, .summary td { padding: 7px 0 7px 18px; text-align: right;
  white-space: nowrap; font-weight: 400; }
.summary th:first-child { text-align: left; padding-left: 0; }
.summary thead th { color: var(--soft); font-size: 12.5px; padding-bottom: 4px;
  padding-top: 0; }
.summary .groups th:not(:empty) { text-align: center; background:
  linear-gradient(var(--rule), var(--rule)) bottom right no-repeat;
  background-size: calc(100% - 18px) 1px; }
.summary thead tr:last-child th { border-bottom: 1px solid var(--zero); }
.summary tbody tr + tr > * { border-top: 1px solid var(--rule); }
.summary tbody th { font-weight: 600; }
.summary tbody th i, .chip i { display: inline-block; width: 10px;
  height: 10px; border-radius: 3px; margin-right: 9px; }
.note, figcaption, .caption { color: var(--soft); font-size: 13px;
  max-width: 78em; margin: 4px 0 0; text-wrap: pretty; }
.note { margin-top: 12px; }
.chips { position: sticky; top: 0; z-index: 5; display: flex; flex-wrap: wrap;
  gap: 6px 8px; align-items: center; margin: 30px -24px 6px;
  padding: 10px 24px; background: var(--page);
  border-bottom: 1px solid var(--rule); }
.chips span { color: var(--soft); font-size: 13px; margin-right: 4px; }
button { font: inherit; font-size: 13px; color: inherit; cursor: pointer;
  border: 1px solid var(--rule); background: var(--card); padding: 3px 12px; }
button:focus-visible, summary:focus-visible { outline: 2px solid #56B4E9; }
.chip { border-radius: 99px; }
.chip[aria-pressed=false] { opacity: 0.45; text-decoration: line-through; }
.panels { display: grid; gap: 18px; grid-template-columns: 1fr 1fr;
  margin-top: 18px; }
.panel { margin: 0; padding: 18px 20px 14px; background: var(--card);
  border: 1px solid var(--rule); border-radius: 10px; min-width: 0;
  display: flex; flex-direction: column; }
.panel .plots { margin-top: 10px; }
.modebar { opacity: 0; transition: opacity 0.2s; }
.plot:hover .modebar, .plot:focus-within .modebar { opacity: 1; }
.wide { grid-column: 1 / -1; }
@media (max-width: 860px) {
  .panels { grid-template-columns: minmax(0, 1fr); }
  main { padding: 24px 14px 60px; }
  .chips { margin-left: -14px; margin-right: -14px; padding: 8px 14px; }
  h1 { font-size: 21px; }
  .lede { font-size: 15px; }
}
.head { display: flex; justify-content: space-between; gap: 12px; }
.tabs { display: flex; }
.tabs button + button { border-left: 0; }
.tabs button:first-child { border-radius: 6px 0 0 6px; }
.tabs button:last-child { border-radius: 0 6px 6px 0; }
.tabs button[aria-pressed=true] { background: var(--ink); color: var(--card); }
.empty { color: var(--soft); margin: 20px 0; }
details { border-top: 1px solid var(--rule); }
details > summary { padding: 9px 0; cursor: pointer; font-weight: 600; }
details > summary i { display: inline-block; width: 10px; height: 10px;
  border-radius: 3px; margin: 0 8px 0 4px; }
.samples { width: 100%; table-layout: fixed; margin-bottom: 14px;
  min-width: 720px; }
.samples th:first-child { width: 28%; }
.samples th:nth-child(2) { width: 16%; }
.caption { margin-bottom: 12px; }
.samples th { text-align: left; color: var(--soft); font-weight: 400;
  font-size: 12.5px; padding: 0 12px 4px 0; }
.samples td { vertical-align: top; padding: 7px 12px 7px 0;
  border-top: 1px solid var(--rule); }
.text { font: 12.5px/1.45 var(--mono); white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 12em; overflow-y: auto;
  unicode-bidi: isolate; }
.reward { display: inline-block; font-size: 12px; color: var(--soft);
  margin-top: 3px; }
.reward.full { color: var(--good); font-weight: 600; }
.columns { display: grid; gap: 0 40px; grid-template-columns: 2fr 1fr; }
.columns pre { font: 12.5px/1.5 var(--mono); overflow-x: auto; margin: 0; }
"""

# The page draws its figures itself, so that colors follow the reader's light
# or dark scheme and hidden tabs cost nothing until they are opened.
SCRIPT = """
'use strict';
const figures = JSON.parse(document.getElementById('figures').textContent);
const hidden = new Set();
const css = name =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function template() {
  const axis = {
    gridcolor: css('--grid'), zerolinecolor: css('--zero'), zeroline: false,
    linecolor: css('--zero'), ticks: '',
    title: {standoff: 8, font: {size: 12, color: css('--soft')}},
  };
  return {
    layout: {
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      font: {color: css('--ink'), family: css('--sans'), size: 12},
      xaxis: axis, yaxis: axis, showlegend: false,
      modebar: {
        bgcolor: 'rgba(0,0,0,0)', color: css('--soft'),
        activecolor: css('--ink'),
      },
      hoverlabel: {
        bgcolor: css('--card'), bordercolor: css('--rule'),
        font: {color: css('--ink')},
      },
    },
    data: {heatmap: [{textfont: {color: css('--ink'), size: 12}}]},
  };
}

function draw(div) {
  const {data, layout} = figures[div.dataset.figure];
  for (const trace of data) {
    trace.visible = !hidden.has(trace.legendgroup);
  }
  return Plotly.react(div, data, {...layout, template: template()}, {
    responsive: true, displaylogo: false, showSendToCloud: false,
    modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d'],
    toImageButtonOptions: {format: 'svg'},
  });
}

const shown = () => [...document.querySelectorAll('.plot:not([hidden])')];

async function drawAll() {
  for (const div of shown()) await draw(div);
  document.body.dataset.drawn = shown().length;
}

for (const chip of document.querySelectorAll('.chip')) {
  chip.addEventListener('click', () => {
    const task = chip.dataset.task;
    if (!hidden.delete(task)) hidden.add(task);
    chip.setAttribute('aria-pressed', !hidden.has(task));
    drawAll();
  });
}

for (const tab of document.querySelectorAll('.tabs button')) {
  tab.addEventListener('click', () => {
    const panel = tab.closest('.panel');
    for (const other of panel.querySelectorAll('.tabs button')) {
      other.setAttribute('aria-pressed', other === tab);
    }
    for (const div of panel.querySelectorAll('.plot')) {
      div.hidden = div.dataset.figure !== tab.dataset.figure;
    }
    drawAll();
  });
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
drawAll();
"""
