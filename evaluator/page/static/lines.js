// The panels of lines over the count of events: what each shows, where that comes from, and how it grows.

import { ALARMS } from "./plots.js";
import { get, node, panel, percent, plain, short } from "./words.js";

const POINTS = 1000;

// Of which columns, in which units, and what stands in them beside the lines.
const PANELS = [
  { id: "ne", title: "Normalised entropy", wide: true, height: 260, each: "ne", format: plain(4), level: 1, alarms: ["dense_loss"] },
  { id: "relative", title: "Cross entropy against dense", wide: true, height: 300, each: "relative_ce", others: true, interval: "sparse", format: percent, level: 0, band: 0.005, worst: "sparse", alarms: Object.keys(ALARMS) },
  { id: "calibration", title: "Calibration, predicted over observed clicks", height: 180, each: "calibration", format: plain(3), level: 1, alarms: [] },
  { id: "click_rate", title: "Click rate, observed", height: 180, columns: ["click_rate"], format: plain(4), alarms: ["click_rate"] },
  { id: "figure", title: "Also", height: 180, choices: true },
];
const FIGURES = {
  roc_auc: { name: "ROC AUC", each: "roc_auc", format: plain(4) },
  pr_auc: { name: "PR AUC", each: "pr_auc", format: plain(4) },
  ece: { name: "expected calibration error", each: "ece", format: plain(4) },
  ce: { name: "cross entropy, nats", each: "ce", columns: ["bayes_ce"], format: plain(4) },
  regret: { name: "regret to the true probability, nats", each: "regret", format: plain(5) },
  ne_training: { name: "NE by the click rate so far", each: "ne_training", format: plain(4), level: 1 },
  psi: { name: "input: population stability index", columns: ["psi"], format: plain(3), alarms: ["input"], lacking: "the input is compared over windows of one size only, the smallest unless evaluator.alarms says otherwise" },
};
const PLAIN = { each: null, columns: null, level: null, alarms: [], lacking: null };
export const FIRST = Object.keys(FIGURES)[0];

const edges = (column) => [`${column}.low`, `${column}.high`];

function columnsOf({ each, others, columns, interval }, models) {
  const found = each ? models.slice(others ? 1 : 0).map((model) => `${model}.${each}`) : [];
  const inner = models.includes(interval) ? edges(`${interval}.${each}`) : [];
  return [...found, ...(columns ?? []), ...inner];
}

// As CSV every interval is given, not the drawn one alone.
function columnsOfCsv(shows, models) {
  const found = columnsOf({ ...shows, interval: null }, models);
  return shows.interval ? found.flatMap((column) => [column, ...edges(column)]) : found;
}

export function figure(window, column) {
  const [model, name, edge] = column.split(".");
  if (name === undefined) return window[column] ?? null;
  if (name === "relative_ce") return window.relative_ce[model]?.[edge ?? "mean"] ?? null;
  return window.models[model]?.[name] ?? null;
}

function query({ size, stretch }, columns) {
  const asked = new URLSearchParams({ size, columns: columns.join(",") });
  if (stretch) {
    asked.set("begin", Math.floor(stretch[0]));
    asked.set("end", Math.ceil(stretch[1]));
  }
  return asked;
}

function build(one) {
  const made = { ...panel(one.id, one.title, { wide: one.wide, csv: "/api/windows.csv" }), ...one, plot: null, address: null, drawn: [], data: [[]] };
  made.host = made.body;
  made.host.classList.add("plot");
  made.host.tabIndex = 0;
  made.host.setAttribute("role", "img");
  made.host.setAttribute("aria-labelledby", `${one.id}-title`);
  made.host.setAttribute("aria-describedby", `${one.id}-summary`);
  return made;
}

function offer(made, choose) {
  const options = Object.entries(FIGURES).map(([value, { name }]) => node("option", { value, textContent: name }));
  made.select = node("select", { ariaLabel: "figure" }, ...options);
  made.select.addEventListener("change", () => choose(made.select.value));
  made.heading.append(" ", made.select);
}

export function make(choose) {
  const made = PANELS.map(build);
  made.filter((one) => one.choices).forEach((one) => offer(one, choose));
  return made;
}

// What is to change in a panel so that it shows a view; nothing, where it does already.
export async function load(one, view, run, anew) {
  const shows = one.choices ? { ...PLAIN, ...FIGURES[view.figure] } : {};
  const columns = columnsOf({ ...one, ...shows }, run.models);
  const address = `/api/windows?${query(view, columns)}&points=${POINTS}`;
  if (address === one.address && !anew) return {};
  const found = view.size === null || !columns.length ? { end: [], columns: {} } : await get(address);
  return {
    ...shows, address, size: view.size, stretch: view.stretch,
    csv: view.size === null ? "/api/windows.csv" : `/api/windows.csv?${query(view, columnsOfCsv({ ...one, ...shows }, run.models))}`,
    none: shows.lacking && view.size !== null ? `none for windows of ${short(view.size)} events here: ${shows.lacking}` : null,
    drawn: Object.keys(found.columns), data: [found.end, ...Object.values(found.columns)],
  };
}

export function append(one, window) {
  if (one.stretch || window.size !== one.size || window.partial || one.data[0].at(-1) >= window.end) return;
  one.data[0].push(window.end);
  one.drawn.forEach((column, i) => one.data[i + 1].push(figure(window, column)));
}

// How far the input has moved is told after the window that it is told of.
export function amend(one, { begin, end, psi }) {
  const values = one.data[one.drawn.indexOf("psi") + 1];
  const told = Object.values(psi);
  if (one.drawn.includes("psi") && end - begin === one.size && one.data[0].at(-1) === end && told.length) values[values.length - 1] = Math.max(...told);
}
