"""What people ask for by command line: written by them, read by the prune worker."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection
from contextlib import closing
from typing import Any

from stream import MessageLog
from stream.log import LogReader, LogStore, Record, StoredRecord
from stream.messages import Request, dump
from stream.topics import REQUESTS

__all__ = ["RequestFollower", "ask", "rebuild", "rollback"]

log = logging.getLogger(__name__)


class RequestFollower:
    """Follows the log of requests, which is short, from its beginning.

    What is no request is passed over, and said once.

    Parameters
    ----------
    reader
        The log.
    """

    def __init__(self, reader: LogReader) -> None:
        self._tail = MessageLog(reader, REQUESTS).follow(Request, on_other=_pass_over)
        self._requests: dict[str, Request] = {}

    def open(self, answered: Collection[str]) -> list[Request]:
        """Return the requests that are not answered yet, oldest first."""
        while found := self._tail.poll():
            self._requests |= {request.id: request for request in found}
        return [one for one in self._requests.values() if one.id not in answered]


def _pass_over(stored: StoredRecord, what: str) -> None:
    log.warning(
        "record %d of the log %s is no request and is passed over: %s: %r",
        stored.offset,
        REQUESTS,
        what,
        stored.record.value[:80],
    )


def rollback(version: int, reason: str) -> Request:
    """Ask for an earlier version.

    >>> rollback(1, "clicks fell").version
    1
    """
    return _drawn(action="rollback", version=version, reason=reason)


def rebuild(reason: str) -> Request:
    """Ask for a rebuild now.

    >>> rebuild("a new shop opened").action
    'rebuild'
    """
    return _drawn(action="rebuild", reason=reason)


def ask(home: LogStore, request: Request) -> None:
    """Write a request, safely; the log is held no longer than that.

    Raises :class:`stream.log.LogLockedError` where somebody else is writing one just now.
    """
    with closing(home.writer(REQUESTS)) as writer:
        writer.append([Record(dump(request), time_ms=request.time_ms)])
        writer.flush()


def _drawn(**request: Any) -> Request:
    now_ms = time.time_ns() // 1_000_000
    return Request(id=uuid.uuid4().hex, time_ms=now_ms, **request)
