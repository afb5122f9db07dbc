// What the page shows at a glance, of the run as it is now: the tiles, and the tables that go with
// them.

import { figure } from "./lines.js";
import { state } from "./state.js";
import * as tables from "./tables.js";
import { $, bytes, cell, node, number, seconds, short, write } from "./words.js";
import * as workers from "./workers.js";

function fill(shown) {
  $("tiles").replaceChildren(...Object.entries(shown).map(([name, [value, badge, title]]) =>
    node("div", { title: title ?? "" }, cell("dt", name), cell("dd", value, { className: badge ?? "" }))));
}

function scores(run, window) {
  const shown = run.models.filter(({ role }) => role === "served").flatMap((model) =>
    tables.metricsOf(run).filter(({ view }) => view === "main").map((metric) => [
      `${model.label} ${metric.label}`, [write(metric.format, window ? figure(window, `${model.name}.${metric.name}`) : null)],
    ]));
  return Object.fromEntries(shown);
}

const BYTES = 4;                   // of a weight
const SAVED = "Of the fully connected layers; embeddings are not pruned. Bytes: the weights that are kept, and a bit for each that says which; an event takes a multiply-add for each weight, and a program saves those only where it is made for sparse weights.";

// What the mask in force saves, of the layers that are pruned.
function saved({ weights, kept_weights: kept }) {
  if (!weights) return ["–"];
  const [before, after] = [BYTES * weights, BYTES * kept + weights / 8];
  return [`${short(weights - kept)} of ${short(weights)} weights and multiply-adds an event, ${bytes(before - after)} of ${bytes(before)}`, "", SAVED];
}

// What the run is doing, how far that is as a share, and when the sparse model comes.
function phaseOf(run) {
  const { timetable, start, events, timeline, models } = run;
  const labelOf = (role, otherwise) => models.find((model) => model.role === role)?.label ?? otherwise;
  const [root, served] = [labelOf("root", "dense"), labelOf("served", "sparse")];
  const open = timeline.findLast(({ kind, outcome }) => kind === "rebuild" && outcome === "open");
  const first = timetable && timetable.first_mask_events + timetable.rebuild_events;
  const isOver = run.state === "finished";
  if (start === null && isOver) {
    const due = timetable ? `: it is made after ${number(timetable.first_mask_events)} events and takes over at ${number(first)}` : "";
    return events ? { text: `${number(events)} events are not enough for a first mask${due}.` } : null;
  }
  const when = (count) => {
    const rate = run.state === "live" && workers.rateOf("evaluator");
    return rate && count > events ? `${number(count)}, in about ${seconds((count - events) / rate)}` : number(count);
  };
  if (start === null && !open && timetable) {
    const due = timetable.first_mask_events;
    const done = Math.min(events, due);
    return { share: done / due, text: `Warm-up: ${root} learns alone, ${number(done)} of ${number(due)} events. Then the first mask is made, and ${served} takes over at ${when(first)}.` };
  }
  if (!open || isOver) return null;
  const took = open.until - open.begin;
  const done = Math.max(Math.min(events - open.begin, took), 0);
  const name = start === null ? "First mask under way" : open.title.replace(/ under way.*/, " under way");
  const then = start === null ? `${served} takes over` : "the new mask takes over if it is better";
  const gap = open.gap == null ? "" : ` Meanwhile ${served} loses ${write("+.2%", open.gap)} to ${root}.`;
  return { share: done / took, text: `${name}: ${number(done)} of ${number(took)} events; ${then} at ${when(open.until)}.${gap}` };
}

function showPhase(run) {
  const phase = phaseOf(run);
  $("phase").hidden = !phase;
  $("phase-text").textContent = phase?.text ?? "";
  $("phase-done").hidden = phase?.share == null;
  $("phase-done").value = phase?.share ?? 0;
}

function showWarnings({ warnings }) {
  $("warnings").hidden = !warnings.length;
  if ($("warnings").dataset.shown === `${warnings}`) return;
  $("warnings").dataset.shown = `${warnings}`;
  $("warnings").replaceChildren(...warnings.map((text) => cell("li", text)));
}

export function showNewest() {
  const { run, layers } = state;
  const window = state.last.get(state.view.size);
  const rebuilds = run.timeline.filter((entry) => entry.kind === "rebuild" && entry.outcome === "promoted");
  const silent = workers.stale();
  const rate = workers.rateOf("evaluator");
  const shown = {
    ...scores(run, window),
    "weights kept": [tables.kept(layers)],
    saved: saved(layers),
    events: [number(run.events)],
    "events/s": [rate === null ? "–" : short(rate)],
    lag: [number(workers.lagOf("evaluator"))],
    "last rebuild": [rebuilds.length ? `${short(Math.max(run.events - rebuilds.at(-1).count, 0))} events ago` : "none yet"],
  };
  const { grafts } = run;
  if (grafts.number) shown.grafts = [`${number(grafts.number)}, the last at ${number(grafts.counts.at(-1))}`];
  if (silent.length) shown.stale = [silent.map((worker) => worker.name).join(", "), "stale"];
  fill(shown);
  showPhase(run);
  showWarnings(run);
  tables.showScores([...state.lifetimes.values()], run);
  tables.showSegments(window, run);
}
