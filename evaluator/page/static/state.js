// What the page knows of the run, and what it shows of it.

export const state = {
  run: null, layers: null, panels: [],
  newest: [],                      // the last windows that came by the stream
  last: new Map(),                 // the last whole window of each size
  lifetimes: new Map(),            // scores so far, by where they begin
  view: { size: null, zoom: null, figure: null },
};

export function keepWindow(window) {
  if (!(state.last.get(window.size)?.end >= window.end)) state.last.set(window.size, window);
}

export function keepLifetime(lifetime) {
  if (!(state.lifetimes.get(lifetime.begin)?.end >= lifetime.end)) state.lifetimes.set(lifetime.begin, lifetime);
}
