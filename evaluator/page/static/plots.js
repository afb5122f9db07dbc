// Plots over the count of events: lines, and beside them true drift, rebuilds, alarms and levels.

import { colour, css } from "./theme.js";
import { exact, label, modelOf, number, ticks, within } from "./words.js";

const SOLID = ["dense", "sparse"];
const FAINT = ["rejected", "failed", "unfinished"];
const UNDRAWN = ["open", "overruled"];
const SIGNS = { rebuild: "▼", rollback: "↶", alarm: "◇", declined: "·", dead_letters: "✕" };
export const ALARMS = {
  dense_loss: { sign: "◇", name: "dense loss" },
  relative_loss: { sign: "◆", name: "relative loss" },
  click_rate: { sign: "◈", name: "click rate" },
  input: { sign: "❖", name: "input" },
};
const LABELS = 100;                // pixels right of the plot, for the names at line ends
const ROW = 13;                    // pixels of a line of small text
const REBUILDS = 15;               // pixels over the plot for rebuilds; alarms stand above

function hatch(context, x, y, width, height) {
  const step = 7 * devicePixelRatio;
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.strokeStyle = css("--hatch");
  context.lineWidth = devicePixelRatio;
  context.beginPath();
  for (let at = x - height - ((x - height) % step); at < x + width; at += step) {
    context.moveTo(at, y + height);
    context.lineTo(at + height, y);
  }
  context.stroke();
  context.restore();
}

function underneath(plot, panel, run) {
  const { ctx: context, bbox: box } = plot;
  context.save();
  context.beginPath();
  context.rect(box.left, box.top, box.width, box.height);
  context.clip();
  for (const band of run.bands) {
    const left = plot.valToPos(band.begin, "x", true);
    const width = Math.max(plot.valToPos(band.end, "x", true) - left, 2 * devicePixelRatio);
    hatch(context, left, box.top, width, box.height);
  }
  const levels = panel.level == null ? [] : panel.band ? [panel.level, panel.level - panel.band, panel.level + panel.band] : [panel.level];
  context.strokeStyle = css("--muted");
  context.lineWidth = devicePixelRatio;
  for (const level of levels) {
    const y = plot.valToPos(level, "y", true);
    context.setLineDash(level === panel.level ? [] : [2 * devicePixelRatio, 4 * devicePixelRatio]);
    context.globalAlpha = 0.6;
    context.beginPath();
    context.moveTo(box.left, y);
    context.lineTo(box.left + box.width, y);
    context.stroke();
  }
  context.restore();
}

// Text that stays readable over lines.
function write(context, text, x, y) {
  context.lineWidth = 3 * devicePixelRatio;
  context.lineJoin = "round";
  context.strokeStyle = css("--ground");
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

function rebuilds(plot, context, run) {
  const { bbox: box } = plot;
  context.setLineDash([]);
  context.textAlign = "center";
  for (const mark of run.marks) {
    const x = plot.valToPos(Math.min(mark.count, run.events), "x", true);
    const drawn = ["rebuild", "rollback"].includes(mark.kind) && !UNDRAWN.includes(mark.outcome);
    if (!drawn || !isInside(x, box)) continue;
    context.globalAlpha = FAINT.includes(mark.outcome) ? 0.4 : 1;
    context.strokeStyle = context.fillStyle = css("--muted");
    context.lineWidth = devicePixelRatio;
    context.beginPath();
    context.moveTo(x, box.top);
    context.lineTo(x, box.top + box.height);
    context.stroke();
    context.fillText(SIGNS[mark.kind], x, box.top - 3 * devicePixelRatio);
  }
  context.globalAlpha = 1;
}

// Alarms stand in a row for each detector, with its name at the end; those that would run into
// each other stand as one with their number.
function alarms(plot, panel, context, run) {
  const { bbox: box } = plot;
  context.textAlign = "left";
  panel.alarms.forEach((detector, i) => {
    const { sign, name } = ALARMS[detector];
    const half = context.measureText(sign).width / 2;
    const y = box.top - (REBUILDS + ROW * (panel.alarms.length - 1 - i)) * devicePixelRatio;
    const at = run.marks.filter((mark) => mark.kind === "alarm" && mark.outcome === detector)
      .map((mark) => plot.valToPos(mark.count, "x", true)).filter((x) => isInside(x, box)).sort((a, b) => a - b);
    context.fillStyle = css("--muted");
    for (const { text, left } of together(at, half, sign, context)) context.fillText(text, left, y);
    context.fillStyle = css("--ink");
    context.fillText(`${sign} ${name}`, box.left + box.width + 9 * devicePixelRatio, y);
  });
}

function together(positions, half, sign, context) {
  const found = [];
  for (const x of positions) {
    const last = found.at(-1);
    if (!last || x - half > last.left + context.measureText(last.text).width) found.push({ many: 1, left: x - half, text: sign });
    else Object.assign(last, { many: last.many + 1, text: `${sign}${last.many + 1}` });
  }
  return found;
}

const isInside = (x, { left, width }) => x >= left - 1 && x <= left + width + 1;

// Names at line ends, moved apart where they would collide, and never out of the plot.
function ends(plot, panel, context) {
  const { bbox: box } = plot;
  const height = ROW * devicePixelRatio;
  const found = panel.drawn.map((column, i) => {
    if (isEdge(column)) return null;
    const value = plot.data[i + 1].findLast((one) => one != null);
    return value == null ? null : { column, y: plot.valToPos(value, "y", true) };
  }).filter(Boolean).sort((a, b) => a.y - b.y);
  let lowest = box.top + height / 2;
  for (const end of found) {
    end.y = Math.max(end.y, lowest);
    lowest = end.y + height;
  }
  let highest = box.top + box.height - height / 2;
  for (const end of found.toReversed()) {
    end.y = Math.min(end.y, highest);
    highest = end.y - height;
  }
  context.textAlign = "left";
  context.textBaseline = "middle";
  const left = box.left + box.width + 5 * devicePixelRatio;
  for (const end of found) {
    const model = modelOf(end.column);
    context.strokeStyle = colour(model);
    context.lineWidth = 2 * devicePixelRatio;
    context.setLineDash(dash(panel, end.column).map((one) => one * 0.6 * devicePixelRatio));
    context.beginPath();
    context.moveTo(left, end.y);
    context.lineTo(left + 12 * devicePixelRatio, end.y);
    context.stroke();
    context.fillStyle = css("--ink");
    context.fillText(label(end.column), left + 16 * devicePixelRatio, end.y);
  }
  context.setLineDash([]);
}

function worst(plot, panel, context) {
  const i = panel.drawn.findIndex((column) => modelOf(column) === panel.worst);
  const values = i < 0 ? [] : plot.data[i + 1];
  let at = -1;
  values.forEach((value, j) => { if (value != null && (at < 0 || value > values[at])) at = j; });
  if (at < 0 || !(values[at] > 0)) return;
  const { bbox: box } = plot;
  const text = `worst ${panel.format(values[at])}`;
  const half = context.measureText(text).width / 2;
  const x = Math.min(Math.max(plot.valToPos(plot.data[0][at], "x", true), box.left + half), box.left + box.width - half);
  context.fillStyle = css("--ink");
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  write(context, text, x, plot.valToPos(values[at], "y", true) - 5 * devicePixelRatio);
}

function above(plot, panel, run) {
  const { ctx: context } = plot;
  context.save();
  context.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  context.textBaseline = "alphabetic";
  rebuilds(plot, context, run);
  alarms(plot, panel, context, run);
  ends(plot, panel, context);
  if (panel.worst) worst(plot, panel, context);
  context.restore();
}

function range(panel) {
  return (_, least, greatest) => {
    if (least == null) return panel.band ? [-2 * panel.band, 2 * panel.band] : [0, 1];
    let [low, high] = [least, greatest];
    if (panel.band) [low, high] = [Math.min(low, -1.2 * panel.band), Math.max(high, 1.2 * panel.band)];
    else if (panel.level != null && high > panel.level - 0.06 && low < panel.level + 0.06) [low, high] = [Math.min(low, panel.level), Math.max(high, panel.level)];
    const pad = (high - low) * 0.07 || Math.abs(high) * 0.05 || 0.01;
    return [low - pad, high + pad];
  };
}

// The edges of an interval are not drawn as lines.
const isEdge = (column) => /\.(low|high)$/.test(column);

// The only line of a panel needs nothing to be told apart by.
function dash({ drawn }, column) {
  const model = modelOf(column);
  if (SOLID.includes(model) || drawn.length === 1) return [];
  return model === "" ? [2, 3] : [6, 4];
}

function intervals({ drawn }) {
  return drawn.filter((column) => column.endsWith(".high")).map((high) => ({
    series: [drawn.indexOf(high) + 1, drawn.indexOf(high.replace(/high$/, "low")) + 1], fill: `${colour(modelOf(high))}2e`,
  }));
}

// The whole run, or the stretch that is looked at closely: the same in all panels.
const spanned = (panel, run) => panel.stretch ?? [0, Math.max(run.events, 1)];

function options(panel, run, chosen) {
  const axis = { stroke: css("--muted"), grid: { stroke: css("--faint"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  return {
    width: panel.host.clientWidth, height: panel.height, padding: [REBUILDS + ROW * Math.max(panel.alarms.length, 1), LABELS, 0, 0],
    scales: { x: { time: false, range: () => spanned(panel, run) }, y: { range: range(panel) } },
    axes: [
      { ...axis, values: (_, values) => values.map(exact), size: 24, gap: 4 },
      { ...axis, values: (_, values) => values.map(ticks(panel.format)), size: 56 },
    ],
    series: [{}, ...panel.drawn.map((column) => ({
      stroke: isEdge(column) ? "transparent" : colour(modelOf(column)), width: 1.6, spanGaps: false, points: { show: false },
      dash: dash(panel, column),
    }))],
    bands: intervals(panel),
    cursor: { y: false, sync: { key: "events" }, drag: { x: true, y: false, setScale: false } },
    legend: { show: false },
    hooks: {
      drawClear: [(plot) => underneath(plot, panel, run)],
      draw: [(plot) => above(plot, panel, run)],
      setCursor: [() => read(panel)],
      setSelect: [(plot) => {
        if (plot.select.width < 4) return;
        const found = [plot.select.left, plot.select.left + plot.select.width].map((at) => plot.posToVal(at, "x"));
        plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        chosen(found);
      }],
    },
  };
}

export const signOf = (mark) => (mark.kind === "alarm" && ALARMS[mark.outcome]?.sign) || SIGNS[mark.kind];

// Draws a panel anew; `chosen` is told of a stretch that somebody dragged over.
export function draw(panel, run, chosen) {
  panel.plot?.destroy();
  panel.plot = new uPlot(options(panel, run, chosen), panel.data, panel.host);
  read(panel);
}

// Says in words what stands under the cursor, or at the end.
export function read(panel) {
  const [x, ...columns] = panel.data;
  panel.host.dataset.windows = x.length;
  panel.summary.textContent = x.length ? (lacking(panel, columns) ?? said(panel, x, columns)) : "no whole window yet";
}

const lacking = (panel, columns) => (columns.some((values) => values.some((one) => one != null)) ? null : panel.none);

function said(panel, x, columns) {
  const at = Math.min(panel.plot?.cursor.idx ?? x.length - 1, x.length - 1);
  const value = (column) => columns[panel.drawn.indexOf(column)]?.[at];
  const name = (column) => (panel.drawn.length > 1 || modelOf(column) ? `${label(column)} ` : "");
  const known = panel.drawn.filter((column) => !isEdge(column) && value(column) != null).map((column) => {
    const [mean, low, high] = ["", ".low", ".high"].map((edge) => value(`${column}${edge}`));
    return `${name(column)}${within({ mean, low, high }, panel.format)}`;
  });
  return `${known.join(", ") || "nothing"} at ${number(x[at])}`;
}
