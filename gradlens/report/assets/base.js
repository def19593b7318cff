'use strict';
// What all charts share: the data, the view that is shown, small helpers.

const data = JSON.parse(document.getElementById('data').textContent);
const SVG = 'http://www.w3.org/2000/svg';
const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ';
const DASHES = ['', '6 3', '2 2.5', '9 3 2 3'];
const COLORS = 8;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  // Strings become text nodes: nothing that a model wrote is ever markup.
  node.append(...children);
  return node;
}
const el = (tag, attributes = {}, ...children) =>
    fill(document.createElement(tag), attributes, children);
const sv = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);
const text = (x, y, words, attributes = {}) =>
    sv('text', {x, y, ...attributes}, words);
const byId = id => document.getElementById(id);
// A window may be made so narrow that there is none.
const roomIn = host => Math.max(240, host.clientWidth);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// The view is kept in the address, so that it outlives a reload and can be
// sent to someone.
const view = {
  by: data.groups.length > 1 ? 'task' : 'group', run: 0, theme: 'system',
  tasks: new Set(), groups: new Set(), tabs: {},
};

function readView() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name, below) => {
    const value = Number(given.get(name) ?? 0);
    return Number.isInteger(value) && value >= 0 && value < below ? value : 0;
  };
  const list = name => (given.get(name) ?? '').split('.').filter(Boolean);
  if (['task', 'group'].includes(given.get('by'))) view.by = given.get('by');
  if (['light', 'dark'].includes(given.get('theme'))) {
    view.theme = given.get('theme');
  }
  view.run = number('run', data.runs.length);
  view.tasks = new Set(list('notasks').map(Number));
  view.groups = new Set(list('nogroups').map(Number));
  for (const [key, tabs] of Object.entries(data.curves)) {
    view.tabs[key] = number(key, tabs.length);
  }
}

function keepView() {
  const kept = new URLSearchParams();
  const put = (name, value, usual) => {
    if (String(value) !== String(usual)) kept.set(name, value);
  };
  put('by', view.by, data.groups.length > 1 ? 'task' : 'group');
  put('run', view.run, 0);
  put('theme', view.theme, 'system');
  put('notasks', [...view.tasks].join('.'), '');
  put('nogroups', [...view.groups].join('.'), '');
  for (const [key, tab] of Object.entries(view.tabs)) put(key, tab, 0);
  history.replaceState(null, '', `#${kept}`);
}

function letter(group) {
  const last = LETTERS[group % LETTERS.length];
  return group < LETTERS.length ? last :
      LETTERS[Math.floor(group / LETTERS.length) - 1] + last;
}

const color = i => `var(--c${i % COLORS})`;
// Beyond the palette, and wherever groups are told apart, lines are dashed.
const dash = (i, always) => DASHES[
    (always ? i : Math.floor(i / COLORS)) % DASHES.length];

function digits(value) {
  if (value === 0) return '0';
  // Rounded first: 0.9996 is 1.00.
  const [mantissa, exponent] = value.toExponential(2).split('e');
  const magnitude = Number(exponent);
  if (magnitude < -3 || magnitude >= 4) {
    return `${mantissa}e${magnitude}`.replaceAll('-', '−');
  }
  return value.toFixed(Math.max(0, 2 - magnitude)).replace('-', '−');
}

function say(value, form) {
  if (value === null || value === undefined || !isFinite(value)) return '–';
  const minus = words => words.replace('-', '−');
  switch (form) {
    case 'percent': return minus(`${(100 * value).toFixed(1)}%`);
    case 'fixed': return minus(value.toFixed(3));
    case 'signed': return (value > 0 ? '+' : '') + minus(value.toFixed(3));
    default: return digits(value);
  }
}

const span = ([first, last]) => first === last ? `${first}` : `${first}–${last}`;
const words = (value, low, high, form) => low === null || low === undefined ?
    say(value, form) :
    `${say(value, form)} [${say(low, form)}, ${say(high, form)}]`;

function table(head, rows, caption) {
  const line = (cells, first) => el('tr', {}, ...cells.map((cell, i) => i ?
      el(first ? 'th' : 'td', first ? {scope: 'col'} : {}, cell) :
      el('th', {scope: first ? 'col' : 'row'}, cell)));
  return el('table', {class: 'summary'}, el('caption', {}, caption),
      el('thead', {}, line(head, true)),
      el('tbody', {}, ...rows.map(cells => line(cells, false))));
}

// One tip for the whole page; what it says is also read out.
function showTip(event, title, rows, aloud) {
  const tip = byId('tip');
  tip.replaceChildren(el('b', {}, title), ...rows.map(([i, name, value]) =>
      el('div', {}, i === null ? '' : el('i', {
        style: `background: ${color(i)}`}), `${name} `, el('span', {}, value))));
  tip.hidden = false;
  const {clientX: x, clientY: y} = event;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(
      y + 14, innerHeight - box.height - 4))}px`;
  if (aloud) {
    byId('said').textContent =
        `${title}: ${rows.map(([, name, value]) => `${name} ${value}`)
            .join(', ')}`;
  }
}
const hideTip = () => { byId('tip').hidden = true; };
addEventListener('keydown', event => {
  if (event.key === 'Escape') hideTip();
});
