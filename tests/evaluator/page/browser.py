"""A browser that looks at the page, and notes what it asks for and complains of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.servers import missing

CHROMIUM = os.environ.get("TEST_CHROMIUM", "/usr/bin/chromium")
PATIENCE_MS = 120_000
LOOK_MS = 25
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HEARD = """
window.heard = [];
const Plain = window.EventSource;
window.EventSource = class extends Plain {
  addEventListener(kind, take) {
    super.addEventListener(kind, (event) => {
      const ours = !["log", "end"].includes(kind);
      if (ours) window.heard.push(Number(event.lastEventId));
      take(event);
    });
  }
};
"""
"""Notes the id of every message that reaches the page."""
DRAWN = """
const canvases = new Map();
const context = CanvasRenderingContext2D.prototype;
const of = (canvas) => {
  if (!canvases.has(canvas)) canvases.set(canvas, { texts: [], strokes: [] });
  return canvases.get(canvas);
};
let begun = 0;
const watched = {
  clearRect() { canvases.delete(this.canvas); },
  fillText(text, x, y) {
    const width = this.measureText(text).width;
    const before = { center: width / 2, right: width, end: width }[this.textAlign] ?? 0;
    of(this.canvas).texts.push([text, x - before, x - before + width, y]);
  },
  moveTo(x) { begun = x; },
  stroke(path) { if (!path) of(this.canvas).strokes.push([begun, this.getLineDash()]); },
};
for (const [name, watch] of Object.entries(watched)) {
  const plain = context[name];
  context[name] = function (...given) {
    watch.apply(this, given);
    return plain.apply(this, given);
  };
}
window.drawnIn = (panel) => {
  const canvas = document.querySelector(`#${panel} canvas`);
  return { ...of(canvas), width: canvas.width };
};
"""
"""Notes what stands on every canvas: each text with its left and right end and its base line, and
each line with where it begins and how it is dashed."""


class Text(NamedTuple):
    """A text on a canvas, in pixels."""

    text: str
    left: float
    right: float
    y: float


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser without a window; skip by name where there is none."""
    if shutil.which(CHROMIUM) is None:
        missing("chromium", "`apt-get install chromium`, or set TEST_CHROMIUM to a program")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class View:
    """One page in a browser."""

    page: Page
    asked: list[str] = field(default_factory=list)
    """Every address that was asked for."""
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of the page."""

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.add_init_script(HEARD)
        self.page.add_init_script(DRAWN)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]")

    def widen(self) -> None:
        """Show the whole run, with its warm-up, in the smallest windows."""
        smallest = self.page.locator("#sizes input").first
        smallest.check()
        smallest.blur()
        self.page.keyboard.press("0")

    def windows(self, panel: str = "ne") -> int:
        """Return how many windows a panel draws."""
        return int(self.page.locator(f"#{panel} .plot").get_attribute("data-windows") or -1)

    def until(self, done: Callable[[], bool]) -> None:
        """Ask again and again, for a while; what the page forbids itself, eval, is not used."""
        for _ in range(PATIENCE_MS // LOOK_MS):
            if done():
                return
            self.page.wait_for_timeout(LOOK_MS)
        raise AssertionError("it did not come to be")

    def wait_for_windows(self, count: int, panel: str = "ne") -> None:
        """Wait until a panel draws at least so many windows."""
        self.until(lambda: self.windows(panel) >= count)

    def says(self, panel: str) -> str:
        """Return what a panel says in words."""
        return self.page.locator(f"#{panel}-summary").inner_text()

    def heard(self) -> list[int]:
        """Return the offsets of all messages that came by the stream, in their order."""
        found: list[int] = self.page.evaluate("window.heard")
        return found

    def texts(self, panel: str) -> list[Text]:
        """Return what is written on the plot of a panel."""
        found = self.page.evaluate("(panel) => window.drawnIn(panel).texts", panel)
        return [Text(*one) for one in found]

    def dashes_of_key(self, panel: str, lines: int) -> list[list[float]]:
        """Return how the lines beside the names of so many lines are dashed: drawn last of all."""
        found = self.page.evaluate("(panel) => window.drawnIn(panel).strokes", panel)
        return [dashes for _, dashes in found[-lines:]]

    def right_end(self, panel: str) -> float:
        """Return where a plot ends at the right, on its canvas."""
        found: float = self.page.evaluate(
            """(panel) => {
              const [over, canvas] = [".u-over", "canvas"]
                .map((one) => document.querySelector(`#${panel} ${one}`).getBoundingClientRect());
              return (over.right - canvas.left) * devicePixelRatio;
            }""",
            panel,
        )
        return found

    def size(self) -> str:
        """Return which window size is chosen."""
        return self.page.locator("#sizes input:checked").input_value()

    def ground(self) -> str:
        """Return the colour of the background."""
        found: str = self.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return found

    def keep(self, folder: Path, name: str) -> None:
        """Keep a picture of the whole page."""
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}.png", full_page=True)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)
