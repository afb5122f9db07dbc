// What the page knows of the run, and what it shows of it.

export const state = {
  run: null, layers: null, panels: [],
  newest: [],                      // the last windows that came by the stream
  last: new Map(),                 // the last whole window of each size
  lifetimes: new Map(),            // scores so far, by where they begin
  view: { size: null, zoom: null, whole: false, figure: null },
};

// Where a view begins and ends: a part that is looked at closely; else from the first mask on, for
// before it there is nothing to compare, or the whole run with its warm-up.
export function spanOf({ zoom, whole }, { start, events }) {
  return zoom ?? [whole || start === null || start >= events ? 0 : start, Math.max(events, 1)];
}

export function keepWindow(window) {
  if (!(state.last.get(window.size)?.end >= window.end)) state.last.set(window.size, window);
}

export function keepLifetime(lifetime) {
  if (!(state.lifetimes.get(lifetime.begin)?.end >= lifetime.end)) state.lifetimes.set(lifetime.begin, lifetime);
}
