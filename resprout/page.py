"""The live page of a run: where it is served, and what it says of the run in words."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resprout import home
from resprout.folder import RunFolder
from resprout.settings import ServeConfig, Settings
from stream.closing import Closing
from stream.log import LogHome
from stream.topics import WINDOWS

if TYPE_CHECKING:
    from evaluator.page.addresses import Probe

log = logging.getLogger(__name__)

PORT = 8_000
"""Of the page, where no other is set and this one is free."""


class Page(Closing):
    """A page that is served, until it is closed.

    Parameters
    ----------
    settings
        Of the run; they say where the page is served.
    state
        The state folder.
    probes
        What else is answered at its port.
    live
        Whether more may come.
    """

    def __init__(
        self,
        settings: Settings,
        state: Path,
        probes: Mapping[str, Probe] | None = None,
        *,
        live: bool = True,
    ) -> None:
        # A web server is loaded by those who show a page, and by nobody else.
        from evaluator.page.addresses import Pages
        from evaluator.page.feed import Feed
        from evaluator.page.server import PageServer

        self._feed = Feed(about=about(settings, state), live=live)
        self._server = PageServer(listen(settings.serve), Pages(self._feed, probes or {}))
        log.info("the page is at %s", self.url)

    @property
    def url(self) -> str:
        """Where people find it."""
        return self._server.url

    def show(self, logs: LogHome) -> None:
        """Show what the logs hold, and what comes; close the page before them."""
        self._feed.attach(logs.reader(WINDOWS))

    def close(self) -> None:
        """Let the viewers go, and stop."""
        self._server.close()


@contextmanager
def replayed(settings: Settings, folder: RunFolder) -> Iterator[Page]:
    """Show a run of the past."""
    with (
        home.logs(settings.stream, folder) as logs,
        Page(settings, folder.path, live=False) as page,
    ):
        page.show(logs)
        yield page


def listen(serve: ServeConfig) -> socket.socket:
    """Take the address that the settings name; without a port, the usual one or any free one."""
    from evaluator.page.server import listen as take

    if "port" in serve.model_fields_set:
        return take(serve.host, serve.port or 0)
    try:
        return take(serve.host, PORT)
    except OSError:
        log.info("port %d is taken; serve.port sets another", PORT)
        return take(serve.host, 0)


def about(settings: Settings, state: Path) -> dict[str, str]:
    """Say in words which run it is.

    >>> about(Settings(seed=4), Path("runs/demo"))
    {'run': 'demo', 'seed': '4', 'criterion': 'aux @ 80 %', 'trigger': 'divergence'}
    """
    return {
        "run": state.resolve().name,
        "seed": str(settings.seed),
        "criterion": f"{settings.pruner.criterion} @ {100 * settings.pruner.sparsity:g} %",
        "trigger": settings.trigger.name,
    }
