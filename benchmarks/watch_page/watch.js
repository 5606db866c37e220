// The page of a run at work. All that comes from the run is set as text, never as markup.
"use strict";

const EVERY = 2000; // milliseconds
const COLOURS = 6;
const $ = (id) => document.getElementById(id);
let shown = ""; // what was drawn last

function made(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function kind(state) {
  return ["waiting", "done", "failed"].includes(state) ? state : "busy";
}

function left(state) {
  if (state.left === null) return { done: "finished", stopped: "stopped", gone: "no longer at work" }[state.state];
  if (!state.unknown) return `about ${duration(state.left)} left`;
  const unknown = `${state.unknown} steps of kinds that have not run on this machine yet`;
  return state.left ? `more than ${duration(state.left)} left, for ${unknown}` : `time left not known yet: ${unknown}`;
}

function table(cells) {
  const seeds = [...new Set(cells.map((cell) => cell.seed))];
  const methods = [...new Set(cells.map((cell) => cell.method))];
  const heads = made("tr");
  heads.append(made("th", "method"), ...seeds.map((seed) => made("th", `seed ${seed}`)));
  const rows = methods.map((method) => {
    const row = made("tr");
    row.append(made("th", method));
    for (const seed of seeds) {
      const cell = cells.find((each) => each.method === method && each.seed === seed);
      if (!cell) {
        row.append(made("td"));
        continue;
      }
      const busy = cell.done && cell.done < cell.steps ? ` (${cell.done} of ${cell.steps} steps done)` : "";
      const took = cell.state === "done" && cell.seconds ? `, ${duration(cell.seconds)}` : "";
      const why = cell.why ? `: ${cell.why}` : "";
      row.append(made("td", `${cell.state}${busy}${took}${why}`, kind(cell.state)));
    }
    return row;
  });
  $("heads").replaceChildren(heads);
  $("cells").replaceChildren(...rows);
}

function look(labels, label) {
  const place = labels.indexOf(label);
  return `line${place % COLOURS} dash${Math.floor(place / COLOURS) % 3}`;
}

function chart(curve, labels) {
  const [width, height, edge] = [320, 140, 4];
  const points = curve.lines.flatMap((line) => line.points);
  const [xs, ys] = [0, 1].map((side) => points.map((point) => point[side]));
  const span = (values) => [Math.min(...values), Math.max(...values)];
  const [[x0, x1], [y0, y1]] = [span(xs), span(ys)];
  const across = (x) => edge + ((x - x0) / (x1 - x0 || 1)) * (width - 2 * edge);
  const down = (y) => height - edge - ((y - y0) / (y1 - y0 || 1)) * (height - 2 * edge);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", curve.title);
  for (const line of curve.lines) {
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    drawn.setAttribute("points", line.points.map(([x, y]) => `${across(x).toFixed(1)},${down(y).toFixed(1)}`).join(" "));
    drawn.setAttribute("class", look(labels, line.cell));
    svg.append(drawn);
  }
  const figure = made("figure");
  const caption = made("figcaption", `${curve.title} `);
  const short = (value) => Number(value.toPrecision(3));
  caption.append(made("span", `${short(y0)} to ${short(y1)}; ${curve.axis} ${short(x0)} to ${short(x1)}`));
  figure.append(caption, svg);
  return figure;
}

function draw(state) {
  document.title = state.title;
  $("title").textContent = state.title;
  $("left").textContent = left(state);
  $("sentence").textContent = `${state.sentence}.`;
  $("shared-part").hidden = !state.shared.length;
  $("shared").replaceChildren(
    ...state.shared.map((step) => {
      const took = step.seconds === null ? "" : `, ${duration(step.seconds)}`;
      return made("li", `${step.name}: ${step.state}${took}`, kind(step.state));
    }),
  );
  table(state.cells);
  const labels = [...new Set(state.curves.flatMap((curve) => curve.lines.map((line) => line.cell)))];
  $("curves-part").hidden = !labels.length;
  $("legend").replaceChildren(...labels.map((label) => made("span", `━ ${label}`, look(labels, label))));
  $("curves").replaceChildren(...state.curves.map((curve) => chart(curve, labels)));
  $("samples-part").hidden = !state.samples;
  if (!state.samples) return;
  $("whose").textContent = `The first responses of ${state.samples.cell}, which was finished last.`;
  $("samples").replaceChildren(
    ...state.samples.rows.map((row) => {
      const quote = made("blockquote");
      quote.append(made("p", row.prompt), document.createTextNode(row.response));
      return quote;
    }),
  );
}

async function refresh() {
  let error = "";
  try {
    const response = await fetch("/api/state");
    const text = await response.text();
    const state = JSON.parse(text);
    if (!response.ok) error = state.error;
    else if (text !== shown) {
      draw(state);
      shown = text;
    }
  } catch {
    error = "The server does not answer; give bench watch again. What you see is as it was then.";
  }
  $("message").textContent = error;
  $("message").hidden = !error;
  setTimeout(refresh, EVERY);
}

refresh();
