// A run that is under way: what each message of its log changes on the page.

import * as connection from "./connection.js";
import { pointAt } from "./cursor.js";
import * as lines from "./lines.js";
import * as plots from "./plots.js";
import { keepLifetime, keepWindow, state } from "./state.js";
import { follow } from "./stream.js";
import * as tables from "./tables.js";
import { showNewest } from "./tiles.js";
import { offerSizes, show, showFitting, showGrafts } from "./view.js";
import { get } from "./words.js";
import * as workers from "./workers.js";

const MOST_LIVE = 1600;            // points a plot may grow to before it is asked for anew
const MOST_NEWEST = 100;           // windows that may come while an answer is under way
const AGAIN_MS = 300;

let drawing = false;
function later() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    for (const one of state.panels) { one.plot?.setData(one.data); plots.read(one, state.run); }
    showNewest();
  });
}

function grow(window) {
  const { run } = state;
  run.events = Math.max(run.events, window.end);
  if (window.size === Math.min(...run.sizes) && window.drift.length) lengthen(window);
  state.newest = [...state.newest, window].slice(-MOST_NEWEST);
  later();
  if (window.partial) return;
  keepWindow(window);
  if (!run.sizes.includes(window.size) || isAwaited(window, run)) again();
  state.panels.forEach((one) => lines.append(one, window));
  if (state.panels[0].data[0].length > MOST_LIVE) show({}, true);
}

// What a rebuild under way costs, and the threshold, follow from windows that have closed.
function isAwaited({ size }, { sizes, timeline, start, timetable }) {
  if (start === null) return false;
  const isOpen = timeline.some(({ kind, outcome }) => kind === "rebuild" && outcome === "open");
  return (isOpen && size === Math.min(...sizes)) || size === timetable?.window_events;
}

function lengthen({ begin, end, drift }) {
  const last = state.run.bands.at(-1);
  if (last && last.end >= begin && `${last.drift}` === `${drift}`) last.end = Math.max(last.end, end);
  else state.run.bands.push({ begin, end, drift });
}

// What is said of the run in words is the server's to say; where it is away, so is the stream,
// and it is asked for again when that comes back.
let waiting = null;
function again() {
  if (connection.hasEnded()) return;
  waiting ??= setTimeout(async () => {
    waiting = null;
    const run = await get("/api/run").catch(() => null);
    if (run && !connection.hasEnded() && run.offset >= state.run.offset) adopt(run);
  }, AGAIN_MS);
}

function adopt(run) {
  const shape = ({ sizes, models, start }) => JSON.stringify([sizes, models, start]);
  const isNew = shape(run) !== shape(state.run);
  Object.assign(state.run, run);
  workers.setRun(state.run);
  offerSizes();
  showGrafts();
  if (isNew) showFitting();
  tables.showTimeline(run, pointAt);
  connection.show();
  workers.draw();
  later();
}

function addMask(verdict) {
  tables.addMask(state.layers, verdict);
  tables.showLayers(state.layers, state.run);
  again();
}

const sum = (counts) => Object.values(counts).reduce((total, one) => total + one, 0);

function addGraft({ model, count, kept, entered }) {
  const { grafts, models } = state.run;
  const isServed = models.some(({ name, role }) => name === model && role === "served");
  if (!isServed || count <= (grafts.counts.at(-1) ?? -1)) return;
  grafts.number += 1;
  grafts.counts.push(count);
  grafts.moved.push(sum(entered) / sum(kept));
  showGrafts();
  later();
}

const TAKE = {
  window: grow,
  lifetime: (message) => { keepLifetime(message); later(); },
  stability: (message) => { state.panels.forEach((one) => lines.amend(one, message)); later(); },
  progress: (message) => { workers.take(message); workers.draw(); },
  decision: (made) => { if (made.rebuild || made.rollback || made.declined) again(); },
  verdict: addMask,
  mask_change: addGraft,
  alarm: again,
  baselines: again,
  dead_letters: again,
  judgement: () => {},
};

const STREAM = {
  // Another log at the old address is another run.
  log: (identity) => { if (identity !== state.run.identity) location.reload(); },
  opened: () => { if (connection.opened()) again(); },
  lost: connection.broken,
  // Every message of the log, once, in its order.
  take: (kind, message, offset) => {
    document.documentElement.dataset.offset = offset;
    TAKE[kind](message);
  },
  ended: (run) => {
    connection.ended(run);
    clearTimeout(waiting);
    waiting = null;
    adopt(run);
    workers.draw(true);
  },
};

export const goOn = () => follow(state.run.offset, Object.keys(TAKE), STREAM);
