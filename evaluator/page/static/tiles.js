// What the page tells at a glance, of the run as it stands now: the tiles, and the tables that go
// with them.

import { figure } from "./lines.js";
import { state } from "./state.js";
import * as tables from "./tables.js";
import { $, cell, node, number, percent, plain, short } from "./words.js";
import * as workers from "./workers.js";

function fill(shown) {
  $("tiles").replaceChildren(...Object.entries(shown).map(([name, [value, badge]]) =>
    node("div", {}, cell("dt", name), cell("dd", value, { className: badge ?? "" }))));
}

export function tell() {
  const { run, layers } = state;
  const window = state.last.get(state.view.size);
  const newest = (column) => (window ? figure(window, column) : null);
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
  fill(shown);
  tables.showScores([...state.lifetimes.values()]);
  tables.showSegments(window);
}
