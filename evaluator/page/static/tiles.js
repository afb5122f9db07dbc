// What the page shows at a glance, of the run as it is now: the tiles, and the tables that go with
// them.

import { figure } from "./lines.js";
import { state } from "./state.js";
import * as tables from "./tables.js";
import { $, cell, node, number, short, write } from "./words.js";
import * as workers from "./workers.js";

function fill(shown) {
  $("tiles").replaceChildren(...Object.entries(shown).map(([name, [value, badge]]) =>
    node("div", {}, cell("dt", name), cell("dd", value, { className: badge ?? "" }))));
}

function scores(run, window) {
  const shown = run.models.filter(({ role }) => role === "served").flatMap((model) =>
    tables.metricsOf(run).filter(({ view }) => view === "main").map((metric) => [
      `${model.label} ${metric.label}`, [write(metric.format, window ? figure(window, `${model.name}.${metric.name}`) : null)],
    ]));
  return Object.fromEntries(shown);
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
    events: [number(run.events)],
    "events/s": [rate === null ? "–" : short(rate)],
    lag: [number(workers.lagOf("evaluator"))],
    "last rebuild": [rebuilds.length ? `${short(Math.max(run.events - rebuilds.at(-1).count, 0))} events ago` : "none yet"],
  };
  if (silent.length) shown.stale = [silent.map((worker) => worker.name).join(", "), "stale"];
  fill(shown);
  tables.showScores([...state.lifetimes.values()], run);
  tables.showSegments(window, run);
}
