// Samples: what models wrote, searched and filtered.

const PAGE = 20;
const rows = data.samples.rows.map(
    ([run, task, step, prompt, completion, answer, reason, reward]) => ({
      run, task, step, reward, words: {
        prompt, completion, reference: answer, reason}}));
const lowered = data.samples.texts.map(words => words.toLowerCase());
const turns = new Map();  // run -> its first and its last step with samples
for (const {run, step} of rows) {
  const [first, last] = turns.get(run) ?? [step, step];
  turns.set(run, [Math.min(first, step), Math.max(last, step)]);
}
let room = PAGE;

function wanted() {
  const [task, run, when, reward] = ['task', 'run', 'when', 'reward'].map(
      key => byId(`sample-${key}`).value);
  const words = byId('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter(row =>
      (!task || row.task === Number(task)) && !view.tasks.has(row.task) &&
      (!run || row.run === Number(run)) &&
      (!when || row.step === turns.get(row.run)[when === 'first' ? 0 : 1]) &&
      (!reward || (reward === 'part' ? row.reward > 0 && row.reward < 1 :
          row.reward === Number(reward))) &&
      words.every(word => Object.values(row.words).some(
          number => lowered[number].includes(word))));
}

function card(row) {
  const right = row.reward >= 1 ? ' full' : '';
  const title = [data.tasks[row.task], `step ${row.step}`,
                 ...(data.runs.length > 1 ? [data.runs[row.run].name] : [])];
  const parts = Object.entries(row.words).filter(
      ([, number]) => data.samples.texts[number] !== '');
  return el('article', {class: 'sample'},
      el('h3', {}, title.join(' · '), el('span', {class: `reward${right}`},
          `${row.reward >= 1 ? '✓ ' : ''}reward ${say(row.reward)}`)),
      el('dl', {}, ...parts.flatMap(([name, number]) => [
        el('dt', {}, name),
        el('dd', {class: 'text', tabindex: 0}, data.samples.texts[number])])));
}

function drawSamples() {
  const found = wanted();
  const shown = found.slice(0, room);
  byId('found').textContent = rows.length ?
      `${found.length} of ${rows.length} samples` +
          (shown.length < found.length ? `, the first ${shown.length} shown` : '') :
      'No evaluation has left samples yet.';
  document.querySelector('#samples .list').replaceChildren(...shown.map(card));
  byId('more').hidden = shown.length === found.length;
}

function startSamples() {
  for (const [key, names] of [['task', data.tasks],
                              ['run', data.runs.map(run => run.name)]]) {
    byId(`sample-${key}`).append(...names.map(
        (name, i) => el('option', {value: i}, name)));
  }
  for (const input of all('.filters select, .filters input')) {
    input.addEventListener('input', () => { room = PAGE; drawSamples(); });
  }
  byId('more').addEventListener('click', () => { room += PAGE; drawSamples(); });
  drawSamples();
}
