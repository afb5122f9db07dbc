// Plots over the count of events: lines, and beside them true drift, rebuilds, alarms and levels.

import { colour, css } from "./theme.js";
import { exact, label, modelOf, number, ticks } from "./words.js";

const SOLID = ["dense", "sparse"];
const FAINT = ["rejected", "failed", "unfinished"];
const UNDRAWN = ["open", "overruled"];
export const SIGNS = { rebuild: "▼", rollback: "↶", alarm: "◇", declined: "·", dead_letters: "✕" };
const LABELS = 100;                // pixels right of the plot, for the names at line ends
const ROW = 13;                    // pixels of a line of small text

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

function signs(plot, context, run) {
  const { bbox: box } = plot;
  const [from, to] = [box.left - 1, box.left + box.width + 1];
  context.setLineDash([]);
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  for (const mark of run.marks) {
    const x = plot.valToPos(mark.count, "x", true);
    const drawn = ["rebuild", "rollback", "alarm"].includes(mark.kind) && !UNDRAWN.includes(mark.outcome);
    if (!drawn || !(x >= from && x <= to)) continue;
    const isAlarm = mark.kind === "alarm";
    context.globalAlpha = FAINT.includes(mark.outcome) ? 0.4 : 1;
    context.strokeStyle = context.fillStyle = css("--muted");
    context.lineWidth = devicePixelRatio;
    if (!isAlarm) {
      context.beginPath();
      context.moveTo(x, box.top);
      context.lineTo(x, box.top + box.height);
      context.stroke();
    }
    context.fillText(SIGNS[mark.kind], x, box.top - (isAlarm ? 15 : 3) * devicePixelRatio);
  }
  context.globalAlpha = 1;
}

// Names at line ends, moved apart where they would collide, and never out of the plot.
function ends(plot, panel, context) {
  const { bbox: box } = plot;
  const height = ROW * devicePixelRatio;
  const found = panel.drawn.map((column, i) => {
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
    context.setLineDash(dash(model).map((one) => one * 0.6 * devicePixelRatio));
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
  signs(plot, context, run);
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

function dash(model) {
  return SOLID.includes(model) ? [] : model === "" ? [2, 3] : [6, 4];
}

function options(panel, run, chosen) {
  const axis = { stroke: css("--muted"), grid: { stroke: css("--faint"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const onlyOne = panel.drawn.length === 1;
  return {
    width: panel.host.clientWidth, height: panel.height, padding: [28, LABELS, 0, 0],
    scales: { x: { time: false }, y: { range: range(panel) } },
    axes: [
      { ...axis, values: (_, values) => values.map(exact), size: 24, gap: 4 },
      { ...axis, values: (_, values) => values.map(ticks(panel.format)), size: 56 },
    ],
    series: [{}, ...panel.drawn.map((column) => ({
      stroke: colour(modelOf(column)), width: 1.6, spanGaps: false, points: { show: false },
      dash: onlyOne ? [] : dash(modelOf(column)),
    }))],
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
  const at = Math.min(panel.plot?.cursor.idx ?? x.length - 1, x.length - 1);
  const name = (column) => (panel.drawn.length > 1 || modelOf(column) ? `${label(column)} ` : "");
  const parts = columns.map((values, i) => (values[at] == null ? null : `${name(panel.drawn[i])}${panel.format(values[at])}`));
  const known = parts.filter(Boolean).join(", ") || "nothing";
  panel.summary.textContent = x.length ? `${known} at ${number(x[at])}` : "no whole window yet";
}
