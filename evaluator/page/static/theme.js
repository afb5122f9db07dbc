// Light and dark: as the system says, until somebody switches.

const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

export const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
// Of a line; the server gives one to some models.
export const colour = (own) => own ?? css("--muted");
export const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

// A browser that keeps nothing still shows the page.
function kept(value) {
  try {
    if (value === undefined) return localStorage.getItem("theme");
    localStorage.setItem("theme", value);
  } catch { /* as the system says */ }
  return null;
}

export function begin(changed) {
  const before = kept();
  if (before) root.dataset.theme = before;
  system.addEventListener("change", () => { if (!root.dataset.theme) changed(); });
}

export function toggle() {
  root.dataset.theme = isDark() ? "light" : "dark";
  kept(root.dataset.theme);
}
