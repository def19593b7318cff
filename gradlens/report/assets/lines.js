// Lines: small multiples over training steps, by task or by group.

const taskOf = line => data.tasks[line.k];
const groupOf = line => data.groups[line.g].label;

// Panels of the lines that are switched on.
function panelsOf(tab) {
  const shown = tab.lines.filter(
      line => !view.tasks.has(line.k) && !view.groups.has(line.g));
  const key = view.by === 'task' ? 'k' : 'g';
  const ids = [...new Set(shown.map(line => line[key]))].sort((a, b) => a - b);
  return ids.map(id => ({
    title: view.by === 'task' ? data.tasks[id] :
        data.groups.length > 1 ? `${letter(id)}  ${data.groups[id].label}` : '',
    lines: shown.filter(line => line[key] === id),
  }));
}

const place = line => view.by === 'task' ? line.g : line.k;
const lineName = line => view.by === 'task' ?
    (data.groups.length > 1 ? letter(line.g) : groupOf(line)) : taskOf(line);

function path(xs, ys, x, y) {
  let d = '', pen = false;
  xs.forEach((step, i) => {
    const at = y(ys[i]);
    if (at === null) { pen = false; return; }
    d += `${pen ? 'L' : 'M'}${x(step).toFixed(1)} ${at.toFixed(1)}`;
    pen = true;
  });
  return d;
}

function band(line, x, y) {
  const known = line.x.map((_, i) => i).filter(
      i => line.low[i] !== null && !(y.log && line.high[i] < y.low));
  if (!known.length) return '';
  const side = (values, order) => order.map(i =>
      `${x(line.x[i]).toFixed(1)} ${y.inside(values[i]).toFixed(1)}`).join('L');
  return `M${side(line.high, known)}L${side(line.low, known.toReversed())}Z`;
}

// Bars of several groups stand side by side.
function aside(x, i, count) {
  return value => x(value) + 4 * (i - (count - 1) / 2);
}

function mark(line, tab, over, y, i) {
  const x = tab.dots && view.by === 'task' ?
      aside(over, i, data.groups.length) : over;
  const always = view.by === 'task';
  const style = {stroke: color(i), 'stroke-dasharray': dash(i, always)};
  const g = sv('g', {class: 'series', 'data-g': line.g, 'data-k': line.k});
  if (line.rawX && view.by === 'group' && data.groups.length === 1) {
    g.append(sv('path', {class: 'raw', d: path(line.rawX, line.rawY, x, y),
                         stroke: color(i)}));
  }
  if (tab.dots) {
    line.x.forEach((step, j) => {
      const at = y(line.y[j]);
      if (line.low && line.low[j] !== null) {
        g.append(sv('line', {class: 'whisker', x1: x(step), x2: x(step),
                             y1: y.inside(line.low[j]),
                             y2: y.inside(line.high[j]), stroke: color(i)}));
      }
      g.append(sv('circle', {cx: x(step), cy: at, r: 3, fill: color(i)}));
    });
  } else if (line.low) {
    g.append(sv('path', {class: 'band', d: band(line, x, y), fill: color(i)}));
  }
  g.append(sv('path', {class: 'line', d: path(line.x, line.y, x, y), ...style}));
  return g;
}

// Names at the ends of lines, where there is room for them.
function endLabels(lines, x, y, size, room, dots) {
  const labels = [];
  for (const line of lines) {
    const i = line.y.findLastIndex(value => y(value) !== null);
    if (i >= 0) labels.push({line, y: y(line.y[i]), x: x(line.x[i])});
  }
  return apart(labels, 12, size.top + 4, size.height - size.bottom).map(label =>
      text(size.width - size.right + (dots ? 12 : 5), label.y + 4,
           clip(lineName(label.line), room),
           {class: 'name', style: `fill: ${color(place(label.line))}`}));
}

function nearest(xs, step) {
  let best = 0;
  xs.forEach((x, i) => {
    if (Math.abs(x - step) < Math.abs(xs[best] - step)) best = i;
  });
  return best;
}

// Follows the pointer, or the arrow keys of whoever has no pointer.
function follow(svg, panel, tab, x, size) {
  const cursor = sv('line', {class: 'cursor', y1: size.top,
                             y2: size.height - size.bottom, x1: -9, x2: -9});
  svg.append(cursor);
  const steps = [...new Set(panel.lines.flatMap(line => line.x))].sort(
      (a, b) => a - b);
  let at = steps.length - 1;
  const show = (event, aloud) => {
    const step = steps[at];
    cursor.setAttribute('x1', x(step));
    cursor.setAttribute('x2', x(step));
    const rows = panel.lines.map(line => {
      const i = nearest(line.x, step);
      return [place(line), lineName(line), words(
          line.y[i], line.low?.[i], line.high?.[i], tab.form)];
    });
    showTip(event, `${panel.title ? `${panel.title}, ` : ''}step ${step}`,
            rows, aloud);
  };
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const share = (event.clientX - box.left - size.left) /
        (size.width - size.left - size.right);
    at = nearest(steps, x.low + share * (x.high - x.low));
    show(event, false);
  });
  const leave = () => { cursor.setAttribute('x1', -9);
                        cursor.setAttribute('x2', -9); hideTip(); };
  svg.addEventListener('pointerleave', leave);
  svg.addEventListener('blur', leave);
  svg.addEventListener('keydown', event => {
    const move = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity,
                  End: Infinity}[event.key];
    if (move === undefined) return;
    event.preventDefault();
    at = Math.min(Math.max(at + move, 0), steps.length - 1);
    const box = svg.getBoundingClientRect();
    show({clientX: box.left + x(steps[at]), clientY: box.top + size.top}, true);
  });
}

function summaryOf(panel, tab) {
  const parts = panel.lines.map(line => `${lineName(line)} from ` +
      `${say(line.y[0], tab.form)} to ${say(line.y.at(-1), tab.form)}`);
  return `${panel.title || 'all tasks'}, ${tab.axis} over training steps: ` +
      `${parts.join('; ')}. Arrow keys read single steps.`;
}

// Room for all lines, and for intervals as far as these leave lines to be seen.
function rangeOf(lines, tab) {
  const [low, high] = spread(lines.flatMap(line => line.y), tab.log, tab.floor);
  if (tab.log) return [low, high];
  const more = (high - low) / 3;
  const within = lines.flatMap(line => [...(line.low ?? []),
                                        ...(line.high ?? [])]).filter(
      value => value !== null).map(value => Math.min(
      Math.max(value, low - more), high + more));
  return spread([...lines.flatMap(line => line.y), ...within], false);
}

function drawLines(figure, host) {
  const tab = data.curves[figure.id][view.tabs[figure.id]];
  const panels = panelsOf(tab);
  if (!panels.length) {
    host.append(el('p', {class: 'empty'}, 'Not measured, or switched off.'));
    return;
  }
  const lines = panels.flatMap(panel => panel.lines);
  const [low, high] = rangeOf(lines, tab);
  const steps = lines.flatMap(line => [line.x[0], line.x.at(-1)]);
  const most = figure.classList.contains('wide') ? 4 : 2;
  const columns = columnsOf(panels.length, most, roomIn(host), 230);
  const width = Math.floor((roomIn(host) - 14 * (columns - 1)) / columns);
  const names = Math.max(...lines.map(line => lineName(line).length)) * 6.5 + (tab.dots ? 19 : 12);
  const right = Math.min(names, width / 4);
  const size = {width, height: panels.length === 1 ? 290 : 190, left: 48, right,
                top: panels[0].title ? 24 : 10, bottom: 36};
  host.append(el('p', {class: 'ytitle'}, tab.axis));
  const grid = el('div', {class: 'grid-of-plots',
                          style: `--columns: ${columns}`});
  for (const panel of panels) {
    const x = scale(Math.min(...steps), Math.max(...steps), size.left,
                    width - right);
    const y = scale(low, high, size.height - size.bottom, size.top, tab.log);
    const svg = sv('svg', {
      width, height: size.height, viewBox: `0 0 ${width} ${size.height}`,
      role: 'img', tabindex: 0, class: 'lines',
      'aria-label': summaryOf(panel, tab)});
    svg.append(
        frame(size, x, y, tab, clip(panel.title, width - 60), 'training step'),
        ...panel.lines.map(line => mark(line, tab, x, y, place(line))),
        ...endLabels(panel.lines, x, y, size, right, tab.dots));
    follow(svg, panel, tab, x, size);
    grid.append(svg);
  }
  host.append(grid);
}

// The same as a table: a few steps of every line.
function tableOfLines(figure) {
  const tab = data.curves[figure.id][view.tabs[figure.id]];
  const steps = [...new Set(tab.lines.flatMap(line => line.x))].sort(
      (a, b) => a - b);
  const chosen = [...new Set([0, .2, .4, .6, .8, 1].map(
      part => steps[Math.round(part * (steps.length - 1))]))];
  const rows = tab.lines.map(line => [
    taskOf(line), ...(data.groups.length > 1 ? [groupOf(line)] : []),
    ...chosen.map(step => {
      const i = nearest(line.x, step);
      return words(line.y[i], line.low?.[i], line.high?.[i], tab.form);
    })]);
  return table(
      ['task', ...(data.groups.length > 1 ? ['group'] : []),
       ...chosen.map(step => `step ${step}`)], rows,
      `${tab.axis}, at the nearest step shown`);
}
