// The panels of lines over the count of events: what each shows, where that comes from, and how it
// grows. Which panels there are, the server lists.

import { spanOf } from "./state.js";
import { get, node, panel, short } from "./words.js";

const POINTS = 1000;
const HEIGHTS = { main: 280, panel: 180, choice: 180 };
// The panel in which one of several figures is chosen.
const CHOICE = { name: "figure", title: "Also", view: "choice" };

// How the mask changes between versions; only in a run in which it does.
const CHURN = {
  name: "churn", title: "Mask churn", view: "panel", format: ".2%", alarms: [], highlight: null,
  lines: [{ column: "moved", label: "moved", dash: [] }],
  explains: "The share of the kept weights, over all layers, that each graft replaced with others.",
};
const DOTTED = [1.25, 1.9];        // of lines that are not of a model, in line widths
const EMPTY = { lines: [], alarms: [], format: ".4f" };

const edges = (column) => [`${column}.low`, `${column}.high`];
const choices = (run) => run.panels.filter(({ view }) => view === "choice");
const own = (spec) => spec.lines.map(({ column }) => column);
const columnsOf = (spec) => [...own(spec), ...(spec.highlight ? edges(spec.highlight) : [])];
// As CSV every interval is given, not the drawn one alone.
const columnsOfCsv = (spec) => (spec.highlight ? own(spec).flatMap((column) => [column, ...edges(column)]) : own(spec));

// What a panel shows of a run: its lines, and the column whose interval is shaded.
function specOf(one, view, { models, panels }) {
  const spec = panels.find(({ name }) => name === (one.select ? view.figure : one.id));
  const compared = models.filter(({ role }) => spec.of_models && !(spec.compares && role === "root"));
  const served = compared.find(({ role }) => spec.compares && role === "served");
  const others = Object.entries(spec.columns).map(([column, label]) => ({ column, label, dash: DOTTED }));
  return {
    ...spec,
    lines: [...compared.map((model) => ({ ...model, column: `${model.name}.${spec.name}` })), ...others],
    highlight: served ? `${served.name}.${spec.name}` : null,
  };
}

export function figure(window, column) {
  const [model, metric, edge] = column.split(".");
  if (metric === undefined) return window[column] ?? null;
  const score = window.models[model];
  return (edge ? score?.intervals[metric]?.[edge === "low" ? 0 : 1] : score?.metrics[metric]) ?? null;
}

function query(view, run, columns) {
  const { size, zoom } = view;
  const asked = new URLSearchParams({ size, columns: columns.join(",") });
  const [begin, end] = spanOf(view, run);
  if (zoom) asked.set("end", Math.ceil(end));
  // The window that ends where the first mask takes over is where all lines begin.
  if (begin > 0) asked.set("begin", Math.max(Math.floor(begin) - (zoom ? 0 : 1), 0));
  return asked;
}

function build(spec, csv = "/api/windows.csv") {
  const wide = spec.view === "main";
  const made = { ...panel(spec.name, spec.title, { wide, csv }), spec: EMPTY, height: HEIGHTS[spec.view], plot: null, address: null, drawn: [], data: [[]] };
  made.host = made.body;
  made.host.classList.add("plot");
  made.host.tabIndex = 0;
  made.host.setAttribute("role", "img");
  made.host.setAttribute("aria-labelledby", `${spec.name}-title`);
  made.host.setAttribute("aria-describedby", `${spec.name}-summary`);
  return made;
}

function offer(made, run, choose) {
  const options = choices(run).map(({ name, title }) => node("option", { value: name, textContent: title }));
  made.select = node("select", { ariaLabel: "figure" }, ...options);
  made.select.addEventListener("change", () => choose(made.select.value));
  made.heading.append(" ", made.select);
}

export function make(run, choose) {
  const choice = build(CHOICE);
  offer(choice, run, choose);
  return [...run.panels.filter(({ view }) => view !== "choice").map(build), choice];
}

export const makeChurn = () => ({ ...build(CHURN, "/api/grafts.csv"), spec: CHURN, csv: "/api/grafts.csv", drawn: ["moved"] });
const isChurn = ({ spec }) => spec === CHURN;

// The summary of the run says it all, whatever part is shown.
export function fillChurn(one, { grafts: { counts, moved } }) {
  one.data = [counts, moved];
}

// What is to change in a panel so that it shows a view; nothing, where it does already.
export async function load(one, view, run, anew) {
  if (isChurn(one)) return { view, drawn: one.drawn };
  const spec = specOf(one, view, run);
  const columns = columnsOf(spec);
  const address = `/api/windows?${query(view, run, columns)}&points=${POINTS}`;
  if (address === one.address && !anew) return {};
  const found = view.size === null || !columns.length ? { end: [], columns: {} } : await get(address);
  return {
    spec, address, view, size: view.size, zoom: view.zoom,
    csv: view.size === null ? "/api/windows.csv" : `/api/windows.csv?${query(view, run, columnsOfCsv(spec))}`,
    none: spec.lacking && view.size !== null ? `none for windows of ${short(view.size)} events here: ${spec.lacking}` : null,
    drawn: Object.keys(found.columns), data: [found.end, ...Object.values(found.columns)],
  };
}

export function append(one, window) {
  if (one.zoom || window.size !== one.size || window.partial || one.data[0].at(-1) >= window.end) return;
  one.data[0].push(window.end);
  one.drawn.forEach((column, i) => one.data[i + 1].push(figure(window, column)));
}

// How far the input has moved comes after the window that it is of.
export function amend(one, { begin, end, psi }) {
  const values = one.data[one.drawn.indexOf("psi") + 1];
  const known = Object.values(psi);
  if (one.drawn.includes("psi") && end - begin === one.size && one.data[0].at(-1) === end && known.length) values[values.length - 1] = Math.max(...known);
}
