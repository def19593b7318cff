// Bars: shares on their way to the update; and norms against gains.

const STAGES = ['gradient', 'correction', 'optimizer', 'update'];

function drawWaterfall(figure, host) {
  const group = data.groups[data.runs[view.run].group];
  const shown = group.waterfall.map((stages, k) => ({k, stages})).filter(
      ({k, stages}) => stages.length && stages[1][0] !== null &&
          !view.tasks.has(k));
  if (!shown.length) {
    host.append(el('p', {class: 'empty'}, 'Not measured, or switched off.'));
    return;
  }
  const ends = shown.flatMap(({stages}) => stages.flat());
  let [low, high] = spread([0, ...ends], false);
  low = Math.min(low, 0);
  const columns = columnsOf(shown.length, 4, roomIn(host), 250);
  const width = Math.floor((roomIn(host) - 14 * (columns - 1)) / columns);
  const grid = el('div', {class: 'grid-of-plots',
                          style: `--columns: ${columns}`});
  host.append(el('p', {class: 'ytitle'}, 'share'));
  for (const {k, stages} of shown) {
    grid.append(fallOf(data.tasks[k], stages, low, high, width));
  }
  host.append(grid);
}

function fallOf(task, stages, low, high, width) {
  const size = {width, height: 200, left: 44, right: 6, top: 36, bottom: 24};
  const y = scale(low, high, size.height - size.bottom, size.top);
  const known = stages.filter(([value]) => value !== null);
  const bars = [[0, known[0]]];
  for (let i = 1; i < known.length; i++) bars.push([known[i - 1][0], known[i]]);
  if (known.length === 3) bars.push([0, known[2]]);
  const names = known.length === 3 ? STAGES : ['gradient', 'correction'];
  const x = scale(0, bars.length, size.left, width - size.right);
  const said = bars.map(([from, [to]], i) => `${names[i]} ${
      say(i && i < 3 ? to - from : to, 'percent')}`);
  const svg = sv('svg', {
    width, height: size.height, viewBox: `0 0 ${width} ${size.height}`,
    role: 'img', tabindex: 0, 'aria-label': `${task}: ${said.join(', ')}`});
  svg.append(frame(size, x, y, {form: 'percent'}, clip(task, width - 60), '', []));
  bars.forEach(([from, [to, less, more]], i) => {
    const [left, wide] = [x(i + .16), x(.68) - x(0)];
    const change = i > 0 && i < 3;
    const top = Math.min(y(from), y(to));
    svg.append(sv('rect', {
      x: left, y: top, width: wide,
      height: Math.max(1, Math.abs(y(from) - y(to))),
      class: change ? (to < from ? 'less' : 'more') : 'level'}));
    if (less !== null) {
      svg.append(sv('line', {class: 'whisker ink', x1: left + wide / 2,
                             x2: left + wide / 2, y1: y.inside(less),
                             y2: y.inside(more)}));
    }
    if (i < bars.length - 1) {
      svg.append(sv('line', {class: 'cursor', x1: left + wide, x2: x(i + 1.16),
                             y1: y(to), y2: y(to)}));
    }
    const amount = change ? to - from : to;
    const above = Math.min(top, less === null ? top : y.inside(more)) - 4;
    svg.append(
        text(left + wide / 2, Math.max(above, size.top - 8),
             (change && amount > 0 ? '+' : '') + say(amount, 'percent'),
             {class: 'value'}),
        text(left + wide / 2, size.height - size.bottom + 14,
             clip(names[i], x(1) - x(0), 5.3), {class: 'tick middle'}));
  });
  return svg;
}

function tableOfWaterfall() {
  const group = data.groups[data.runs[view.run].group];
  const rows = group.waterfall.map((stages, k) => [
    data.tasks[k], ...stages.map(stage => words(...stage, 'percent'))]);
  return table(['task', 'gradient', 'after correction', 'after optimizer'],
               rows.filter(cells => cells.length > 1),
               'Share at every stage, with 95% intervals');
}

function drawScatter(figure, host) {
  const run = data.runs[view.run];
  const shown = run.quarters.map((points, i) => ({points, k: run.tasks[i]}))
      .filter(({points, k}) => points.length && !view.tasks.has(k));
  if (!shown.length) {
    host.append(el('p', {class: 'empty'},
                   'No quarter has both a norm above zero and a gain.'));
    return;
  }
  const width = roomIn(host);
  const size = {width, height: 290, left: 48, top: 12, bottom: 36,
                right: Math.min(110, width / 4)};
  const points = shown.flatMap(({points}) => points);
  const x = scale(...spread(points.map(p => p[0]), true, 0), size.left + 8,
                  width - size.right - 8, true);
  const [low, high] = spread(points.map(p => p[1]), false);
  const y = scale(Math.min(low, 0), Math.max(high, 0),
                  size.height - size.bottom, size.top);
  const svg = sv('svg', {
    width, height: size.height, viewBox: `0 0 ${width} ${size.height}`,
    role: 'img', tabindex: 0, 'aria-label': 'Squared norm against gain in ' +
        `reward: ${shown.length} tasks by quarter of the run`});
  const wanted = logTicks(x.low, x.high);
  const every = Math.ceil(wanted.length / Math.max(2, width / 110));
  svg.append(frame(size, x, y, {form: 'number'}, '',
                   'squared norm (squared gradient)',
                   wanted.filter((_, i) => i % every === 0)));
  const labels = [], spots = [];
  for (const {points, k} of shown) {
    svg.append(sv('path', {class: 'line', stroke: color(k), d: path(
        points.map(p => p[0]), points.map(p => p[1]), x, y),
                           'stroke-dasharray': dash(k, false)}));
    for (const [norm, gain, quarter] of points) {
      svg.append(sv('circle', {cx: x(norm), cy: y(gain), r: 7,
                               class: 'dot', stroke: color(k)}),
                 text(x(norm), y(gain) + 3.5, String(quarter),
                      {class: 'inside'}));
      spots.push({row: k, col: quarter, norm, gain, x: x(norm) - 7,
                  y: y(gain) - 7, width: 14, height: 14});
    }
    const last = points.at(-1);
    labels.push({k, y: y(last[1])});
  }
  for (const {k, y: at} of apart(labels, 13, size.top,
                                 size.height - size.bottom)) {
    svg.append(text(width - size.right + 6, at + 4,
                    clip(data.tasks[k], size.right - 6),
                    {class: 'name', style: `fill: ${color(k)}`}));
  }
  tellCells(svg, spots, ({row, col, norm, gain}) => [
    `${data.tasks[row]}, quarter ${col}`,
    [[null, 'squared norm', digits(norm)], [null, 'gain', say(gain, 'signed')]]]);
  host.append(el('p', {class: 'ytitle'}, 'gain in reward'), svg);
}

function tableOfScatter() {
  const run = data.runs[view.run];
  return table(['task', 'quarter', 'squared norm', 'gain in reward'],
               run.quarters.flatMap((points, i) => points.map(
                   ([norm, gain, quarter]) => [
                     data.tasks[run.tasks[i]], String(quarter), digits(norm),
                     say(gain, 'signed')])),
               'Quarters of the run');
}
