// The sample browser: one prompt a card, responses side by side. Every text enters the page as text, never as markup.
(() => {
  'use strict';
  const PER_PAGE = 10;
  const LARGEST = 4e6; // cells of a word table beyond which two long texts are not compared
  const source = document.getElementById('samples-data');
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const root = document.getElementById('sample-browser');
  const list = document.getElementById('sample-list');
  const status = document.getElementById('sample-status');
  const field = (name) => document.getElementById(`sample-${name}`);
  const controls = { search: field('search'), show: field('show'), method: field('method'), by: field('by'), marks: field('marks') };
  const trained = data.methods.map((_, place) => place).filter((place) => data.methods[place].name !== 'sft');
  const sft = data.methods.findIndex((method) => method.name === 'sft');
  let found = [];
  let page = 0;

  const make = (tag, properties = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === 'class') element.className = value;
      else if (name === 'colour') element.style.setProperty('--c', value);
      else element.setAttribute(name, value);
    }
    element.append(...children); // strings become text nodes
    return element;
  };
  const option = (select, value, text) => select.append(make('option', { value }, text));
  const outcome = (value) => (value === null ? 'no verdict' : value > 0.5 ? 'wins' : value < 0.5 ? 'loses' : 'ties');
  const haystack = data.rows.map((row) =>
    [row.id, ...row.prompt.map((message) => message[1]), ...row.responses.map((response) => response.text)].join('\n').toLowerCase());

  // How far a method is ahead of SFT on a prompt: by reward where the evaluator gives one, else by its outcome.
  function lead(row, method, by) {
    const [reward, won] = row.responses[method].scores[by] ?? [null, null];
    const base = sft < 0 ? null : row.responses[sft].scores[by]?.[0] ?? null;
    if (reward !== null && base !== null) return reward - base;
    return won === null ? null : won - 0.5;
  }

  function select() {
    const words = controls.search.value.trim().toLowerCase();
    const method = Number(controls.method.value);
    const by = Number(controls.by.value);
    const show = controls.show.value;
    let rows = data.rows.map((_, place) => place);
    if (words) rows = rows.filter((place) => haystack[place].includes(words));
    if (show === 'wins' || show === 'losses') {
      const sign = show === 'wins' ? 1 : -1;
      const leads = new Map(rows.map((place) => [place, lead(data.rows[place], method, by)]));
      rows = rows.filter((place) => leads.get(place) !== null && sign * leads.get(place) > 0)
        .sort((a, b) => sign * (leads.get(b) - leads.get(a)));
    } else if (show.startsWith('pair')) {
      const [one, other] = data.disagreements[Number(show.slice(4))].pair;
      rows = rows.filter((place) => {
        const scores = data.rows[place].responses[method].scores;
        const [a, b] = [scores[one]?.[1] ?? null, scores[other]?.[1] ?? null];
        return a !== null && b !== null && (a - 0.5) * (b - 0.5) < 0;
      });
    }
    found = rows;
    page = 0;
    draw();
  }

  // Words of `text` that are not in a longest common subsequence with the words of `base`.
  function differences(base, text) {
    const a = base.split(/\s+/).filter(Boolean);
    const parts = text.split(/(\s+)/);
    const b = parts.filter((part) => part.trim());
    if (a.length * b.length > LARGEST) return null;
    const width = b.length + 1;
    const table = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i -= 1) {
      for (let j = b.length - 1; j >= 0; j -= 1) {
        table[i * width + j] = a[i] === b[j] ? table[(i + 1) * width + j + 1] + 1
          : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
      }
    }
    const changed = new Array(b.length).fill(true);
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) { changed[j] = false; i += 1; j += 1; }
      else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) i += 1;
      else j += 1;
    }
    let word = 0;
    return parts.filter((part) => part !== '').map((part) => [part, part.trim() ? changed[word++] : null]);
  }

  function textOf(row, method) {
    const text = row.responses[method].text;
    const box = make('div', { class: 'text' });
    const parts = controls.marks.checked && sft >= 0 && method !== sft ? differences(row.responses[sft].text, text) : null;
    if (!text) box.append(make('span', { class: 'muted' }, '(empty response)'));
    else if (!parts) box.append(text);
    else {
      let run = '';
      let marked = false;
      const flush = () => {
        if (!run) return;
        const tail = marked ? run.match(/\s*$/)[0] : '';
        box.append(marked ? make('mark', {}, run.slice(0, run.length - tail.length)) : run, tail);
        run = '';
      };
      for (const [part, changed] of parts) {
        if (changed !== null && changed !== marked) { flush(); marked = changed; }
        run += part;
      }
      flush();
    }
    return box;
  }

  const signed = (value) => String(value).replace('-', '\u2212');

  function response(row, method) {
    const look = data.methods[method];
    const { scores, length, finished } = row.responses[method];
    const marks = make('ul', { class: 'marks' });
    scores.forEach(([reward, won], by) => {
      const said = [];
      if (reward !== null) said.push(signed(reward));
      if (method !== sft) said.push(outcome(won));
      if (said.length) marks.append(make('li', {}, make('span', {}, data.evaluators[by]), make('span', {}, said.join(', '))));
    });
    marks.append(make('li', {}, make('span', {}, 'length'), make('span', {}, `${length} tokens${finished ? '' : ', cut off'}`)));
    return make('article', { class: 'response', colour: look.colour },
      make('h4', {}, make('span', { class: 'key', 'aria-hidden': 'true' }, look.glyph), ` ${look.name}`), textOf(row, method), marks);
  }

  function card(place, open) {
    const row = data.rows[place];
    const by = Number(controls.by.value);
    const last = row.prompt.length ? row.prompt[row.prompt.length - 1][1] : '(empty prompt)';
    const badges = make('span', { class: trained.length > 3 ? 'badges many' : 'badges' });
    for (const method of trained) {
      const won = row.responses[method].scores[by]?.[1] ?? null;
      const look = data.methods[method];
      badges.append(make('span', { class: `badge ${won === null ? '' : outcome(won)}` },
        make('span', { class: 'key', colour: look.colour, 'aria-hidden': 'true' }, look.glyph), `${look.name} ${outcome(won)}`));
    }
    const details = make('details', { class: 'sample' },
      make('summary', {}, make('span', { class: 'asked' }, last), badges));
    const fill = () => {
      if (details.childElementCount > 1) return;
      const prompt = make('div', { class: 'prompt' });
      for (const [role, content] of row.prompt) prompt.append(make('div', { class: 'role' }, role), make('div', { class: 'text' }, content));
      const responses = make('div', { class: 'responses' }, ...data.methods.map((_, method) => response(row, method)));
      details.append(make('p', { class: 'note mono' }, row.id), prompt, responses);
    };
    details.addEventListener('toggle', fill);
    details.open = open;
    if (open) fill();
    details.fill = fill;
    return details;
  }

  function draw() {
    const start = page * PER_PAGE;
    const shown = found.slice(start, start + PER_PAGE);
    list.replaceChildren(...shown.map((place, i) => card(place, i === 0)));
    status.textContent = found.length
      ? `${start + 1} to ${start + shown.length} of ${found.length}${found.length < data.rows.length ? ` (${data.rows.length} in all)` : ''}`
      : 'No prompt fits; clear the search or show all prompts.';
    field('previous').disabled = page === 0;
    field('next').disabled = start + PER_PAGE >= found.length;
  }

  function turn(by) {
    page += by;
    draw();
    root.scrollIntoView({ block: 'start' });
    list.querySelector('summary')?.focus({ preventScroll: true });
  }

  trained.forEach((place) => option(controls.method, place, data.methods[place].name));
  data.evaluators.forEach((name, place) => option(controls.by, place, name));
  data.disagreements.forEach((pair, place) => option(controls.show, `pair${place}`, pair.text));
  let waiting = 0;
  controls.search.addEventListener('input', () => { clearTimeout(waiting); waiting = setTimeout(select, 150); });
  for (const name of ['show', 'method', 'by']) controls[name].addEventListener('change', select);
  controls.marks.addEventListener('change', draw);
  field('previous').addEventListener('click', () => turn(-1));
  field('next').addEventListener('click', () => turn(1));
  window.addEventListener('beforeprint', () => list.querySelectorAll('details').forEach((details) => details.fill()));
  root.hidden = false;
  select();
})();
