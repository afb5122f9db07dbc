// What each key does.

import { move } from "./cursor.js";
import { showNextSize, showWhole } from "./view.js";

const KEYS = {
  ArrowLeft: () => move(-1),
  ArrowRight: () => move(1),
  0: showWhole,
  w: showNextSize,
};
const IN_PLOT = { Home: () => move(-Infinity), End: () => move(Infinity) };
// What these take themselves; a list of choices is searched by letters.
const OWN = { SELECT: () => true, INPUT: (key) => key === " " || key.startsWith("Arrow") };

const inPlot = (event) => event.target.classList?.contains("plot");

// Listens from now on; `switchTheme` is what nobody else here can do.
export function listen(switchTheme) {
  const keys = { ...KEYS, t: switchTheme };
  addEventListener("keydown", (event) => {
    if (OWN[event.target.tagName]?.(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    const action = keys[event.key] ?? (inPlot(event) ? IN_PLOT[event.key] : undefined);
    if (!action) return;
    event.preventDefault();
    action();
  });
}
