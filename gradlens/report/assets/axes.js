// Axes: scales, ticks, and the empty frame of a plot.

function niceStep(range, count) {
  const rough = range / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find(factor => factor * power >= .75 * rough);
}

function ticks(low, high, count, whole = false) {
  if (!(high > low)) return [low];
  const step = Math.max(niceStep(high - low, count), whole ? 1 : 0);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12);
       i++) {
    found.push(Number((i * step).toPrecision(12)));
  }
  return found;
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const factors = decades > 3 ? [1] : decades > 1 ? [1, 3] :
      decades > .6 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) {
    for (const factor of factors) {
      const value = Number(`${factor}e${e}`);
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

function tickName(value, form) {
  if (form === 'percent') return `${Math.round(100 * value)}%`.replace('-', '−');
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) {
    return value.toExponential().replace('+', '').replace('-', '−');
  }
  return String(value).replace('-', '−');
}

// Linear or logarithmic, from values to pixels; null where there is no place.
function scale(low, high, from, to, log = false) {
  const at = log ? Math.log : Number;
  const [a, b] = [at(low), at(high)];
  const map = value => value === null || (log && value < low) ? null :
      from + (at(value) - a) / (b - a || 1) * (to - from);
  map.inside = value => map(Math.min(Math.max(value, low), high));
  return Object.assign(map, {low, high, log});
}

function spread(values, log, floor) {
  const known = values.filter(v => v !== null && isFinite(v) && !(log && v <= 0));
  if (!known.length) return log ? [0.5, 2] : [0, 1];
  let low = Math.min(...known), high = Math.max(...known);
  if (log) {
    low = Math.max(low, floor) / 1.15;
    return [low, Math.max(high * 1.15, low * 1.6)];
  }
  if (low === high) {
    [low, high] = low ? [low - Math.abs(low) / 10, high + Math.abs(low) / 10] :
        [-0.5, 0.5];
  }
  const margin = (high - low) / 25;
  return [low >= 0 && low < high / 3 ? 0 : low - margin, high + margin];
}

function frame(size, x, y, tab, title, xTitle, xTicks) {
  const {width, height, left, right, top, bottom} = size;
  const g = sv('g', {'aria-hidden': 'true'});
  const rows = y.log ? logTicks(y.low, y.high) :
      ticks(y.low, y.high, Math.max(2, (height - top - bottom) / 42));
  for (const value of rows) {
    const at = y(value);
    g.append(
        sv('line', {x1: left, x2: width - right, y1: at, y2: at,
                    class: value === 0 && y.low < 0 ? 'zero' : 'grid'}),
        text(left - 6, at + 3.5, tickName(value, tab.form), {class: 'tick end'}));
  }
  for (const value of xTicks ?? ticks(
      x.low, x.high, Math.max(2, (width - left - right) / 70), true)) {
    g.append(text(x(value), height - bottom + 15, tickName(value),
                  {class: 'tick middle'}));
  }
  g.append(
      sv('line', {x1: left, x2: width - right, y1: height - bottom,
                  y2: height - bottom, class: 'axis'}),
      text((left + width - right) / 2, height - 3, xTitle,
           {class: 'tick middle'}));
  if (title) g.append(text(left, 13, title, {class: 'title'}));
  return g;
}

// Columns of panels: as many as there is room for, in rows of like length.
function columnsOf(count, most, width, least) {
  const room = Math.max(1, Math.min(count, most, Math.floor(width / least)));
  return Math.ceil(count / Math.ceil(count / room));
}

// Moves labels apart that would stand on each other.
function apart(labels, gap, low, high) {
  labels.sort((a, b) => a.y - b.y);
  for (let i = 1; i < labels.length; i++) {
    labels[i].y = Math.max(labels[i].y, labels[i - 1].y + gap);
  }
  let limit = high;
  for (const label of labels.toReversed()) {
    label.y = Math.min(label.y, limit);
    limit = label.y - gap;
  }
  return labels;
}

// `wide` is the width of a character.
const clip = (name, room, wide = 6.3) =>
    name.length * wide <= room ? name :
    `${name.slice(0, Math.max(1, Math.floor(room / wide) - 1))}…`;
