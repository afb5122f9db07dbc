"""A cable between a browser and a server, that can be cut and mended."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer

BYTES = 65_536
LOOK_SECONDS = 0.05


class Cable:
    """Passes TCP connections on to a server of this host.

    Parameters
    ----------
    port
        Of the server.

    Attributes
    ----------
    to
        The port of the server; where it is another one, the cable leads there once it was mended.
    port
        Where connections are taken; the same after the cable was mended.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.to = port
        self.mend()

    def mend(self) -> None:
        """Take connections."""
        self._server = _Server(self.port, self.to)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(LOOK_SECONDS,))
        self._thread.start()

    def cut(self) -> None:
        """Break all connections, and take none."""
        self._server.is_cut = True
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True

    def __init__(self, port: int, to: int) -> None:
        self.is_cut, self.to = False, to
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        near: socket.socket = self.request
        # Either end may hang up at any time.
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.server.to)) as far:
            ends = {near: far, far: near}
            while not self.server.is_cut:
                for one in select.select(list(ends), [], [], LOOK_SECONDS)[0]:
                    if not (passed := one.recv(BYTES)):
                        return
                    ends[one].sendall(passed)
