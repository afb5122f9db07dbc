// The live page: it draws what /api answers, and goes on with /api/stream.
// It knows nothing that the `windows` log does not say.

import * as plots from "./plots.js";
import * as tables from "./tables.js";
import * as theme from "./theme.js";
import * as workers from "./workers.js";
import { $, get, node, number, panel, percent, plain, short } from "./words.js";

const POINTS = 1000;
const MOST_LIVE = 1600;            // points a plot may grow to before it is asked for anew
const MOST_NEWEST = 100;           // windows that may come while an answer is under way
const AGAIN_MS = 300;
const RETRY_MS = 2000;
const state = { run: null, size: null, stretch: null, panels: [], newest: [], seen: -1, scores: null, layers: null };

// Panels: of which columns, in which units, and what stands in them beside the lines.
const PANELS = [
  { id: "ne", title: "Normalised entropy", wide: true, height: 260, each: "ne", format: plain(4), level: 1 },
  { id: "relative", title: "Cross entropy against dense", wide: true, height: 260, each: "relative_ce", others: true, format: percent, level: 0, band: 0.005, worst: "sparse" },
  { id: "calibration", title: "Calibration, predicted over observed clicks", height: 180, each: "calibration", format: plain(3), level: 1 },
  { id: "click_rate", title: "Click rate, observed", height: 180, columns: ["click_rate"], format: plain(4) },
  { id: "figure", title: "Also", height: 180, choices: true },
];
const CHOICES = {
  roc_auc: { name: "ROC AUC", each: "roc_auc", format: plain(4) },
  pr_auc: { name: "PR AUC", each: "pr_auc", format: plain(4) },
  ece: { name: "expected calibration error", each: "ece", format: plain(4) },
  ce: { name: "cross entropy, nats", each: "ce", columns: ["bayes_ce"], format: plain(4) },
  regret: { name: "regret to the true probability, nats", each: "regret", format: plain(5) },
  ne_training: { name: "NE by the click rate so far", each: "ne_training", format: plain(4), level: 1 },
  psi: { name: "input: population stability index", columns: ["psi"], format: plain(3) },
};

function columnsOf(one) {
  const models = one.each ? state.run.models.slice(one.others ? 1 : 0) : [];
  return [...models.map((model) => `${model}.${one.each}`), ...(one.columns ?? [])];
}

function figure(window, column) {
  const [model, name] = column.split(".");
  if (name === undefined) return window[column] ?? null;
  if (name === "relative_ce") return window.relative_ce[model]?.mean ?? null;
  return window.models[model]?.[name] ?? null;
}

function query(columns, more = {}) {
  const asked = new URLSearchParams({ size: state.size, columns: columns.join(","), ...more });
  if (state.stretch) {
    asked.set("begin", Math.max(0, Math.floor(state.stretch[0])));
    asked.set("end", Math.max(0, Math.ceil(state.stretch[1])));
  }
  return asked;
}

function build(one) {
  const made = { ...panel(one.id, one.title, { wide: one.wide, csv: "/api/windows.csv" }), ...one, plot: null, drawn: [], data: [[]] };
  made.host = made.body;
  made.host.classList.add("plot");
  made.host.tabIndex = 0;
  made.host.setAttribute("role", "img");
  made.host.setAttribute("aria-labelledby", `${one.id}-title`);
  made.host.setAttribute("aria-describedby", `${one.id}-summary`);
  if (one.choices) offer(made);
  return made;
}

function offer(made) {
  const options = Object.entries(CHOICES).map(([value, { name }]) => node("option", { value, textContent: name }));
  const select = node("select", { ariaLabel: "figure" }, ...options);
  const choose = () => Object.assign(made, { level: null, each: null, columns: null }, CHOICES[select.value]);
  select.addEventListener("change", () => { choose(); load(made); });
  made.heading.append(" ", select);
  choose();
}

// An answer that came late, after something else was asked for, is dropped.
let asking = 0;
async function load(one) {
  const mine = asking;
  const columns = columnsOf(one);
  if (state.size !== null) {
    const found = await get(`/api/windows?${query(columns, { points: POINTS })}`);
    if (mine !== asking) return;
    one.drawn = Object.keys(found.columns);
    one.data = [found.end, ...Object.values(found.columns)];
    if (!state.stretch) state.newest.forEach((window) => append(one, window));
    one.link.href = `/api/windows.csv?${query(columns)}`;
  }
  plots.draw(one, state.run, look);
}

async function refresh() {
  asking += 1;
  $("whole").hidden = !state.stretch;
  const scores = state.size === null ? null : get(`/api/scores?size=${state.size}`);
  await Promise.all(state.panels.map(load));
  if (scores) state.scores = await scores;
  tell();
}

// All plots tell of a stretch that was dragged over in one.
let looking = null;
function look(stretch) {
  state.stretch = stretch;
  clearTimeout(looking);
  looking = setTimeout(refresh);
}

let drawing = false;
function later() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    for (const one of state.panels) { one.plot?.setData(one.data); plots.read(one); }
    tell();
  });
}

// Live: every message of the log, once, in its order.
function grow(window) {
  const { run } = state;
  run.events = Math.max(run.events, window.end);
  if (!window.partial && (!run.sizes.includes(window.size) || !run.models.length)) return again();
  if (window.size === Math.min(...run.sizes) && window.drift.length) lengthen(window);
  state.newest = [...state.newest, window].slice(-MOST_NEWEST);
  if (window.size !== state.size || window.partial) return later();
  state.scores = { ...state.scores, window };
  if (!state.stretch) state.panels.forEach((one) => append(one, window));
  later();
  return state.panels[0].data[0].length > MOST_LIVE ? refresh() : undefined;
}

function append(one, window) {
  if (window.size !== state.size || window.partial || one.data[0].at(-1) >= window.end) return;
  one.data[0].push(window.end);
  one.drawn.forEach((column, i) => one.data[i + 1].push(figure(window, column)));
}

function steady(told) {
  for (const one of state.panels) {
    const i = one.drawn.indexOf("psi");
    if (i >= 0 && told.end - told.begin === state.size && one.data[0].at(-1) === told.end) one.data[i + 1][one.data[0].length - 1] = Math.max(...Object.values(told.psi));
  }
}

function live(lifetime) {
  const others = (state.scores?.lifetimes ?? []).filter((one) => one.begin !== lifetime.begin);
  state.scores = { ...state.scores, lifetimes: [...others, lifetime] };
  later();
}

function lengthen({ begin, end, drift }) {
  const last = state.run.bands.at(-1);
  if (last && last.end >= begin && `${last.drift}` === `${drift}`) last.end = Math.max(last.end, end);
  else state.run.bands.push({ begin, end, drift });
}

let waiting = null;
function again() {
  waiting ??= setTimeout(async () => {
    waiting = null;
    const [run, layers] = await Promise.all([get("/api/run"), get("/api/layers")]);
    const isNew = `${run.sizes}/${run.models}` !== `${state.run.sizes}/${state.run.models}`;
    Object.assign(state.run, run);
    state.layers = layers;
    if (!run.sizes.includes(state.size)) choose();
    if (isNew) await refresh();
    sizes();
    tables.showMarks(run.marks, pointAt);
    tables.showLayers(layers);
    later();
  }, AGAIN_MS);
}

const TAKE = {
  window: grow,
  lifetime: live,
  stability: steady,
  progress: (told) => { workers.take(told); drawWorkers(); },
  decision: (made) => { if (made.rebuild || made.rollback || made.declined) again(); },
  verdict: again, alarm: again, dead_letters: again, judgement: () => {},
};

function follow() {
  if (!state.run.live) return connection("done", "finished run");
  const source = new EventSource(`/api/stream?offset=${state.seen}`);
  let stopped = false;
  source.onopen = () => connection("live", "live");
  source.addEventListener("stopped", () => { stopped = true; });
  source.onerror = () => {
    connection("lost", stopped ? "the server has stopped; this is what came until then" : "connection lost, trying again");
    // A browser gives up where a proxy answers in the place of the page; the page does not.
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, RETRY_MS);
  };
  // Another log at the old address is another run.
  source.addEventListener("log", (event) => { if (event.data !== state.run.identity) location.reload(); });
  for (const [kind, take] of Object.entries(TAKE)) {
    source.addEventListener(kind, (event) => {
      const offset = Number(event.lastEventId);
      if (offset <= state.seen) return;
      state.seen = offset;
      document.documentElement.dataset.offset = offset;
      take(JSON.parse(event.data));
    });
  }
  return undefined;
}

function connection(kind, text) {
  $("connection").dataset.state = kind;
  $("connection").textContent = text;
}

function lastOf(column) {
  const one = state.panels.find((found) => found.drawn.includes(column));
  return one?.data[one.drawn.indexOf(column) + 1].findLast((value) => value != null) ?? null;
}

function tell() {
  const { run, layers } = state;
  const rebuilds = run.marks.filter((mark) => mark.kind === "rebuild" && mark.outcome === "promoted");
  const silent = workers.stale();
  const rate = workers.rateOf("evaluator");
  const shown = {
    "NE sparse": [plain(4)(lastOf("sparse.ne"))],
    "against dense": [percent(lastOf("sparse.relative_ce"))],
    "weights kept": [tables.kept(layers)],
    events: [number(run.events)],
    "events/s": [rate === null ? "–" : short(rate)],
    lag: [number(workers.lagOf("evaluator"))],
    "last rebuild": [rebuilds.length ? `${short(Math.max(run.events - rebuilds.at(-1).count, 0))} events ago` : "none yet"],
  };
  if (silent.length) shown.stale = [silent.map((worker) => worker.name).join(", "), "stale"];
  tables.showTiles(shown);
  tables.showScores(state.scores?.lifetimes ?? []);
  tables.showSegments(state.scores?.window);
}

// The clock goes on without any message.
let workersDrawn = 0;
function drawWorkers(atOnce = false) {
  if (!atOnce && performance.now() - workersDrawn < 900) return;
  workersDrawn = performance.now();
  workers.draw();
}

function sizes() {
  const found = state.run.sizes.map((size) => {
    const input = node("input", { type: "radio", name: "size", value: size, checked: size === state.size });
    input.addEventListener("change", () => { state.size = size; refresh(); });
    return node("label", {}, input, ` ${short(size)}`);
  });
  $("sizes").replaceChildren($("sizes").firstElementChild, ...found);
}

// The smallest windows of which there are not too many to tell apart.
function choose() {
  const { sizes: all, events } = state.run;
  state.size = all.find((size) => events / size <= 400) ?? all.at(-1) ?? null;
}

function pointAt(count) {
  for (const { plot } of state.panels) plot?.setCursor({ left: plot.valToPos(count, "x"), top: 0 });
}

function move(step) {
  const plot = state.panels[0]?.plot;
  const x = plot?.data[0] ?? [];
  if (!x.length) return;
  const at = (plot.cursor.idx ?? x.length) + step;
  pointAt(x[Math.min(Math.max(at, 0), x.length - 1)]);
}

function draw() {
  $("theme").textContent = theme.isDark() ? "◐ light" : "◐ dark";
  state.panels.forEach((one) => plots.draw(one, state.run, look));
  drawWorkers(true);
}

function switchTheme() {
  theme.toggle();
  draw();
}

const inPlot = (event) => event.target.classList?.contains("plot");
const KEYS = {
  ArrowLeft: () => move(-1),
  ArrowRight: () => move(1),
  t: switchTheme,
  0: () => look(null),
  w: () => {
    const { sizes: all } = state.run;
    if (all.length < 2) return;
    state.size = all[(all.indexOf(state.size) + 1) % all.length];
    sizes();
    refresh();
  },
};
const IN_PLOT = { Home: () => move(-Infinity), End: () => move(Infinity) };

function pressed(event) {
  if (["INPUT", "SELECT"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  const action = KEYS[event.key] ?? (inPlot(event) ? IN_PLOT[event.key] : undefined);
  if (!action) return;
  event.preventDefault();
  action();
}

async function begin() {
  theme.begin(draw);
  const [run, layers] = await Promise.all([get("/api/run"), get("/api/layers")]);
  Object.assign(state, { run, layers, seen: run.offset });
  await workers.load(run.live);
  $("about").textContent = Object.entries(run.about).map(([name, value]) => `${name} ${value}`).join(" · ");
  document.title = `resprout ${run.about.run ?? ""}`.trim();
  choose();
  state.panels = PANELS.map(build);
  const [sections, after] = [state.panels.map((one) => one.section), [tables.scores, tables.sparsity, tables.overlap].map((one) => one.section)];
  $("panels").append(...sections, ...after, workers.make(), tables.segments.section);
  sizes();
  tables.showLayers(layers);
  tables.showMarks(run.marks, pointAt);
  await refresh();
  draw();
  follow();
  if (run.live) setInterval(() => { drawWorkers(); tell(); }, 5000);
  document.documentElement.dataset.offset = state.seen;
  document.documentElement.dataset.ready = "true";
}

$("theme").addEventListener("click", switchTheme);
$("whole").addEventListener("click", () => look(null));
addEventListener("keydown", pressed);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  draw();
});
begin().catch((error) => connection("lost", error.message));
