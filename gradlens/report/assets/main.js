// Main: draws the figures, and what the buttons do.

const DRAW = {lines: drawLines, heat: drawHeat, film: drawFilm,
              waterfall: drawWaterfall, scatter: drawScatter};
const TABLES = {lines: tableOfLines, heat: tableOfHeat, film: tableOfFilm,
                waterfall: tableOfWaterfall, scatter: tableOfScatter};

function draw(figure) {
  const host = figure.querySelector('.plots');
  host.replaceChildren();
  DRAW[figure.dataset.kind](figure, host);
  const run = data.runs[view.run];
  const which = {run: run.name, group: data.groups[run.group].label};
  if (data.runs.length > 1 && figure.dataset.of !== 'groups') {
    figure.querySelector('.which').textContent =
        `${figure.dataset.of}: ${which[figure.dataset.of]}`;
  }
  tabulate(figure);
}

function tabulate(figure) {
  const numbers = figure.querySelector('.numbers');
  numbers.querySelector('.scroll').replaceChildren(
      ...(numbers.open ? [TABLES[figure.dataset.kind](figure)] : []));
}

function drawKeys() {
  for (const [kind, chosen] of [['task', 'group'], ['group', 'task']]) {
    for (const chip of all(`.chip[data-${kind}]`)) {
      const i = Number(chip.dataset[kind]);
      const key = chip.querySelector('.key');
      key.classList.toggle('hidden', view.by !== chosen);
      key.replaceChildren(sv('line', {
        x1: 0, x2: 22, y1: 4, y2: 4, class: 'line', stroke: color(i),
        'stroke-dasharray': dash(i, kind === 'group')}));
      const off = kind === 'task' ? view.tasks : view.groups;
      chip.setAttribute('aria-pressed', !off.has(i));
    }
  }
}

function drawAll() {
  hideTip();
  drawKeys();
  all('figure.panel').forEach(draw);
  for (const part of all('.run[data-run]')) {
    part.hidden = Number(part.dataset.run) !== view.run;
  }
  Object.assign(document.body.dataset, {
    drawn: all('figure.panel svg').length,
    milliseconds: Math.round(performance.now()),  // since the page was asked for
  });
}

function changed() {
  keepView();
  drawAll();
  drawSamples();
}

function setTheme() {
  document.documentElement.dataset.theme = view.theme;
  byId('theme').textContent = `Theme: ${view.theme}`;
}

function startControls() {
  for (const chip of all('.chip')) {
    const kind = chip.dataset.task === undefined ? 'group' : 'task';
    chip.addEventListener('click', () => {
      const off = kind === 'task' ? view.tasks : view.groups;
      const i = Number(chip.dataset[kind]);
      if (!off.delete(i)) off.add(i);
      changed();
    });
  }
  for (const key of ['by', 'run']) {
    const select = byId(key);
    if (!select) continue;
    select.value = view[key];
    select.addEventListener('change', () => {
      view[key] = key === 'run' ? Number(select.value) : select.value;
      changed();
    });
  }
  byId('theme').addEventListener('click', () => {
    const themes = ['system', 'light', 'dark'];
    view.theme = themes[(themes.indexOf(view.theme) + 1) % themes.length];
    setTheme();
    keepView();
  });
}

function startFigures() {
  for (const figure of all('figure.panel')) {
    const tabs = all('.tabs button', figure);
    const press = () => tabs.forEach((tab, i) => tab.setAttribute(
        'aria-pressed', i === view.tabs[figure.id]));
    tabs.forEach((tab, i) => tab.addEventListener('click', () => {
      view.tabs[figure.id] = i;
      press();
      keepView();
      draw(figure);
    }));
    press();
    figure.querySelector('.numbers').addEventListener(
        'toggle', () => tabulate(figure));
  }
}

// A page that a server made asks it, now and then, whether the run went on.
async function watch(known) {
  const live = byId('live');
  live.textContent = 'Live';
  for (;;) {
    await new Promise(done => setTimeout(done, 3000));
    const now = await fetch('version').then(answer => answer.text(), () => '');
    live.textContent = now ? 'Live' : 'The server does not answer';
    const typing = document.activeElement?.matches('input, select');
    if (now && now !== known && !document.hidden && !typing) location.reload();
  }
}

readView();
setTheme();
startControls();
startFigures();
startSamples();
drawAll();
let width = innerWidth;
addEventListener('resize', () => {
  if (innerWidth !== width) drawAll();
  width = innerWidth;
});
if (document.body.dataset.live) watch(document.body.dataset.live);
