"""A history that follows its log, for those who look on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final, Literal

from evaluator.page.history import Entry, PageHistory
from stream.follow import LogFollower, MessageLog
from stream.log import LogError, LogReader, StoredRecord
from stream.messages import Message, parse
from stream.topics import WINDOWS

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
"""Pause between two looks for what is new in the log."""
_RECORDS: Final = 256
"""Taken in at once; in between, viewers are answered."""
State = Literal["live", "finished", "stopped"]


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
        Whether the run ends no later than the feed is closed; else the log alone says whether it
        goes on.
    history
        What is known already.
    """

    def __init__(
        self,
        reader: LogReader | None = None,
        about: Mapping[str, str] = MappingProxyType({}),
        *,
        live: bool = True,
        history: PageHistory | None = None,
    ) -> None:
        self.about, self._is_of_run = dict(about), live
        self.history = history or PageHistory()
        self._tail = _follow(reader) if reader else None
        self._reading = asyncio.Lock()
        self._more = asyncio.Event()
        self._closed = False

    @property
    def identity(self) -> str:
        """Of the log; empty before there is one."""
        return self._tail.reader.identity if self._tail else ""

    @property
    def state(self) -> State:
        """Whether the run goes on, has come to its end, or neither as far as is known.

        A run that another process may still write is ``stopped`` too: its log does not say.
        """
        if self._is_of_run and not self._closed:
            return "live"
        return "finished" if self.history.is_finished else "stopped"

    @property
    def live(self) -> bool:
        """Whether more may come."""
        return not self._closed and self.state != "finished"

    def attach(self, reader: LogReader) -> None:
        """Follow a log from now on; called in any thread, and once."""
        self._tail = _follow(reader)

    def catch_up(self) -> None:
        """Take in all that is there, before anybody looks on."""
        while self._tail and (found := self._tail.poll_logged(_RECORDS)):
            for one in found:
                self.history.take(one)

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
        """Yield every record behind an offset, and then each as it comes, until no more may."""
        while True:
            more, is_last = self._more, not self.live
            found = await self._after(offset)
            for entry in found:
                offset = entry.offset
                yield entry
            if not found and is_last:
                return
            if not found:
                await more.wait()

    async def close(self) -> None:
        """Take in all that is left; who waits for more goes once it has that."""
        try:
            # What cannot be read now, nobody waits for: the process that shows it ends.
            with suppress(LogError):
                while await self._take():
                    pass
        finally:
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
            found = await asyncio.to_thread(self._tail.poll_logged, _RECORDS)
        for one in found:
            self.history.take(one)
        if found:
            self._tell()
        return bool(found)

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
                if stored.offset not in self._tail.repeats
            ]
            if found or not records:
                return found
            offset = records[-1].offset
        return self.history.after(offset)

    def _read(self, reader: LogReader, offset: int) -> list[StoredRecord]:
        """Read some of the records from an offset on that the history has taken in."""
        begin, end = max(offset, reader.begin(0)), self.history.offset
        return [one for one in reader.read(0, begin, _RECORDS) if one.offset <= end]


def _follow(reader: LogReader) -> LogFollower[Message]:
    return MessageLog(reader, WINDOWS).follow()
