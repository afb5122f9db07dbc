// The cursor in all plots at once: where it points, and how it moves.

import { spanOf, state } from "./state.js";
import { show } from "./view.js";

// Where a part of the run is shown closely, it moves to what is outside.
export async function pointAt(count) {
  const { zoom } = state.view;
  const at = Math.min(count, state.run.events);
  const [first, last] = spanOf(state.view, state.run);
  const isSeen = first <= at && at <= last;
  if (!isSeen && !zoom) await show({ whole: true });
  if (!isSeen && zoom) {
    const width = zoom[1] - zoom[0];
    const begin = Math.max(Math.min(at - width / 2, state.run.events - width), 0);
    await show({ zoom: [begin, begin + width] });
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
