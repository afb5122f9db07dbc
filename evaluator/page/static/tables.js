// What is not a plot over the count: scores so far, segments, layers, and what happened.

import { signOf } from "./plots.js";
import { $, arrange, cell, node, number, panel, plain, share, short, writeWithin } from "./words.js";

const NONE = "–";

// A metric of one model, with its error or its interval.
function text(metric, score) {
  const [low, high] = score?.intervals[metric.name] ?? [];
  return writeWithin(metric.format, { value: score?.metrics[metric.name], error: score?.errors[metric.name], low, high });
}

export const metricsOf = ({ panels }) => panels.filter((one) => one.of_models);
const labelOf = ({ models }, name) => models.find((model) => model.name === name)?.label ?? name;

// What scrolls stays, with its focus and where it was scrolled to.
function fill(host, head, rows) {
  const top = node("tr", {}, ...head.map((text, i) => cell("th", text, { scope: "col", className: i ? "" : "first" })));
  const made = node("table", {}, node("thead", {}, top), node("tbody", {}, ...rows));
  const scroll = host.querySelector(".scroll") ?? makeScroll(host);
  scroll.replaceChildren(made);
  watching.observe(made);
  return scroll;
}

// A table that is wider than its place says that it can be scrolled.
const watching = new ResizeObserver((changed) => {
  for (const scroll of new Set(changed.map(({ target }) => target.closest(".scroll")))) {
    if (scroll) scroll.previousElementSibling.hidden = scroll.scrollWidth <= scroll.clientWidth + 1;
  }
});

function makeScroll(host) {
  const scroll = node("div", { className: "scroll", tabIndex: 0, role: "region" });
  scroll.setAttribute("aria-label", `table of ${host.closest("section").querySelector("h2").textContent}`);
  host.append(node("p", { className: "hint", textContent: "← wider than the screen: scroll sideways →", hidden: true }), scroll);
  watching.observe(scroll);
  return scroll;
}

const row = (name, values) => node("tr", {}, cell("th", name, { scope: "row" }), ...values.map((text) => cell("td", text)));

export const scores = panel("scores", "So far", { csv: "/api/scores.csv" });
export const segments = panel("segments", "Segments", { wide: true, csv: "/api/segments.csv" });
export const sparsity = panel("sparsity", "Sparsity", { csv: "/api/layers.csv" });
export const overlap = panel("overlap", "Mask overlap", { csv: "/api/layers.csv" });

export function link(size) {
  if (size === null) return;
  for (const one of [scores, segments]) one.link.href = `/api/${one.id}.csv?size=${size}`;
}

// The scores of all models on the same events, since the last of them began.
export function showScores(lifetimes, run) {
  const last = lifetimes.reduce((found, one) => (!found || one.begin >= found.begin ? one : found), null);
  scores.summary.textContent = last ? `events ${number(last.begin + 1)} to ${number(last.end)}, the same for all` : "no window yet";
  if (!last) return;
  const models = Object.entries(last.models).filter(([, score]) => score);
  const rows = metricsOf(run).map((metric) => [metric.label, models.map(([, score]) => text(metric, score))]);
  const known = rows.filter(([, texts]) => texts.some((one) => one !== NONE));
  fill(scores.body, ["", ...models.map(([name]) => labelOf(run, name))], known.map(([name, texts]) => row(name, texts)));
  explain(run, known.map(([name]) => name));
}

// What the figures of the table are, folded below it.
function explain(run, names) {
  const terms = metricsOf(run).filter(({ label, explains }) => explains && names.includes(label));
  const list = node("dl", {}, ...terms.flatMap(({ label, explains }) => [cell("dt", label), cell("dd", explains)]));
  const shown = scores.body.querySelector("details") ?? scores.body.appendChild(node("details", {}, cell("summary", "what these figures are"), node("dl")));
  if (shown.dataset.names === `${names}`) return;
  shown.dataset.names = `${names}`;
  shown.lastElementChild.replaceWith(list);
}

// Of the most important metrics, without models that serve as comparisons alone.
export function showSegments(window, run) {
  segments.section.hidden = !window?.segments.length;
  if (segments.section.hidden) return;
  segments.summary.textContent = `events ${number(window.begin + 1)} to ${number(window.end)}; the most frequent values, and the rest`;
  const models = run.models.filter(({ role }) => role !== "comparison");
  const columns = metricsOf(run).filter(({ view }) => view === "main").flatMap((metric) =>
    models.filter(({ role }) => role !== "root" || !metric.compares).map((model) => ({ model, metric })));
  const rows = window.segments.map((one) => row(`${one.feature} = ${one.value}`, [
    number(one.events), plain(4)(one.click_rate), ...columns.map(({ model, metric }) => text(metric, one.models[model.name])),
  ]));
  fill(segments.body, ["", "events", "click rate", ...columns.map(({ model, metric }) => `${model.label} ${metric.label}`)], rows);
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
  if (!counts.length) return;
  const scroll = fill(made.body, ["", ...counts.map(short)], rows);
  scroll.scrollLeft = scroll.scrollWidth;
}

// The scale of the colours, and on it a tick where the share should be.
function scale(made, shade, target) {
  const stops = Array.from({ length: 11 }, (_, i) => `rgb(var(--cell) / ${shade(i / 10)})`);
  const bar = node("span", { className: "bar" });
  bar.style.background = `linear-gradient(to right, ${stops})`;
  const tick = node("span", { className: "tick" }, cell("span", `target ${share(target)}`));
  tick.style.left = `${100 * target}%`;
  if (target != null) bar.append(tick);
  const shown = node("p", { className: "scale" }, "0 %", bar, "100 %");
  made.body.querySelector(".scale")?.remove();
  made.body.append(shown);
}

[sparsity, overlap].forEach((made) => made.body.classList.add("masks"));
sparsity.says = "% of each layer's weights removed, by rebuild";
overlap.says = "% of the kept weights that the mask before kept too";

const shadeOfShare = (value) => 0.06 + 0.5 * value ** 2;
const targetOf = ({ criterion = "" }) => { const found = criterion.match(/@ ([\d.]+) %/); return found && Number(found[1]) / 100; };

// A mask that took over, as the log says it.
export function addMask(reply, { verdict, count, rebuild, sparsity: removed, layers: known }) {
  if (verdict !== "promoted" || count <= (reply.counts.at(-1) ?? -1)) return;
  const blank = Array(reply.counts.length).fill(null);
  const names = reply.layers.map((layer) => layer.name);
  const fresh = Object.keys(known).filter((name) => !names.includes(name));
  reply.layers.push(...fresh.map((name) => ({ name, sparsity: [...blank], overlap: [...blank] })));
  reply.counts.push(count);
  reply.numbers.push(rebuild.number);
  reply.kept.push(removed == null ? null : 1 - removed);
  const all = Object.values(known);
  reply.weights = all.reduce((sum, { weights }) => sum + weights, 0);
  reply.kept_weights = all.reduce((sum, layer) => sum + layer.kept, 0);
  for (const layer of reply.layers) for (const key of ["sparsity", "overlap"]) layer[key].push(known[layer.name]?.[key] ?? null);
}

export function showLayers(reply, { about }) {
  const all = { name: "all together", sparsity: reply.kept.map((value) => (value == null ? null : 1 - value)) };
  heat(sparsity, { ...reply, layers: [...reply.layers, all] }, "sparsity", shadeOfShare);
  if (reply.counts.length) scale(sparsity, shadeOfShare, targetOf(about));
  heat(overlap, reply, "overlap", (value) => 0.06 + 0.5 * value);
}

// What happened is known again by where it began, though it continues and ends.
const idOf = ({ kind, outcome, begin, count }) => (kind === "alarm" ? `${kind}/${outcome}/${count}` : `${kind}/${begin}`);

function item(pointAt) {
  const button = node("button", { type: "button" });
  button.addEventListener("click", () => pointAt(Number(button.dataset.count)));
  return node("li", {}, button);
}

function fillButton(button, entry, run) {
  button.replaceChildren(
    node("span", { className: "sign", textContent: signOf(entry, run), ariaHidden: "true" }),
    cell("span", number(entry.count), { className: "count" }),
    node("span", {}, node("b", { textContent: entry.title }), ` ${entry.text}`));
  Object.assign(button.dataset, { kind: entry.kind, outcome: entry.outcome, count: entry.count });
}

let entries = new Map();
export function showTimeline(run, pointAt) {
  entries = new Map(run.timeline.toReversed().map((entry) => {
    const id = idOf(entry);
    const shown = entries.get(id) ?? item(pointAt);
    fillButton(shown.firstElementChild, entry, run);
    return [id, shown];
  }));
  $("happened-summary").textContent = entries.size ? "the last thing first; choose one to see it in the plots" : "nothing yet";
  arrange($("events"), [...entries.values()]);
}

export const kept = (reply) => share(reply.kept.at(-1));
