// How fast each worker is and how far it is behind, over the wall clock.

import { css } from "./theme.js";
import { get, node, number, panel, seconds, short } from "./words.js";

const POINTS = 400;
const STALE_MS = 20_000;           // ten times as long as a worker is silent at most
const DRAW_MS = 900;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200, 86_400].map((s) => 1000 * s);
const FIGURES = ["events_per_second", "lag_events"];
const state = { workers: new Map(), models: [], skew: 0, live: true, rows: new Map(), made: null };

// In the order of what they wait for.
function rank(worker) {
  const order = ["source", ...state.models.map(({ name }) => name), "pruner", "evaluator"];
  return order.includes(worker) ? order.indexOf(worker) : order.length;
}
const named = (worker) => state.models.find(({ name }) => name === worker)?.label ?? worker.replaceAll("_", " ");
const sorted = () => [...state.workers.values()].sort((a, b) => rank(a.name) - rank(b.name));
const now = () => Date.now() - state.skew;
const age = (worker) => now() - worker.last.time_ms;

// Those of whom nothing has been heard for long, though their work is not done.
export const stale = () => (state.live ? sorted().filter((worker) => !worker.last.done && age(worker) > STALE_MS) : []);
export const rateOf = (name) => state.workers.get(name)?.columns.events_per_second.findLast((value) => value != null) ?? null;
// How far a worker is behind is of now: it says nothing of one that is done, or of the past.
const lags = (worker) => state.live && !worker.last.done && worker.last.lag_events != null;
export function lagOf(name) {
  const worker = state.workers.get(name);
  return worker && lags(worker) ? worker.last.lag_events : null;
}

export function setRun(run) {
  state.live = run.state === "live";
  state.models = run.models;
}

export async function load() {
  const found = await get(`/api/workers?points=${POINTS}`);
  state.skew = Date.now() - found.now_ms;
  state.workers = new Map(found.workers.map((one) => [one.name, one]));
}

// One more message of the log; the rate is since the one before, in the same life.
export function take(report) {
  const worker = state.workers.get(report.worker);
  if (!worker) {
    const columns = { count: [report.count], events_per_second: [null], lag_events: [report.lag_events], lag_seconds: [report.lag_seconds] };
    state.workers.set(report.worker, { name: report.worker, last: report, time_ms: [report.time_ms], columns });
    return undefined;
  }
  const before = worker.last;
  if (report.time_ms <= before.time_ms) return undefined;
  const goesOn = report.wall_seconds > before.wall_seconds && report.events >= before.events;
  worker.time_ms.push(report.time_ms);
  worker.columns.count.push(report.count);
  worker.columns.events_per_second.push(goesOn ? (1000 * (report.events - before.events)) / (report.time_ms - before.time_ms) : null);
  worker.columns.lag_events.push(report.lag_events);
  worker.columns.lag_seconds.push(report.lag_seconds);
  worker.last = report;
  // Where that fails, the next message asks again.
  return worker.time_ms.length > 2 * POINTS ? load().catch(() => undefined) : undefined;
}

export function make() {
  state.made = panel("workers", "Throughput and lag", { wide: true, csv: "/api/workers.csv" });
  state.made.body.className = "body workers";
  return state.made.section;
}

const clock = (ms) => {
  const s = Math.round(ms / 1000);
  return s < 3600 ? `${Math.floor(s / 60)}:${`${s % 60}`.padStart(2, "0")}` : `${(s / 3600).toFixed(1)} h`;
};

function options(host, figure, span, isLast) {
  const axis = { stroke: css("--muted"), ticks: { show: false }, font: "11px system-ui, sans-serif", grid: { stroke: css("--faint"), width: 1 } };
  return {
    width: host.clientWidth, height: isLast ? 68 : 46, padding: [10, 20, 0, 0],
    scales: { x: { time: false, range: () => [0, Math.max(span.end - span.begin, 1)] }, y: { range: () => [0, span.most[figure] || 1] } },
    axes: [
      { ...axis, show: isLast, size: 22, gap: 4, space: 60, incrs: STEPS, values: (_, values) => values.map(clock) },
      { ...axis, size: 44, gap: 4, splits: () => [0, span.most[figure] || 1], values: () => ["", short(span.most[figure])] },
    ],
    series: [{}, { stroke: css("--muted"), width: 1.4, spanGaps: false, points: { show: false } }],
    cursor: { y: false, sync: { key: "clock" }, drag: { setScale: false, x: false, y: false } },
    legend: { show: false },
  };
}

// All plots of a figure have the same axes, so that they compare.
function spanned(workers) {
  const times = workers.flatMap((worker) => [worker.time_ms[0], worker.time_ms.at(-1)]);
  const most = (figure) => workers.reduce((m, worker) => worker.columns[figure].reduce((n, v) => (v > n ? v : n), m), 0);
  return { begin: Math.min(...times), end: Math.max(...times), most: Object.fromEntries(FIGURES.map((figure) => [figure, most(figure)])) };
}

function said(worker) {
  const { last } = worker;
  if (last.done) return { text: "done", badge: "" };
  if (state.live && age(worker) > STALE_MS) return { text: `stale: silent for ${seconds(age(worker) / 1000)}`, badge: "stale" };
  return { text: last.waiting_for ? `waits for ${last.waiting_for}` : "", badge: "" };
}

function row(worker) {
  const texts = { name: node("strong", { textContent: named(worker.name) }), rate: node("span"), lag: node("span"), state: node("span", { className: "state" }) };
  const hosts = FIGURES.map(() => node("div", { className: "mini", role: "img" }));
  const words = node("div", { className: "words" }, texts.name, texts.rate, texts.lag, texts.state);
  state.made.body.append(words, ...hosts);
  return { texts, hosts, plots: [] };
}

function fill(made, worker, span, isLast) {
  const { texts, hosts } = made;
  const x = worker.time_ms.map((time) => time - span.begin);
  const { text, badge } = said(worker);
  texts.rate.textContent = `${number(rateOf(worker.name))} events/s`;
  texts.lag.textContent = lags(worker) ? `lag ${number(worker.last.lag_events)}, ${seconds(worker.last.lag_seconds)}` : "lag –";
  texts.state.textContent = text;
  texts.state.dataset.badge = badge;
  FIGURES.forEach((figure, i) => {
    made.plots[i]?.destroy();
    hosts[i].title = hosts[i].ariaLabel = `${named(worker.name)}: ${figure === "lag_events" ? "events behind" : "events a second"} by the clock`;
    made.plots[i] = new uPlot(options(hosts[i], figure, span, isLast), [x, worker.columns[figure]], hosts[i]);
  });
}

// Messages come faster than anybody reads.
let drawn = -Infinity;
export function draw(atOnce = false) {
  if (!atOnce && performance.now() - drawn < DRAW_MS) return;
  drawn = performance.now();
  const workers = sorted();
  state.made.summary.textContent = workers.length ? "events a second (left) and events behind (right) by the clock, from the start" : "nothing reported yet";
  if (!workers.length) return;
  if (workers.length !== state.rows.size) {
    state.rows.forEach((made) => made.plots.forEach((plot) => plot.destroy()));
    state.made.body.replaceChildren();
    state.rows = new Map(workers.map((worker) => [worker.name, row(worker)]));
  }
  const span = spanned(workers);
  workers.forEach((worker, i) => fill(state.rows.get(worker.name), worker, span, i === workers.length - 1));
}
