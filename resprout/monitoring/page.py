"""The live page of a run: where it is served, and what it says of the run in words."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resprout.folder import RunFolder
from resprout.monitoring.progress import last_told
from resprout.settings import EVALUATOR, ServeConfig, Settings
from stream import open_logs
from stream.log import LogStore
from stream.messages import Progress
from stream.topics import WINDOWS, progress

if TYPE_CHECKING:
    from evaluator.page import PageFeed, Probe

log = logging.getLogger(__name__)

PORT = 8_000
"""Of the page, where no other is set and this one is free."""


class Page:
    """A page that is served, until it is closed.

    Parameters
    ----------
    settings
        Of the run; they say where the page is served.
    state
        The state folder.
    probes
        What else is answered at its port.
    feed
        What it shows; by default the run of this process, once :meth:`show` says where its logs
        are.
    """

    def __init__(
        self,
        settings: Settings,
        state: Path,
        probes: Mapping[str, Probe] | None = None,
        feed: PageFeed | None = None,
    ) -> None:
        # A web server is loaded by those who show a page, and by nobody else.
        from evaluator.page import PageFeed, Pages, serve_page

        self._feed = feed or PageFeed(about=about(settings, state))
        self._server = serve_page(listen(settings.serve), Pages(self._feed, probes or {}))
        self.url = self._server.url
        """Where people find it."""
        log.info("the page is at %s", self.url)

    def show(self, logs: LogStore) -> None:
        """Show what the logs hold, and what comes; close the page before them."""
        self._feed.attach(logs.reader(WINDOWS))

    def close(self) -> None:
        """Let the viewers go, and stop."""
        self._server.close()


@contextmanager
def replayed(settings: Settings, folder: RunFolder) -> Iterator[Page]:
    """Show a run of the past: all that its log holds, before anybody knows the address.

    Raises as reading the log does. A run that goes on in another process is followed.
    """
    from evaluator.page import PageFeed

    with (
        open_logs(settings.stream, folder.home.folder, writable=False) as logs,
        closing(logs.reader(WINDOWS)) as reader,
    ):
        feed = PageFeed(reader, about(settings, folder.path), live=False)
        feed.catch_up()
        for last in _last_reports(logs, settings.workers):
            feed.history.complete(last)
        with closing(Page(settings, folder.path, feed=feed)) as page:
            yield page


def _last_reports(logs: LogStore, workers: Iterable[str]) -> list[Progress]:
    """Return the last reports of the workers of a finished run; none while more may be copied."""
    last = last_told(logs, [one for one in workers if logs.exists(progress(one))])
    is_over = any(one.worker == EVALUATOR and one.done for one in last)
    return last if is_over else []


def listen(serve: ServeConfig) -> socket.socket:
    """Take the address that the settings name; without a port, the usual one or any free one."""
    from evaluator.page import AddressTakenError
    from evaluator.page import listen as take

    if "port" in serve.model_fields_set:
        return take(serve.host, serve.port or 0)
    try:
        return take(serve.host, PORT)
    except AddressTakenError:
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
