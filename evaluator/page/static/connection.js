// How the page is connected to the run, and what it says of that.

import { state } from "./state.js";
import { $ } from "./words.js";

const link = { isOpen: null, end: null, failure: "" };

export const hasEnded = () => link.end !== null;

// Tells whether it had been lost before.
export function opened() {
  const isBack = link.isOpen === false;
  Object.assign(link, { isOpen: true, end: null, failure: "" });
  show();
  return isBack;
}

export function broken() {
  link.isOpen = false;
  show();
}

export function ended(run) {
  link.end = run;
}

// What was asked for and has not come; nothing, where it has.
export function failed(failure) {
  link.failure = failure;
  show();
}

// The page has not begun.
export function impossible(error) {
  $("connection").dataset.state = "lost";
  $("connection").textContent = error.message;
}

function standing({ live: isLive, state: how }) {
  const cut = link.failure ? ", connection lost" : "";
  if (how === "finished") return [cut ? "lost" : "done", `finished run${cut}`];
  if (link.end) return ["lost", `stopped${cut}`];
  if (isLive && link.isOpen === null) return ["", "connecting"];
  if (cut || (isLive && !link.isOpen)) return ["lost", isLive ? "connection lost, trying again" : "connection lost"];
  return how === "stopped" ? ["done", "stopped, or still under way"] : ["live", "live"];
}

function farewell({ state: how }) {
  const { run } = state.run.about;
  return [
    how === "finished" ? "The run has ended;" : "The server has stopped before the run was done;",
    "what came until then stays here. resprout evaluate --replay DIR shows all of it again,",
    `where DIR is the folder of the run${run ? `, ${run}` : ""}.`,
  ].join(" ");
}

// What is there already is not written again: a screen reader would say it again.
function write(host, text) {
  if (host.textContent !== text) host.textContent = text;
}

export function show() {
  const [kind, text] = standing(state.run);
  $("connection").dataset.state = kind;
  write($("connection"), text);
  const notice = [link.failure, link.end && farewell(link.end)].filter(Boolean).join(" ");
  $("notice").hidden = !notice;
  write($("notice"), notice);
}
