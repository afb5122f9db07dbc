// What is not a plot over the count: scores so far, segments, layers, and what happened.

import { SIGNS } from "./plots.js";
import { $, cell, named, node, number, panel, percent, plain, share, short } from "./words.js";

const within = (interval) => {
  if (interval == null) return "–";
  return interval.low == null ? percent(interval.mean) : `${percent(interval.mean)} ± ${(50 * (interval.high - interval.low)).toFixed(2)}`;
};
const SCORES = [
  ["NE", (score) => plain(4)(score.ne)],
  ["against dense", (_, interval) => within(interval)],
  ["calibration", (score) => plain(3)(score.calibration)],
  ["ROC AUC", (score) => plain(4)(score.roc_auc)],
  ["regret", (score) => plain(4)(score.regret)],
];

function table(head, rows) {
  const top = node("tr", {}, ...head.map((text, i) => cell("th", text, { scope: "col", className: i ? "" : "first" })));
  return node("div", { className: "scroll" }, node("table", {}, node("thead", {}, top), node("tbody", {}, ...rows)));
}

const row = (name, values) => node("tr", {}, cell("th", name, { scope: "row" }), ...values.map((text) => cell("td", text)));

export const scores = panel("scores", "So far");
export const segments = panel("segments", "Segments", { wide: true });
export const sparsity = panel("sparsity", "Sparsity", { csv: "/api/layers.csv" });
export const overlap = panel("overlap", "Mask overlap", { csv: "/api/layers.csv" });

// The scores of all models on the same events, since the last of them began.
export function showScores(lifetimes) {
  const last = lifetimes.reduce((found, one) => (!found || one.begin >= found.begin ? one : found), null);
  scores.summary.textContent = last ? `events ${number(last.begin + 1)} to ${number(last.end)}, the same for all` : "no window yet";
  if (!last) return;
  const models = Object.entries(last.models).filter(([, score]) => score);
  const shown = SCORES.filter(([, write]) => models.some(([model, score]) => write(score, last.relative_ce[model]) !== "–"));
  const rows = models.map(([model, score]) => row(named(model), shown.map(([, write]) => write(score, last.relative_ce[model]))));
  scores.body.replaceChildren(table(["", ...shown.map(([name]) => name)], rows));
}

export function showSegments(window) {
  segments.section.hidden = !window?.segments.length;
  if (segments.section.hidden) return;
  segments.summary.textContent = `events ${number(window.begin + 1)} to ${number(window.end)}; the most frequent values, and the rest`;
  const rows = window.segments.map((one) => row(`${one.feature} = ${one.value}`, [
    number(one.events), plain(4)(one.click_rate), plain(4)(one.models.dense?.ne), plain(4)(one.models.sparse?.ne), within(one.relative_ce.sparse),
  ]));
  segments.body.replaceChildren(table(["", "events", "click rate", "NE dense", "NE sparse", "sparse against dense"], rows));
}

function heat(made, { counts, layers }, key, shade) {
  const rows = layers.map((layer) => node("tr", {}, cell("th", layer.name, { scope: "row" }), ...layer[key].map((value, i) => {
    const box = cell("td", value == null ? "" : (100 * value).toFixed(0), { className: "heat" });
    if (value == null) return box;
    box.title = `${layer.name}: ${(100 * value).toFixed(2)} % from ${number(counts[i] + 1)} on`;
    box.style.setProperty("--shade", shade(value));
    return box;
  })));
  made.summary.textContent = counts.length ? made.says : "no mask yet";
  made.body.replaceChildren(...(counts.length ? [table(["", ...counts.map(short)], rows)] : []));
  const scroll = made.body.querySelector(".scroll");
  if (scroll) scroll.scrollLeft = scroll.scrollWidth;
}

[sparsity, overlap].forEach((made) => made.body.classList.add("masks"));
sparsity.says = "% of each layer's weights removed, by rebuild";
overlap.says = "% of the kept weights that the mask before kept too";

export function showLayers(reply) {
  const all = { name: "all together", sparsity: reply.kept.map((value) => (value == null ? null : 1 - value)) };
  heat(sparsity, { ...reply, layers: [...reply.layers, all] }, "sparsity", (value) => 0.06 + 0.5 * value ** 2);
  heat(overlap, reply, "overlap", (value) => 0.06 + 0.5 * value);
}

export function showMarks(marks, pointAt) {
  const items = marks.toReversed().map((mark) => {
    const button = node("button", { type: "button" },
      node("span", { className: "sign", textContent: SIGNS[mark.kind], ariaHidden: "true" }),
      cell("span", number(mark.count), { className: "count" }),
      node("span", {}, node("b", { textContent: mark.title }), ` ${mark.text}`));
    Object.assign(button.dataset, { kind: mark.kind, outcome: mark.outcome, count: mark.count });
    button.addEventListener("click", () => pointAt(mark.count));
    return node("li", {}, button);
  });
  $("happened-summary").textContent = items.length ? "the last thing first; choose one to see it in the plots" : "nothing yet";
  $("events").replaceChildren(...items);
}

export function showTiles(shown) {
  $("tiles").replaceChildren(...Object.entries(shown).map(([name, [value, badge]]) =>
    node("div", {}, cell("dt", name), cell("dd", value, { className: badge ?? "" }))));
}

export const kept = (reply) => share(reply.kept.at(-1));
