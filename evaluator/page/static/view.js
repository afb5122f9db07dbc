// What is shown: windows of which size, which part of the run, which figure.

import * as connection from "./connection.js";
import * as lines from "./lines.js";
import * as plots from "./plots.js";
import { keepLifetime, keepWindow, state } from "./state.js";
import * as tables from "./tables.js";
import { showNewest } from "./tiles.js";
import { $, arrange, get, node, short } from "./words.js";

let wanted = { ...state.view };    // what was chosen last, whether or not it has come

// What is shown changes when all of it has come; where that fails, it stays. An answer that
// comes after something else was chosen is dropped.
let asking = 0;
export async function show(change = {}, anew = false) {
  Object.assign(wanted, change);
  asking += 1;
  const [mine, view] = [asking, { ...wanted }];
  choose(view);
  const scores = view.size === null ? null : get(`/api/scores?size=${view.size}`);
  const found = await Promise.all([scores, ...state.panels.map((one) => lines.load(one, view, state.run, anew))]).catch((error) => error);
  if (mine !== asking) return;
  if (found instanceof Error) {
    wanted = { ...state.view };
    choose(state.view);
    if (Object.keys(change).length) connection.failed(`What was asked for has not come: ${found.message}. The page shows what it had.`);
    return;
  }
  connection.failed("");
  commit(view, ...found);
}

function commit(view, scores, ...found) {
  state.view = view;
  if (scores?.window) keepWindow(scores.window);
  scores?.lifetimes.forEach(keepLifetime);
  found.forEach((change, i) => {
    const one = Object.assign(state.panels[i], change);
    one.link.href = one.csv;
    state.newest.forEach((window) => lines.append(one, window));
    if (change.drawn) plots.draw(one, state.run, look);
  });
  tables.link(view.size);
  showNewest();
}

// Shows what is chosen.
function choose({ size, zoom, whole, figure }) {
  $("whole").hidden = !zoom && !(state.run.start > 0);
  $("whole").textContent = zoom ? "all again" : whole ? "from the first mask" : "with the warm-up";
  for (const input of $("sizes").querySelectorAll("input")) input.checked = Number(input.value) === size;
  for (const { select } of state.panels) if (select) select.value = figure;
}

// All plots show a part that was dragged over in one.
let looking = null;
function look([begin, end]) {
  clearTimeout(looking);
  looking = setTimeout(() => show({ zoom: [Math.max(begin, 0), Math.max(end, 0)] }));
}

// Back from a part that was looked at closely; else with the warm-up, or without it again.
export const showWhole = () => show(wanted.zoom ? { zoom: null } : { whole: !wanted.whole });
export const drawPlots = () => state.panels.forEach((one) => plots.draw(one, state.run, look));

// Grafts have a panel of their own, and their sign is explained, once there is one.
let churn = null;
export function showGrafts() {
  if (!state.run.grafts.number) return;
  const isNew = churn === null;
  churn ??= { ...lines.makeChurn(), view: state.view };
  lines.fillChurn(churn, state.run);
  if (!isNew) return;
  $("graft-sign").hidden = false;
  tables.overlap.section.after(churn.section);
  state.panels.push(churn);
  plots.draw(churn, state.run, look);
}

const offered = new Map();
export function offerSizes() {
  for (const size of state.run.sizes) {
    if (offered.has(size)) continue;
    const input = node("input", { type: "radio", name: "size", value: size });
    input.addEventListener("change", () => showSize(size));
    offered.set(size, node("label", {}, input, ` ${short(size)}`));
  }
  arrange($("sizes"), [$("sizes").firstElementChild, ...state.run.sizes.map((size) => offered.get(size))]);
  choose(wanted);
}

// Those windows that are decided on, or larger ones where these are too many to draw.
const fitting = ({ sizes, events, start, timetable }) =>
  sizes.find((size) => size >= (timetable?.window_events ?? 0) && (events - (start ?? 0)) / size <= 400) ?? sizes.at(-1) ?? null;

// Shows what there is now, in the size that somebody has chosen if there is that.
let isChosen = false;
export const showFitting = (change = {}) => show(isChosen && state.run.sizes.includes(wanted.size) ? change : { ...change, size: fitting(state.run) });

function showSize(size) {
  isChosen = true;
  return show({ size });
}

export function showNextSize() {
  const { sizes } = state.run;
  if (sizes.length > 1) showSize(sizes[(sizes.indexOf(wanted.size) + 1) % sizes.length]);
}
