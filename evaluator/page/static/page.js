// The live page: it draws what /api answers, and continues with /api/stream.
// It knows nothing that the `windows` log does not say.

import * as connection from "./connection.js";
import { pointAt } from "./cursor.js";
import * as keys from "./keys.js";
import * as lines from "./lines.js";
import * as live from "./live.js";
import { state } from "./state.js";
import * as tables from "./tables.js";
import * as theme from "./theme.js";
import { showNewest } from "./tiles.js";
import { drawPlots, offerSizes, show, showFitting, showGrafts, showWhole } from "./view.js";
import { $, get } from "./words.js";
import * as workers from "./workers.js";

const LOOK_MS = 5000;              // the clock continues without any message

function draw() {
  $("theme").textContent = theme.isDark() ? "◐ light" : "◐ dark";
  drawPlots();
  workers.draw(true);
}

function switchTheme() {
  theme.toggle();
  draw();
}

// Says which run this is, and makes its panels.
function make(run) {
  const { about } = run;
  $("about").textContent = Object.entries(about).map(([name, value]) => `${name} ${value}`).join(" · ");
  $("alarms").textContent = Object.entries(run.signs).map(([detector, sign]) => `${sign}\u00a0${detector.replaceAll("_", " ")}`).join(", ");
  document.title = `resprout ${about.run ?? ""}`.trim();
  state.panels = lines.make(run, (figure) => show({ figure }));
  const [sections, after] = [state.panels.map((one) => one.section), [tables.scores, tables.sparsity, tables.overlap].map((one) => one.section)];
  $("panels").append(...sections, ...after, workers.make(), tables.segments.section);
}

async function begin() {
  theme.begin(draw);
  const [run, layers] = await Promise.all([get("/api/run"), get("/api/layers")]);
  Object.assign(state, { run, layers });
  workers.setRun(run);
  await workers.load();
  make(run);
  offerSizes();
  tables.showLayers(layers, run);
  tables.showTimeline(run, pointAt);
  showGrafts();
  await showFitting({ figure: run.choice });
  draw();
  if (run.live) {
    live.goOn();
    setInterval(() => { workers.draw(); showNewest(); }, LOOK_MS);
  } else connection.show();
  document.documentElement.dataset.offset = run.offset;
  document.documentElement.dataset.ready = "true";
}

$("theme").addEventListener("click", switchTheme);
$("whole").addEventListener("click", showWhole);
keys.listen(switchTheme);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  draw();
});
begin().catch(connection.impossible);
