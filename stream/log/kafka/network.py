"""Connections that tell why they failed: the one file that reaches into kafka-python.

kafka-python 3.0.12 keeps to itself why a broker cannot be reached (it logs it, and raises ``Unable
to bootstrap``). It drops what a broker said right before it hung up, which is how a broker
says that a password is wrong. It leaves sockets open that could not be connected, and it asks
brokers to make the topics that it reads. A producer does not close while it holds what it cannot
deliver. It reads from the network 4 KB at a time, each time at the price of the interpreter lock.
It reads no record with a header whose name is not UTF-8, nor any after it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.record.default_records import DefaultRecordBatch

_RECEIVE_BYTES: Final = 256 * 1024


class Network:
    """Makes the network part of one client, and remembers why it could not connect.

    Parameters
    ----------
    is_final
        Says of an error whether trying again is of no use.
    """

    def __init__(self, is_final: Callable[[Exception], bool]) -> None:
        self._is_final = is_final
        self._client: Any = None
        self._connected: list[Any] = []
        self.reasons: list[Exception] = []
        """Why connections failed, until the client was there."""

    def __call__(self, **configs: Any) -> Any:
        """Make it; called by a client as its ``kafka_client``."""
        net = NetworkSelector(**configs)
        manager = KafkaConnectionManager(net, **configs)
        manager.cluster.config["allow_auto_create_topics"] = False
        _replace(
            manager, "_build_transport", lambda *place, **at: _transport(manager, *place, **at)
        )
        connect = manager.get_connection

        def get_connection(*node: Any, **options: Any) -> Any:
            connection = connect(*node, **options)
            if not manager.bootstrapped and connection not in self._connected:
                self._connected.append(connection)
                connection.init_future.add_errback(self._failed)
            return connection

        _replace(manager, "get_connection", get_connection)
        self._client = KafkaNetClient(net=net, manager=manager, **configs)
        return self._client

    def close(self) -> None:
        """Close a client that did not come to be."""
        if self._client is not None:
            self._client.close()

    def _failed(self, error: Exception) -> None:
        self.reasons.append(error)
        if self._is_final(error):
            self._client._manager.close()


def fetch_ahead(consumer: KafkaConsumer) -> None:
    """Ask for what comes next, and do not wait for it.

    A consumer that has waited for an answer leaves the broker idle until it is polled again.
    """
    consumer._fetcher.send_fetches()


def discard(producer: KafkaProducer, seconds: float) -> None:
    """Close a producer, whatever it still holds."""
    try:
        producer.close(timeout=seconds)
    except kafka_errors.KafkaError:
        producer._sender.force_close()
        producer.close(timeout=seconds)


def _replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


class _Escaped(bytearray):
    """Bytes whose parts become text whatever they hold: what is no UTF-8 is escaped."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Escaped(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


_read_strictly = DefaultRecordBatch._read_msg


def _read_record(batch: Any) -> Any:
    """Read the next record of a batch; what is not UTF-8 in the name of a header is escaped."""
    try:
        return _read_strictly(batch)
    except UnicodeDecodeError:
        whole, batch._buffer = batch._buffer, _Escaped(batch._buffer)
        try:
            return _read_strictly(batch)
        finally:
            batch._buffer = whole


# kafka-python makes these objects itself, and asks nobody.
_replace(DefaultRecordBatch, "_read_msg", _read_record)


async def _transport(manager: Any, node: Any, timeout_at: float | None = None) -> Any:
    """Connect to a node, as kafka-python does, but close what fails."""
    net, config = manager._net, manager.config
    sock = await _connected(manager, node, timeout_at)
    secure = {key: value for key, value in config.items() if key.startswith("ssl_")}
    try:
        if manager.ssl_enabled:
            transport = KafkaSSLTransport(net, sock, host=node.host, **secure)
        else:
            transport = KafkaTCPTransport(net, sock, host=node.host)
    except OSError:
        sock.close()
        raise
    receive = transport._sock_recv
    _replace(transport, "_sock_recv", lambda: _data_first(*receive()))
    try:
        await transport.handshake()
    except OSError as error:
        transport.close()
        raise kafka_errors.KafkaConnectionError(f"Handshake failed: {error}") from error
    return transport


async def _connected(manager: Any, node: Any, timeout_at: float | None) -> Any:
    """Connect a socket to the first address of a node that takes it."""
    net, sockets = manager._net, KafkaNetSocket()
    failure: Exception = OSError("the name is not known")
    for family, kind, protocol, _, place in sockets.dns_lookup(node.host, node.port):
        sock = _Socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            for option in manager.config["socket_options"]:
                sock.setsockopt(*option)
            return await sockets.sock_connect(net, sock, place, timeout_at=timeout_at)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError | kafka_errors.KafkaError):
                raise
            failure = error
    raise kafka_errors.KafkaConnectionError(f"{node.host}:{node.port}: {failure}")


class _Socket(socket.socket):
    """Receives more than it is asked for, where there is more."""

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        return super().recv(max(bufsize, _RECEIVE_BYTES), flags)


def _data_first(data: bytes, error: Exception | None) -> tuple[bytes, Exception | None]:
    """Hand over what was received before the other side hung up; the next call tells of that."""
    return data, None if data else error
