// Maps: matrices as cells whose opacity is their size.

// Pointer and arrow keys tell of single cells.
function tellCells(svg, spots, tell) {
  const ring = sv('rect', {class: 'ring', width: 0, height: 0});
  svg.append(ring);
  let at = -1;
  const show = (event, aloud) => {
    const {x, y, width, height} = spots[at];
    fill(ring, {x, y, width, height}, []);
    showTip(event, ...tell(spots[at]), aloud);
  };
  const leave = () => { fill(ring, {width: 0, height: 0}, []); hideTip(); };
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    at = spots.findIndex(({x, y, width, height}) =>
        px >= x && px < x + width && py >= y && py < y + height);
    if (at < 0) leave(); else show(event, false);
  });
  svg.addEventListener('pointerleave', leave);
  svg.addEventListener('blur', leave);
  svg.addEventListener('keydown', event => {
    const [down, right] = {ArrowLeft: [0, -1], ArrowRight: [0, 1],
                           ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key] ?? [];
    if (down === undefined) return;
    event.preventDefault();
    const now = spots[Math.max(at, 0)];
    const next = at < 0 ? 0 : spots.findIndex(
        ({row, col}) => row === now.row + down && col === now.col + right);
    if (next >= 0) at = next;
    const box = svg.getBoundingClientRect();
    show({clientX: box.left + spots[at].x, clientY: box.top + spots[at].y}, true);
  });
}

function cell({x, y, width, height, value}, most, dashed = true) {
  if (value === null) {
    return sv('path', {class: 'unknown', d: `M${x + width * .3} ${
        y + height * .3}l${width * .4} ${height * .4}m0 ${
        -height * .4}l${-width * .4} ${height * .4}`});
  }
  const g = sv('g', {}, sv('rect', {
    x, y, width: Math.max(1, width - 1), height: Math.max(1, height - 1),
    class: value < 0 ? 'cold' : 'hot',
    'fill-opacity': (.04 + .96 * Math.min(1, Math.abs(value) / most)).toFixed(3),
  }));
  // Not by color alone: what is below zero has a dash.
  if (value < 0 && width > 5 && dashed) {
    g.append(sv('line', {class: 'minus', x1: x + width * .3, x2: x + width * .65,
                         y1: y + height / 2 - .5, y2: y + height / 2 - .5}));
  }
  return g;
}

function legend(host, low, high, signed) {
  const svg = sv('svg', {width: 120, height: 10, 'aria-hidden': 'true'});
  for (let i = 0; i < 24; i++) {
    const value = signed ? (i - 11.5) / 11.5 : i / 23;
    svg.append(cell({x: 5 * i, y: 0, width: 6, height: 11, value}, 1));
  }
  host.append(el('p', {class: 'scale'}, low, svg, high));
}

function drawHeat(figure, host) {
  const run = data.runs[view.run];
  if (!run.layers.length) {
    host.append(el('p', {class: 'empty'}, 'Not measured in this run.'));
    return;
  }
  const most = Math.min(1, Math.max(
      ...run.layers.flat(2).filter(v => v !== null), .01));
  legend(host, '0%', `${say(most, 'percent')}${most === 1 ? ' and more' : ''}`,
         false);
  const columns = columnsOf(run.tasks.length, 3, roomIn(host), 420);
  const width = Math.floor((roomIn(host) - 14 * (columns - 1)) / columns);
  const grid = el('div', {class: 'grid-of-plots',
                          style: `--columns: ${columns}`});
  run.tasks.forEach((k, i) => {
    if (!view.tasks.has(k)) grid.append(heatOf(run, k, i, width, most));
  });
  host.append(grid);
}

function heatOf(run, k, i, width, most) {
  const count = run.columns.length;
  const tall = Math.max(6, Math.min(20, 360 / run.blocks.length));
  const left = 80, top = 24, gap = 10;
  const wide = (width - left - gap) / (count + Math.max(1, count / 20));
  const height = top + tall * run.blocks.length + 34;
  const task = data.tasks[k];
  const svg = sv('svg', {
    width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', tabindex: 0,
    'aria-label': `${task}: share of ${run.blocks.length} blocks in the ` +
        `squared norm, in ${count} columns of steps and the whole run. ` +
        'Arrow keys read single cells.'});
  svg.append(text(left, 13, task, {class: 'title'}));
  const spots = [];
  run.layers[i].forEach((shares, row) => shares.forEach((value, col) => {
    const whole = col === count;
    spots.push({row, col, value, x: left + wide * col + (whole ? gap : 0),
                y: top + tall * row, height: tall,
                width: whole ? wide * Math.max(1, count / 20) : wide});
  }));
  svg.append(...spots.map(spot => cell(spot, most)));
  const every = Math.ceil(11 / tall);
  run.blocks.forEach((block, row) => {
    if (row % every) return;
    svg.append(text(left - 6, top + tall * (row + .5) + 3.5, clip(block, left),
                    {class: 'tick end'}));
  });
  const below = top + tall * run.blocks.length + 14;
  const end = left + wide * count;
  svg.append(
      text(left, below, `${run.columns[0][0]}`, {class: 'tick'}),
      text(end, below, `${run.columns.at(-1)[1]}`, {class: 'tick end'}),
      text((left + end) / 2, below + 14, 'training step',
           {class: 'tick middle'}),
      text(width, below + 14, 'run', {class: 'tick end'}));
  tellCells(svg, spots, ({row, col, value}) => [
    `${task}, ${col === count ? 'whole run' : `steps ${span(run.columns[col])}`}`,
    [[null, run.blocks[row], say(value, 'percent')]]]);
  return svg;
}

function drawFilm(figure, host) {
  const run = data.runs[view.run];
  if (!run.frames.length || run.tasks.length < 2) {
    host.append(el('p', {class: 'empty'}, run.tasks.length < 2 ?
        'One task has no other to compare with.' : 'Not measured in this run.'));
    return;
  }
  legend(host, '−1', '1', true);
  const strip = el('div', {class: 'film'});
  strip.append(frameOf(run, run.cosines.length - 1, 34, true));
  run.frames.forEach((_, i) => strip.append(frameOf(run, i, 22, false)));
  host.append(strip);
}

// Two decimals; what rounds to zero has no sign.
const rounded = value =>
    (Math.round(100 * value) / 100 + 0).toFixed(2).replace('-', '−');

function frameOf(run, i, most, first) {
  const names = run.tasks.map(k => data.tasks[k]);
  const size = Math.max(7, Math.min(most, 240 / names.length));
  const left = first ? 112 : 0, top = 0;
  const width = left + size * names.length + 1;
  const height = size * names.length + 18;
  const when = first ? 'whole run' : span(run.frames[i]);
  const matrix = run.cosines[i];
  const svg = sv('svg', {
    width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', tabindex: 0,
    'aria-label': `Cosines of ${names.length} tasks, ${
        first ? when : `steps ${when}`}. Arrow keys read single cells.`});
  const spots = matrix.flatMap((values, row) => values.map((value, col) => ({
    row, col, value, x: left + size * col, y: top + size * row, width: size,
    height: size})));
  for (const spot of spots) {
    const numbered = first && size >= 30 && spot.row !== spot.col;
    svg.append(cell(spot, 1, !numbered));
    if (numbered && spot.value !== null) {
      svg.append(text(spot.x + size / 2, spot.y + size / 2 + 3.5,
                      rounded(spot.value).replace('0.', '.'),
                      {class: 'inside'}));
    }
  }
  if (first) {
    names.forEach((name, row) => svg.append(text(
        left - 6, size * (row + .5) + 3.5, clip(name, left - 8),
        {class: 'tick end'})));
  }
  svg.append(text(left + size * names.length / 2, height - 4, when,
                  {class: 'tick middle'}));
  tellCells(svg, spots, ({row, col, value}) => [
    first ? when : `steps ${when}`,
    [[null, `${names[row]} and ${names[col]}`, say(value, 'fixed')]]]);
  return svg;
}

function tableOfHeat() {
  const run = data.runs[view.run];
  const rows = run.layers.flatMap((blocks, i) => blocks.map((shares, row) => [
    data.tasks[run.tasks[i]], run.blocks[row],
    ...[0, Math.floor(run.columns.length / 2), run.columns.length - 1,
        run.columns.length].map(col => say(shares[col], 'percent'))]));
  return table(['task', 'block', 'first steps', 'middle', 'last', 'whole run'],
               rows, 'Share of each block in the squared norm');
}

function tableOfFilm() {
  const run = data.runs[view.run];
  const names = run.tasks.map(k => data.tasks[k]);
  const rows = names.flatMap((one, i) => names.slice(i + 1).map((other, j) => [
    `${one} and ${other}`,
    ...run.cosines.map(matrix => say(matrix[i][i + 1 + j], 'fixed'))]));
  return table(['tasks', ...run.frames.map(frame => `steps ${span(frame)}`),
                'whole run'], rows, 'Cosines between the tasks\' gradients');
}
