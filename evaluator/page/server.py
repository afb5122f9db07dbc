"""Serving a page over HTTP, beside whatever else a process does."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import threading
from contextlib import suppress
from typing import Final

import uvicorn

from evaluator.page.addresses import Pages
from stream.closing import Closing

_GRACE_SECONDS: Final = 3
"""What is left to be read has as long, and then what is left to be sent."""
_LOOK_SECONDS: Final = 0.01


class PageServer(Closing):
    """Serves a page in a thread of its own, until it is closed; the feed is closed with it.

    Parameters
    ----------
    listening
        Of :func:`listen`; closed with the server.
    pages
        What it serves.
    """

    def __init__(self, listening: socket.socket, pages: Pages) -> None:
        self._pages, self._socket = pages, listening
        self.url = _url(listening)
        config = uvicorn.Config(
            pages.application(),
            lifespan="on",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let every viewer have what is left, within a few seconds, and stop."""
        self._begun.wait()
        # Where it has ended by itself, its loop is closed.
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self) -> None:
        try:
            asyncio.run(self._run())
        finally:
            self._begun.set()
            self._socket.close()

    async def _run(self) -> None:
        """Serve; who closes the server before it has begun waits until it has."""
        self._loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self._server.serve([self._socket]))
        while not (self._server.started or serving.done()):
            await asyncio.sleep(_LOOK_SECONDS)
        self._begun.set()
        ending = asyncio.create_task(self._end())
        await serving
        ending.cancel()

    async def _end(self) -> None:
        """Once somebody wants it, end all streams; uvicorn waits until they have been sent."""
        await self._stop.wait()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._pages.feed.close(), _GRACE_SECONDS)
        finally:
            self._server.should_exit = True


class AddressTakenError(OSError):
    """Somebody else listens there."""


def listen(host: str, port: int) -> socket.socket:
    """Take an address; ``OSError`` names it where it cannot be had.

    That is :class:`AddressTakenError` where somebody else has it.

    Parameters
    ----------
    host
        The address to listen on.
    port
        0 takes any free one.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()
    except OSError as error:
        listening.close()
        kind = AddressTakenError if error.errno == errno.EADDRINUSE else OSError
        raise kind(
            f"cannot listen on {host}:{port} ({error.strerror or error}); set serve.host and "
            "serve.port to a free address, or the port to 0 for any free one"
        ) from error
    return listening


def _url(listening: socket.socket) -> str:
    """Write where people find it; who listens everywhere is found here."""
    host, port = listening.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if isinstance(address, ipaddress.IPv4Address) else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
