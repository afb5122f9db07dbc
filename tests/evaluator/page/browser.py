"""A browser that looks at the page, and notes what it asks for and complains of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.servers import missing

CHROMIUM = os.environ.get("TEST_CHROMIUM", "/usr/bin/chromium")
PATIENCE_MS = 30_000
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
      const ours = !["log", "stopped"].includes(kind);
      if (ours) window.heard.push(Number(event.lastEventId));
      take(event);
    });
  }
};
"""
"""Notes the id of every message that reaches the page."""


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
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]")

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
