// The live page: it draws what /api answers, and goes on with /api/stream.
// It knows nothing that the `windows` log does not say.

import * as lines from "./lines.js";
import * as plots from "./plots.js";
import { follow } from "./stream.js";
import * as tables from "./tables.js";
import * as theme from "./theme.js";
import * as workers from "./workers.js";
import { $, arrange, get, node, number, percent, plain, short } from "./words.js";

const MOST_LIVE = 1600;            // points a plot may grow to before it is asked for anew
const MOST_NEWEST = 100;           // windows that may come while an answer is under way
const AGAIN_MS = 300;
const state = {
  run: null, layers: null, panels: [],
  newest: [],                      // the last windows that came by the stream
  last: new Map(),                 // the last whole window of each size
  lifetimes: new Map(),            // scores so far, by where they begin
  view: { size: null, stretch: null, figure: lines.FIRST },
};
const link = { isOpen: null, end: null, failure: "" };
let wanted = { ...state.view };    // what was chosen last, whether or not it has come

// What is looked at changes when all of it has come; where that fails, it stays. An answer that
// comes after something else was chosen is dropped.
let asking = 0;
async function show(change = {}, anew = false) {
  Object.assign(wanted, change);
  asking += 1;
  const [mine, view] = [asking, { ...wanted }];
  choose(view);
  const scores = view.size === null ? null : get(`/api/scores?size=${view.size}`);
  const found = await Promise.all([scores, ...state.panels.map((one) => lines.load(one, view, state.run, anew))]).catch(failed);
  if (mine !== asking) return;
  if (found instanceof Error) {
    wanted = { ...state.view };
    choose(state.view);
    if (Object.keys(change).length) lost(`What was asked for has not come: ${found.message}. The page shows what it had.`);
    return;
  }
  lost("");
  commit(view, ...found);
}

const failed = (error) => error;

function commit(view, scores, ...found) {
  state.view = view;
  if (scores?.window) keep(scores.window);
  scores?.lifetimes.forEach(live);
  state.panels.forEach((one, i) => {
    Object.assign(one, found[i]);
    one.link.href = one.csv;
    state.newest.forEach((window) => lines.append(one, window));
    if (found[i].drawn) plots.draw(one, state.run, look);
  });
  tables.link(view.size);
  tell();
}

// Shows what is chosen.
function choose({ size, stretch, figure }) {
  $("whole").hidden = !stretch;
  for (const input of $("sizes").querySelectorAll("input")) input.checked = Number(input.value) === size;
  for (const { select } of state.panels) if (select) select.value = figure;
}

// All plots tell of a stretch that was dragged over in one.
let looking = null;
function look([begin, end]) {
  clearTimeout(looking);
  looking = setTimeout(() => show({ stretch: [Math.max(begin, 0), Math.max(end, 0)] }));
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
  if (window.size === Math.min(...run.sizes) && window.drift.length) lengthen(window);
  state.newest = [...state.newest, window].slice(-MOST_NEWEST);
  later();
  if (window.partial) return;
  keep(window);
  if (!run.sizes.includes(window.size) || !run.models.length) again();
  state.panels.forEach((one) => lines.append(one, window));
  if (state.panels[0].data[0].length > MOST_LIVE) show({}, true);
}

function keep(window) {
  if (!(state.last.get(window.size)?.end >= window.end)) state.last.set(window.size, window);
}

function live(lifetime) {
  if (!(state.lifetimes.get(lifetime.begin)?.end >= lifetime.end)) state.lifetimes.set(lifetime.begin, lifetime);
  later();
}

function lengthen({ begin, end, drift }) {
  const last = state.run.bands.at(-1);
  if (last && last.end >= begin && `${last.drift}` === `${drift}`) last.end = Math.max(last.end, end);
  else state.run.bands.push({ begin, end, drift });
}

// What is told of the run in words is the server's to say; where it is away, so is the stream,
// and it is asked for again when that comes back.
let waiting = null;
function again() {
  if (link.end) return;
  waiting ??= setTimeout(async () => {
    waiting = null;
    const run = await get("/api/run").catch(failed);
    if (!(run instanceof Error) && !link.end && run.offset >= state.run.offset) adopt(run);
  }, AGAIN_MS);
}

function adopt(run) {
  const isNew = `${run.sizes}/${run.models}` !== `${state.run.sizes}/${state.run.models}`;
  Object.assign(state.run, run);
  workers.settle(state.run.state === "live");
  sizes();
  if (isNew) show(run.sizes.includes(wanted.size) ? {} : { size: fitting(run) });
  tables.showMarks(run.marks, pointAt);
  connection();
  drawWorkers();
  later();
}

const TAKE = {
  window: grow,
  lifetime: live,
  stability: (told) => { state.panels.forEach((one) => lines.amend(one, told)); later(); },
  progress: (told) => { workers.take(told); drawWorkers(); },
  decision: (made) => { if (made.rebuild || made.rollback || made.declined) again(); },
  verdict: (ended) => { tables.addMask(state.layers, ended); tables.showLayers(state.layers, state.run); again(); },
  alarm: again,
  dead_letters: again,
  judgement: () => {},
};

const STREAM = {
  // Another log at the old address is another run.
  log: (identity) => { if (identity !== state.run.identity) location.reload(); },
  opened: () => {
    const isBack = link.isOpen === false;
    Object.assign(link, { isOpen: true, end: null, failure: "" });
    connection();
    if (isBack) again();
  },
  lost: () => {
    link.isOpen = false;
    connection();
  },
  take: (kind, message, offset) => {
    document.documentElement.dataset.offset = offset;
    TAKE[kind](message);
  },
  ended: (run) => {
    link.end = run;
    clearTimeout(waiting);
    waiting = null;
    adopt(run);
    drawWorkers(true);
  },
};

function lost(failure) {
  link.failure = failure;
  connection();
}

function standing({ live: isLive, state: how }) {
  const cut = link.failure ? ", connection lost" : "";
  if (how === "finished") return [cut ? "lost" : "done", `finished run${cut}`];
  if (link.end) return ["lost", `stopped${cut}`];
  if (isLive && link.isOpen === null) return ["", "connecting"];
  if (cut || (isLive && !link.isOpen)) return ["lost", isLive ? "connection lost, trying again" : "connection lost"];
  return how === "stopped" ? ["done", "stopped, or still under way"] : ["live", "live"];
}

function connection() {
  const [kind, text] = standing(state.run);
  $("connection").dataset.state = kind;
  if ($("connection").textContent !== text) $("connection").textContent = text;
  const { run } = state.run.about;
  const ended = link.end && [
    link.end.state === "finished" ? "The run has ended;" : "The server has stopped before the run was done;",
    "what came until then stays here. resprout evaluate --replay DIR shows all of it again,",
    `where DIR is the folder of the run${run ? `, ${run}` : ""}.`,
  ].join(" ");
  const notice = [link.failure, ended].filter(Boolean).join(" ");
  $("notice").hidden = !notice;
  if ($("notice").textContent !== notice) $("notice").textContent = notice;
}

function tell() {
  const { run, layers } = state;
  const window = state.last.get(state.view.size);
  const newest = (column) => (window ? lines.figure(window, column) : null);
  const rebuilds = run.marks.filter((mark) => mark.kind === "rebuild" && mark.outcome === "promoted");
  const silent = workers.stale();
  const rate = workers.rateOf("evaluator");
  const shown = {
    "NE sparse": [plain(4)(newest("sparse.ne"))],
    "against dense": [percent(newest("sparse.relative_ce"))],
    "weights kept": [tables.kept(layers)],
    events: [number(run.events)],
    "events/s": [rate === null ? "–" : short(rate)],
    lag: [number(workers.lagOf("evaluator"))],
    "last rebuild": [rebuilds.length ? `${short(Math.max(run.events - rebuilds.at(-1).count, 0))} events ago` : "none yet"],
  };
  if (silent.length) shown.stale = [silent.map((worker) => worker.name).join(", "), "stale"];
  tables.showTiles(shown);
  tables.showScores([...state.lifetimes.values()]);
  tables.showSegments(window);
}

// The clock goes on without any message.
let workersDrawn = 0;
function drawWorkers(atOnce = false) {
  if (!atOnce && performance.now() - workersDrawn < 900) return;
  workersDrawn = performance.now();
  workers.draw();
}

const offered = new Map();
function sizes() {
  for (const size of state.run.sizes) {
    if (offered.has(size)) continue;
    const input = node("input", { type: "radio", name: "size", value: size });
    input.addEventListener("change", () => show({ size }));
    offered.set(size, node("label", {}, input, ` ${short(size)}`));
  }
  arrange($("sizes"), [$("sizes").firstElementChild, ...state.run.sizes.map((size) => offered.get(size))]);
  choose(wanted);
}

// The smallest windows of which there are not too many to tell apart.
const fitting = ({ sizes: all, events }) => all.find((size) => events / size <= 400) ?? all.at(-1) ?? null;

// Where a stretch is looked at closely, it moves to what lies outside.
async function pointAt(count) {
  const { stretch } = state.view;
  const at = Math.min(count, state.run.events);
  if (stretch && !(stretch[0] <= at && at <= stretch[1])) {
    const width = stretch[1] - stretch[0];
    const begin = Math.max(Math.min(at - width / 2, state.run.events - width), 0);
    await show({ stretch: [begin, begin + width] });
  }
  for (const { plot } of state.panels) plot?.setCursor({ left: plot.valToPos(at, "x"), top: 0 });
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
  0: () => show({ stretch: null }),
  w: () => {
    const { sizes: all } = state.run;
    if (all.length > 1) show({ size: all[(all.indexOf(wanted.size) + 1) % all.length] });
  },
};
const IN_PLOT = { Home: () => move(-Infinity), End: () => move(Infinity) };
// What these take themselves; a list of choices is searched by letters.
const OWN = { SELECT: () => true, INPUT: (key) => key === " " || key.startsWith("Arrow") };

function pressed(event) {
  if (OWN[event.target.tagName]?.(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
  const action = KEYS[event.key] ?? (inPlot(event) ? IN_PLOT[event.key] : undefined);
  if (!action) return;
  event.preventDefault();
  action();
}

async function begin() {
  theme.begin(draw);
  const [run, layers] = await Promise.all([get("/api/run"), get("/api/layers")]);
  Object.assign(state, { run, layers });
  await workers.load(run.state === "live");
  $("about").textContent = Object.entries(run.about).map(([name, value]) => `${name} ${value}`).join(" · ");
  $("alarms").textContent = Object.values(plots.ALARMS).map(({ sign, name }) => `${sign}\u00a0${name}`).join(", ");
  document.title = `resprout ${run.about.run ?? ""}`.trim();
  state.panels = lines.make((figure) => show({ figure }));
  const [sections, after] = [state.panels.map((one) => one.section), [tables.scores, tables.sparsity, tables.overlap].map((one) => one.section)];
  $("panels").append(...sections, ...after, workers.make(), tables.segments.section);
  sizes();
  tables.showLayers(layers, run);
  tables.showMarks(run.marks, pointAt);
  await show({ size: fitting(run) });
  draw();
  if (run.live) {
    follow(run.offset, Object.keys(TAKE), STREAM);
    setInterval(() => { drawWorkers(); tell(); }, 5000);
  } else connection();
  document.documentElement.dataset.offset = run.offset;
  document.documentElement.dataset.ready = "true";
}

$("theme").addEventListener("click", switchTheme);
$("whole").addEventListener("click", () => show({ stretch: null }));
addEventListener("keydown", pressed);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  draw();
});
begin().catch((error) => {
  $("connection").dataset.state = "lost";
  $("connection").textContent = error.message;
});
