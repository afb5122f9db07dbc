// Plots over the count of events: lines, and beside them true drift, rebuilds, alarms and levels.

import { spanOf } from "./state.js";
import { colour, css } from "./theme.js";
import { exact, number, ticks, write as written, writeWithin } from "./words.js";

const FAINT = ["rejected", "failed", "unfinished"];
const UNDRAWN = ["open", "superseded"];
const SIGNS = { rebuild: "▼", rollback: "↶", alarm: "◇", declined: "·", dead_letters: "✕" };
const LABELS = 100;                // pixels right of the plot, for the names at line ends
const NARROW = 600;                // pixels of a screen on which these stand in a row above the plot
const ROW = 13;                    // pixels of a line of small text
const REBUILDS = 15;               // pixels over the plot for rebuilds; alarms are above
const WIDTH = 1.6;                 // pixels of a line
const TICK = 5;                    // pixels of the mark of a graft

const isNarrow = () => innerWidth <= NARROW;

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
  context.fillStyle = css("--muted");
  context.globalAlpha = 0.16;
  for (const entry of run.timeline.filter(isRebuild)) {
    const [left, right] = sides(plot, entry, run);
    context.fillRect(left, box.top, right - left, box.height);
  }
  context.globalAlpha = 1;
  const { level: middle } = panel.spec;
  const band = run.timetable?.threshold == null ? panel.spec.band : null;
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
  if (hasThresholds(panel, run)) thresholds(plot, context, run);
  context.restore();
}

// A line above which a rebuild may start belongs to what the trigger looks at.
const hasThresholds = ({ spec }, { thresholds: lines }) => spec.compares && spec.view === "main" && lines.length > 0;

function thresholds(plot, context, run) {
  context.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
  context.globalAlpha = 0.9;
  for (const { begin, end, value } of run.thresholds) {
    const y = plot.valToPos(value, "y", true);
    context.beginPath();
    context.moveTo(plot.valToPos(begin, "x", true), y);
    context.lineTo(plot.valToPos(end, "x", true), y);
    context.stroke();
  }
  context.setLineDash([]);
}

const isRebuild = ({ kind, outcome }) => kind === "rebuild" && outcome !== "superseded";

// Where a rebuild begins, at its decision, and where it ends, or is by now.
const sides = (plot, { begin, count, until }, { events }) =>
  [begin, Math.min(until ?? count, events)].map((at) => plot.valToPos(at, "x", true));

// What the lines mean that are not of a model, at the left where they are in sight; and what each
// rebuild cost, at the foot of its band.
function meanings(plot, panel, context, run) {
  const { bbox: box } = plot;
  const { level, level_label: label } = panel.spec;
  const inSight = (y) => y > box.top + ROW * devicePixelRatio && y < box.top + box.height;
  const say = (text, value) => {
    const y = plot.valToPos(value, "y", true);
    if (text && inSight(y)) write(context, text, box.left + 4 * devicePixelRatio, y - 4 * devicePixelRatio);
  };
  context.fillStyle = css("--muted");
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  if (level != null) say(label, level);
  if (!hasThresholds(panel, run)) return;
  const [from, to] = spanOf(panel.view, run);
  const seen = run.thresholds.find(({ begin, end }) => end > from && begin < to);
  if (seen) {
    const x = Math.max(plot.valToPos(seen.begin, "x", true), box.left) + 4 * devicePixelRatio;
    const y = plot.valToPos(seen.value, "y", true) - 4 * devicePixelRatio;
    if (inSight(y)) write(context, "threshold", x, y);
  }
  context.textAlign = "center";
  for (const entry of run.timeline.filter((one) => isRebuild(one) && one.gap != null)) {
    const [left, right] = sides(plot, entry, run);
    const text = written(panel.spec.format, entry.gap);
    if (context.measureText(text).width + 4 * devicePixelRatio > right - left || left < box.left - 1) continue;
    write(context, text, (left + right) / 2, box.top + box.height - 5 * devicePixelRatio);
  }
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

// The mask may change often between two rebuilds: short ticks at the foot, without words.
function grafts(plot, context, { grafts: { counts } }) {
  const { bbox: box } = plot;
  const foot = box.top + box.height;
  context.setLineDash([]);
  context.strokeStyle = css("--muted");
  context.lineWidth = devicePixelRatio;
  context.beginPath();
  for (const x of counts.map((count) => plot.valToPos(count, "x", true)).filter((at) => isInside(at, box))) {
    context.moveTo(x, foot);
    context.lineTo(x, foot - TICK * devicePixelRatio);
  }
  context.stroke();
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
    if (!isNarrow()) context.fillText(`${sign} ${label}`, box.left + box.width + 9 * devicePixelRatio, y);
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

function key(panel, context, line, left, y) {
  context.strokeStyle = colour(line.colour);
  context.lineWidth = 2 * devicePixelRatio;
  context.setLineDash(dash(panel, line).map((one) => one * 0.6 * devicePixelRatio));
  context.beginPath();
  context.moveTo(left, y);
  context.lineTo(left + 12 * devicePixelRatio, y);
  context.stroke();
  context.setLineDash([]);
  context.fillStyle = css("--ink");
  context.fillText(line.label, left + 16 * devicePixelRatio, y);
}

// Names of lines in a row above the plot, where there is no room beside it.
function names(plot, panel, context) {
  context.textAlign = "left";
  context.textBaseline = "middle";
  let left = plot.bbox.left;
  for (const line of panel.drawn.map((column) => lineOf(panel, column)).filter(Boolean)) {
    key(panel, context, line, left, (ROW / 2) * devicePixelRatio);
    left += context.measureText(line.label).width + 28 * devicePixelRatio;
  }
}

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
  for (const end of found) key(panel, context, end.line, left, end.y);
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
  if (run.grafts.counts.length) grafts(plot, context, run);
  alarms(plot, panel, context, run);
  meanings(plot, panel, context, run);
  if (isNarrow()) names(plot, panel, context);
  else ends(plot, panel, context);
  if (panel.spec.highlight) worst(plot, panel, context);
  context.restore();
}

// With room for its name above the line.
function withThreshold(greatest, least, { thresholds: lines }) {
  const { value } = lines.at(-1);
  return Math.max(greatest, value + 0.15 * Math.abs(value - least));
}

function range(panel, run) {
  return (_, least, greatest) => {
    const { level, band } = panel.spec;
    if (least != null && hasThresholds(panel, run)) greatest = withThreshold(greatest, least, run);
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

// The same in all panels.
const spanned = (panel, run) => spanOf(panel.view, run);

function options(panel, run, chosen) {
  const axis = { stroke: css("--muted"), grid: { stroke: css("--faint"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  return {
    width: panel.host.clientWidth, height: panel.height, padding: [REBUILDS + ROW * (Math.max(panel.spec.alarms.length, 1) + isNarrow()), isNarrow() ? 14 : LABELS, 0, 0],
    scales: { x: { time: false, range: () => spanned(panel, run) }, y: { range: range(panel, run) } },
    axes: [
      { ...axis, values: (_, values) => values.map(exact), size: 24, gap: 4 },
      { ...axis, values: (_, values) => values.map(ticks(panel.spec.format)), size: isNarrow() ? 46 : 56 },
    ],
    series: [{}, ...panel.drawn.map((column) => series(panel, column))],
    bands: intervals(panel),
    cursor: { y: false, sync: { key: "events" }, drag: { x: true, y: false, setScale: false } },
    legend: { show: false },
    hooks: {
      drawClear: [(plot) => underneath(plot, panel, run)],
      draw: [(plot) => above(plot, panel, run)],
      setCursor: [() => read(panel, run)],
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
  panel.explains.textContent = explained(panel, run);
  panel.explains.hidden = !panel.explains.textContent;
  read(panel, run);
}

function explained(panel, run) {
  const { explains, highlight } = panel.spec;
  const rises = hasThresholds(panel, run) && " Dashed: the threshold, how far it may rise above its lowest window since the last switch before a rebuild may start. Grey columns: rebuilds, from the decision to the end, and what was lost meanwhile.";
  return [explains, highlight && " Shaded: the 95 % interval.", rises].filter(Boolean).join("");
}

// Says in words what is under the cursor, or at the end.
export function read(panel, run) {
  const [x, ...columns] = panel.data;
  panel.host.dataset.windows = x.length;
  panel.summary.textContent = x.length ? (lacking(panel, columns) ?? early(panel, columns, run) ?? said(panel, x, columns)) : "no whole window yet";
}

// What compares models begins with the first mask.
const early = ({ spec }, columns, { start }) => (spec.compares && start === null && isEmpty(columns) ? "begins with the first mask" : null);

const isEmpty = (columns) => !columns.some((values) => values.some((one) => one != null));
const lacking = (panel, columns) => (isEmpty(columns) ? panel.none : null);

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
