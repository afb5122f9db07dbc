// The cursor in all plots at once: where it points, and how it moves.

import { state } from "./state.js";
import { show } from "./view.js";

// Where a stretch is looked at closely, it moves to what lies outside.
export async function pointAt(count) {
  const { stretch } = state.view;
  const at = Math.min(count, state.run.events);
  if (stretch && !(stretch[0] <= at && at <= stretch[1])) {
    const width = stretch[1] - stretch[0];
    const begin = Math.max(Math.min(at - width / 2, state.run.events - width), 0);
    await show({ stretch: [begin, begin + width] });
  }
  for (const { plot } of state.panels) plot?.setCursor({ left: plot.valToPos(at, "x"), top: 0 });
}

export function move(step) {
  const plot = state.panels[0]?.plot;
  const x = plot?.data[0] ?? [];
  if (!x.length) return;
  const at = (plot.cursor.idx ?? x.length) + step;
  pointAt(x[Math.min(Math.max(at, 0), x.length - 1)]);
}
