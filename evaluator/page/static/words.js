// How things are written, and how they are put on the page.

const NAMES = { never_rebuilt: "never rebuilt", bayes_ce: "true probability", psi: "worst feature" };
const grouped = new Intl.NumberFormat("en-US");

export const number = (value) => (value == null ? "–" : grouped.format(Math.round(value)));
export const plain = (digits) => (value) => (value == null ? "–" : value.toFixed(digits));
export const share = (value) => (value == null ? "–" : `${(100 * value).toFixed(0)} %`);
export const percent = (value) => (value == null ? "–" : `${value > 0 ? "+" : ""}${(100 * value).toFixed(2)} %`);
// An interval, or as much of it as is known.
export function within({ mean, low, high }, format = percent) {
  if (mean == null || low == null || high == null) return format(mean);
  const half = (high - low) / 2;
  return `${format(mean)} ± ${format === percent ? (100 * half).toFixed(2) : format(half)}`;
}

export const ticks = (format) => (format === percent ? (v) => `${+(100 * v).toFixed(2)} %` : (v) => `${+v.toFixed(5)}`);

export function short(n) {
  if (n == null) return "–";
  if (n >= 1e6) return `${+(n / 1e6).toFixed(2)}M`;
  if (n >= 1e3) return `${+(n / 1e3).toFixed(n < 1e4 ? 1 : 0)}k`;
  return `${Math.round(n)}`;
}

// As an axis needs it: not rounded.
export function exact(n) {
  if (n >= 1e6) return `${+(n / 1e6).toFixed(4)}M`;
  return n >= 1e3 ? `${+(n / 1e3).toFixed(4)}k` : `${n}`;
}

export function seconds(value) {
  if (value == null) return "–";
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 600) return `${Math.round(value)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

export const modelOf = (column) => (column.includes(".") ? column.split(".")[0] : "");
export const named = (name) => NAMES[name] ?? name.replaceAll("_", " ");
export const label = (column) => named(modelOf(column) || column);

export const $ = (id) => document.getElementById(id);

export function node(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function cell(tag, text, properties = {}) {
  return node(tag, { textContent: text, ...properties });
}

// Puts children in their order; what stays is not touched, so that it keeps the focus.
export function arrange(host, wanted) {
  const staying = new Set(wanted);
  for (const child of [...host.children]) if (!staying.has(child)) child.remove();
  wanted.forEach((child, i) => { if (host.children[i] !== child) host.insertBefore(child, host.children[i] ?? null); });
}

export async function get(path) {
  const answer = await fetch(path).catch(() => { throw new Error("connection lost"); });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

// A panel: title, a line of text that says what it shows, its data, and a body.
export function panel(id, title, { wide = false, csv = null } = {}) {
  const summary = node("p", { className: "summary", id: `${id}-summary` });
  const link = csv === null ? [] : [node("a", { href: csv, textContent: "data as CSV", ariaLabel: `data of ${title} as CSV` })];
  const heading = node("h2", { textContent: title, id: `${id}-title` });
  const header = node("header", {}, heading, summary, ...link);
  const body = node("div", { className: "body" });
  const section = node("section", { id, className: wide ? "panel wide" : "panel" }, header, body);
  section.setAttribute("aria-labelledby", `${id}-title`);
  return { id, section, header, heading, summary, link: link[0], body };
}
