"""A history that follows its log, for those who look on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Final

from evaluator.page.history import Entry, History
from stream.keyed import Tail
from stream.log import LogError, LogReader, StoredRecord
from stream.messages import parse

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
"""Pause between two looks for what is new in the log."""
_RECORDS: Final = 256
"""Taken in at once; in between, viewers are answered."""


class Feed:
    """A history that follows its log, and tells those who wait that there is more.

    Its methods are called in one event loop, but for :meth:`attach` and :meth:`catch_up`. The log
    is read in a thread, for it may be far away.

    Parameters
    ----------
    reader
        Of the log ``windows``, its own; the feed closes it. None: one may be attached later.
    about
        What is shown of the run in words: name and value.
    live
        Whether more may come.
    history
        What is known already.
    """

    def __init__(
        self,
        reader: LogReader | None = None,
        about: Mapping[str, str] = MappingProxyType({}),
        *,
        live: bool = True,
        history: History | None = None,
    ) -> None:
        self.about, self.live = dict(about), live
        self.history = history or History()
        self._tail = Tail(reader) if reader else None
        self._reading = asyncio.Lock()
        self._more = asyncio.Event()
        self._closed = False

    @property
    def identity(self) -> str:
        """Of the log; empty before there is one."""
        return self._tail.reader.identity if self._tail else ""

    def attach(self, reader: LogReader) -> None:
        """Follow a log from now on; called in any thread, and once."""
        self._tail = Tail(reader)

    def catch_up(self) -> None:
        """Take in all that is there, before anybody looks on."""
        while self._tail and (records := self._tail.poll(_RECORDS)):
            for stored in records:
                self.history.take(stored)

    async def follow(self) -> None:
        """Take in what comes, until closed; a log that cannot be read is tried again."""
        readable = True
        while not self._closed:
            try:
                more = await self._take()
            except LogError as error:
                if readable:
                    log.warning("the page does not see what comes: %s", error)
                readable, more = False, False
            else:
                readable = True
            if not more:
                await asyncio.sleep(POLL_SECONDS)

    async def behind(self, offset: int) -> AsyncIterator[Entry]:
        """Yield every record behind an offset, and then each as it comes, until closed."""
        while not self._closed:
            more = self._more
            found = await self._after(offset)
            for entry in found:
                offset = entry.offset
                yield entry
            if not found:
                await more.wait()

    def close(self) -> None:
        """Let those who wait for more go; called in the loop that they wait in."""
        self._closed = True
        self._tell()

    async def release(self) -> None:
        """Release the log, once nobody reads it."""
        async with self._reading:
            if self._tail:
                await asyncio.to_thread(self._tail.reader.close)

    async def _take(self) -> bool:
        if self._tail is None:
            return False
        async with self._reading:
            records = await asyncio.to_thread(self._tail.poll, _RECORDS)
        for stored in records:
            self.history.take(stored)
        if records:
            self._tell()
        return bool(records)

    def _tell(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def _after(self, offset: int) -> list[Entry]:
        """Return records behind an offset; old ones are read again, some at a time."""
        while self._tail and offset < self.history.forgotten:
            async with self._reading:
                records = await asyncio.to_thread(self._read, self._tail.reader, offset + 1)
            found = [
                Entry(stored.offset, parse(stored.record.value).kind, stored.record.value)
                for stored in records
                if stored.offset not in self.history.repeats
            ]
            if found or not records:
                return found
            offset = records[-1].offset
        return self.history.after(offset)

    def _read(self, reader: LogReader, offset: int) -> list[StoredRecord]:
        """Read some of the records from an offset on that the history has taken in."""
        begin, end = max(offset, reader.begin(0)), self.history.offset
        return [one for one in reader.read(0, begin, _RECORDS) if one.offset <= end]
