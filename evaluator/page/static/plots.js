// Plots over the count of events: lines, and beside them true drift, rebuilds, alarms and levels.

import { colour, css } from "./theme.js";
import { exact, number, ticks, write as written, writeWithin } from "./words.js";

const FAINT = ["rejected", "failed", "unfinished"];
const UNDRAWN = ["open", "superseded"];
const SIGNS = { rebuild: "▼", rollback: "↶", alarm: "◇", declined: "·", dead_letters: "✕" };
const LABELS = 100;                // pixels right of the plot, for the names at line ends
const ROW = 13;                    // pixels of a line of small text
const REBUILDS = 15;               // pixels over the plot for rebuilds; alarms are above
const WIDTH = 1.6;                 // pixels of a line

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
  for (const drift of run.bands) {
    const left = plot.valToPos(drift.begin, "x", true);
    const width = Math.max(plot.valToPos(drift.end, "x", true) - left, 2 * devicePixelRatio);
    hatch(context, left, box.top, width, box.height);
  }
  const { level: middle, band } = panel.spec;
  const levels = middle == null ? [] : band ? [middle, middle - band, middle + band] : [middle];
  context.strokeStyle = css("--muted");
  context.lineWidth = devicePixelRatio;
  for (const level of levels) {
    const y = plot.valToPos(level, "y", true);
    context.setLineDash(level === middle ? [] : [2 * devicePixelRatio, 4 * devicePixelRatio]);
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
  for (const entry of run.timeline) {
    const x = plot.valToPos(Math.min(entry.count, run.events), "x", true);
    const drawn = ["rebuild", "rollback"].includes(entry.kind) && !UNDRAWN.includes(entry.outcome);
    if (!drawn || !isInside(x, box)) continue;
    context.globalAlpha = FAINT.includes(entry.outcome) ? 0.4 : 1;
    context.strokeStyle = context.fillStyle = css("--muted");
    context.lineWidth = devicePixelRatio;
    context.beginPath();
    context.moveTo(x, box.top);
    context.lineTo(x, box.top + box.height);
    context.stroke();
    context.fillText(SIGNS[entry.kind], x, box.top - 3 * devicePixelRatio);
  }
  context.globalAlpha = 1;
}

// Alarms are in a row for each detector, with its name at the end; those that would run into
// each other are one with their number.
function alarms(plot, panel, context, run) {
  const { bbox: box } = plot;
  context.textAlign = "left";
  panel.spec.alarms.forEach((detector, i) => {
    const [sign, label] = [run.signs[detector], detector.replaceAll("_", " ")];
    const half = context.measureText(sign).width / 2;
    const y = box.top - (REBUILDS + ROW * (panel.spec.alarms.length - 1 - i)) * devicePixelRatio;
    const at = run.timeline.filter((entry) => entry.kind === "alarm" && entry.outcome === detector)
      .map((entry) => plot.valToPos(entry.count, "x", true)).filter((x) => isInside(x, box)).sort((a, b) => a - b);
    context.fillStyle = css("--muted");
    for (const { text, left } of together(at, half, sign, context)) context.fillText(text, left, y);
    context.fillStyle = css("--ink");
    context.fillText(`${sign} ${label}`, box.left + box.width + 9 * devicePixelRatio, y);
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
    const line = lineOf(panel, column);
    const value = plot.data[i + 1].findLast((one) => one != null);
    return !line || value == null ? null : { line, y: plot.valToPos(value, "y", true) };
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
    context.strokeStyle = colour(end.line.colour);
    context.lineWidth = 2 * devicePixelRatio;
    context.setLineDash(dash(panel, end.line).map((one) => one * 0.6 * devicePixelRatio));
    context.beginPath();
    context.moveTo(left, end.y);
    context.lineTo(left + 12 * devicePixelRatio, end.y);
    context.stroke();
    context.fillStyle = css("--ink");
    context.fillText(end.line.label, left + 16 * devicePixelRatio, end.y);
  }
  context.setLineDash([]);
}

function worst(plot, panel, context) {
  const i = panel.drawn.indexOf(panel.spec.highlight);
  const values = i < 0 ? [] : plot.data[i + 1];
  let at = -1;
  values.forEach((value, j) => { if (value != null && (at < 0 || value > values[at])) at = j; });
  if (at < 0 || !(values[at] > 0)) return;
  const { bbox: box } = plot;
  const text = `worst ${written(panel.spec.format, values[at])}`;
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
  if (panel.spec.highlight) worst(plot, panel, context);
  context.restore();
}

function range(panel) {
  return (_, least, greatest) => {
    const { level, band } = panel.spec;
    if (least == null) return band ? [-2 * band, 2 * band] : [0, 1];
    let [low, high] = [least, greatest];
    if (band) [low, high] = [Math.min(low, -1.2 * band), Math.max(high, 1.2 * band)];
    else if (level != null && high > level - 0.06 && low < level + 0.06) [low, high] = [Math.min(low, level), Math.max(high, level)];
    const pad = (high - low) * 0.07 || Math.abs(high) * 0.05 || 0.01;
    return [low - pad, high + pad];
  };
}

// The bounds of an interval are not drawn as lines.
const lineOf = ({ spec }, column) => spec.lines.find((line) => line.column === column);

// The only line of a panel needs no dash: there is no other.
const dash = ({ spec }, line) => (spec.lines.length === 1 ? [] : line.dash.map((length) => WIDTH * length));

function intervals(panel) {
  const { spec, drawn } = panel;
  const [high, low] = ["high", "low"].map((edge) => drawn.indexOf(`${spec.highlight}.${edge}`) + 1);
  return high && low ? [{ series: [high, low], fill: `${colour(lineOf(panel, spec.highlight).colour)}2e` }] : [];
}

function series(panel, column) {
  const line = lineOf(panel, column);
  return {
    stroke: line ? colour(line.colour) : "transparent", width: WIDTH, spanGaps: false, points: { show: false },
    dash: line ? dash(panel, line) : [],
  };
}

// The whole run, or the part that is shown closely: the same in all panels.
const spanned = (panel, run) => panel.zoom ?? [0, Math.max(run.events, 1)];

function options(panel, run, chosen) {
  const axis = { stroke: css("--muted"), grid: { stroke: css("--faint"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  return {
    width: panel.host.clientWidth, height: panel.height, padding: [REBUILDS + ROW * Math.max(panel.spec.alarms.length, 1), LABELS, 0, 0],
    scales: { x: { time: false, range: () => spanned(panel, run) }, y: { range: range(panel) } },
    axes: [
      { ...axis, values: (_, values) => values.map(exact), size: 24, gap: 4 },
      { ...axis, values: (_, values) => values.map(ticks(panel.spec.format)), size: 56 },
    ],
    series: [{}, ...panel.drawn.map((column) => series(panel, column))],
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

export const signOf = (entry, { signs }) => (entry.kind === "alarm" && signs[entry.outcome]) || SIGNS[entry.kind];

// Draws a panel anew; `chosen` is called with a part that somebody dragged over.
export function draw(panel, run, chosen) {
  panel.plot?.destroy();
  panel.plot = new uPlot(options(panel, run, chosen), panel.data, panel.host);
  read(panel);
}

// Says in words what is under the cursor, or at the end.
export function read(panel) {
  const [x, ...columns] = panel.data;
  panel.host.dataset.windows = x.length;
  panel.summary.textContent = x.length ? (lacking(panel, columns) ?? said(panel, x, columns)) : "no whole window yet";
}

const lacking = (panel, columns) => (columns.some((values) => values.some((one) => one != null)) ? null : panel.none);

function said(panel, x, columns) {
  const at = Math.min(panel.plot?.cursor.idx ?? x.length - 1, x.length - 1);
  const value = (column) => columns[panel.drawn.indexOf(column)]?.[at];
  const name = ({ column, label }) => (panel.spec.lines.length > 1 || column.includes(".") ? `${label} ` : "");
  const known = panel.spec.lines.filter(({ column }) => value(column) != null).map((line) => {
    const [error, low, high] = ["error", "low", "high"].map((edge) => value(`${line.column}.${edge}`));
    return `${name(line)}${writeWithin(panel.spec.format, { value: value(line.column), error, low, high })}`;
  });
  return `${known.join(", ") || "nothing"} at ${number(x[at])}`;
}
