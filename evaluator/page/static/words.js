// How things are written, and how they are put on the page.

const grouped = new Intl.NumberFormat("en-US");

export const number = (value) => (value == null ? "–" : grouped.format(Math.round(value)));
export const plain = (digits) => (value) => (value == null ? "–" : value.toFixed(digits));
export const share = (value) => (value == null ? "–" : `${(100 * value).toFixed(0)} %`);

// The server says how a figure is written as Python does: ".4f", "+.2%".
function parsed(format) {
  const [, sign, digits, kind] = format.match(/^(\+?)\.(\d+)([f%])$/) ?? [format, "", "4", "f"];
  return { sign, digits: Number(digits), factor: kind === "%" ? 100 : 1, unit: kind === "%" ? " %" : "" };
}

export function write(format, value) {
  const { sign, digits, factor, unit } = parsed(format);
  return value == null ? "–" : `${sign && value > 0 ? "+" : ""}${(factor * value).toFixed(digits)}${unit}`;
}

// A value and how far away it may be: the bound of an error is rounded up, half an interval is not.
export function writeWithin(format, { value, error, low, high }) {
  const { digits, factor } = parsed(format);
  if (value == null) return "–";
  if (error != null) return `${write(format, value)} ± ${(Math.ceil(error * factor * 10 ** digits) / 10 ** digits).toFixed(digits)}`;
  if (low != null && high != null) return `${write(format, value)} ± ${(factor * (high - low) / 2).toFixed(digits)}`;
  return write(format, value);
}

export function bytes(n) {
  if (n >= 1e6) return `${(n / 1e6).toFixed(1)} MB`;
  return n >= 1e3 ? `${Math.round(n / 1e3)} kB` : `${Math.round(n)} B`;
}

export const ticks = (format) => (value) => {
  const { factor, unit } = parsed(format);
  return `${+(factor * value).toFixed(unit ? 2 : 5)}${unit}`;
};

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
  const explains = node("p", { className: "explains", hidden: true });
  const body = node("div", { className: "body" });
  const section = node("section", { id, className: wide ? "panel wide" : "panel" }, header, explains, body);
  section.setAttribute("aria-labelledby", `${id}-title`);
  return { id, section, header, heading, summary, explains, link: link[0], body };
}
