"""What a page knows: a history that follows its log."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from evaluator.run.history import RunHistory
from stream import MODELS, LogFollower, LoggedMessage, MessageLog, ModelSpec
from stream.log import LogError, LogReader, StoredRecord
from stream.messages import AnyMessage, parse
from stream.topics import WINDOWS

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
"""Pause between two readings of the log."""
RECENT: Final = 1_000
"""Records that are kept as they are in the log, for those who follow."""
_RECORDS: Final = 256
"""Taken in at once; in between, viewers are answered."""
FeedState = Literal["live", "finished", "stopped"]


class Timetable(BaseModel):
    """What is known of a run before its log says it, in events: when something is due."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_mask_events: int
    """Events that the dense model learns from before the first mask is made."""
    rebuild_events: int
    """Events from the decision on a rebuild, or on the first mask, to its end."""
    window_events: int
    """Of the windows that are decided on."""
    threshold: float | None = None
    """The rise of the relative cross entropy that is large enough for a rebuild; None where the
    trigger looks at something else."""


class PageFeed:
    """Follows a log, and wakes those who wait for more of it.

    Its methods are called in one event loop, except :meth:`attach` and :meth:`catch_up`. The log
    is read in a thread, for it may be far away.

    Parameters
    ----------
    reader
        Of the log ``windows``, its own; the feed closes it. None: one may be attached later.
    about
        What is shown of the run in words: name and value.
    live
        Whether the run ends no later than the feed is closed; else the log alone says whether it
        continues.
    recent
        Records that are kept as they are in the log.
    models
        The models that there can be.

    Attributes
    ----------
    timetable
        When what is due; None until somebody says it.
    history
        What the log says of the run.
    offset
        Of the last record taken; -1 before the first.
    forgotten
        Of the last record that is not kept as it is any more.
    """

    def __init__(
        self,
        reader: LogReader | None = None,
        about: Mapping[str, str] | None = None,
        *,
        live: bool = True,
        recent: int = RECENT,
        models: Sequence[ModelSpec] = MODELS,
    ) -> None:
        self.about, self._is_of_run = dict(about or {}), live
        self.timetable: Timetable | None = None
        self.history = RunHistory(models)
        self.offset = self.forgotten = -1
        self._recent: deque[LoggedMessage[AnyMessage]] = deque(maxlen=recent)
        self._tail: LogFollower[AnyMessage] | None = None
        if reader is not None:
            self.attach(reader)
        self._reading = asyncio.Lock()
        self._more = asyncio.Event()
        self._closed = False

    @property
    def identity(self) -> str:
        """Of the log; empty before there is one."""
        return self._tail.reader.identity if self._tail else ""

    @property
    def state(self) -> FeedState:
        """Whether the run continues, has come to its end, or neither as far as is known.

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
        self._tail = MessageLog(reader, WINDOWS).follow(skips_trimmed=True)

    def catch_up(self) -> None:
        """Take in all that is there, before anybody sees it."""
        while self._tail and (found := self._tail.poll_logged(_RECORDS)):
            for one in found:
                self.take(one)

    def take(self, one: LoggedMessage[AnyMessage]) -> None:
        """Take a message in."""
        self.offset = one.offset
        self.history.take(one.message, one.value)
        if len(self._recent) == self._recent.maxlen:
            self.forgotten = self._recent[0].offset
        self._recent.append(one)

    def recent(self, offset: int) -> list[LoggedMessage[AnyMessage]]:
        """Return the records after an offset that is not before ``forgotten``."""
        newer = takewhile(lambda one: one.offset > offset, reversed(self._recent))
        return [*newer][::-1]

    async def follow(self) -> None:
        """Take in what comes, until closed; a log that cannot be read is tried again."""
        readable = True
        while not self._closed:
            more = False
            try:
                more, readable = await self._take(), True
            except LogError as error:
                if readable:
                    log.warning("the page does not see what comes: %s", error)
                readable = False
            if not more:
                await asyncio.sleep(POLL_SECONDS)

    async def after(self, offset: int) -> AsyncIterator[LoggedMessage[AnyMessage]]:
        """Yield every record after an offset, and then each as it comes, until no more may."""
        while True:
            more, is_last = self._more, not self.live
            found = await self._entries(offset)
            for entry in found:
                offset = entry.offset
                yield entry
            if not found and is_last:
                return
            if not found:
                await more.wait()

    async def close(self) -> None:
        """Take in all that is left; whoever waits for more gets that, and is released."""
        try:
            # What cannot be read now, nobody waits for: the process that shows it ends.
            with suppress(LogError):
                while await self._take():
                    pass
        finally:
            self._closed = True
            self._wake()

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
            self.take(one)
        if found:
            self._wake()
        return bool(found)

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def _entries(self, offset: int) -> list[LoggedMessage[AnyMessage]]:
        """Return records after an offset; old ones are read again, some at a time."""
        while self._tail and offset < self.forgotten:
            async with self._reading:
                records = await asyncio.to_thread(self._read, self._tail.reader, offset + 1)
            found = [
                LoggedMessage(one.offset, parse(one.record.value), one.record.value)
                for one in records
                if one.offset not in self._tail.repeats
            ]
            if found or not records:
                return found
            offset = records[-1].offset
        return self.recent(offset)

    def _read(self, reader: LogReader, offset: int) -> list[StoredRecord]:
        """Read some of the records from an offset on, up to the last one taken in."""
        begin, end = max(offset, reader.begin(0)), self.offset
        return [one for one in reader.read(0, begin, _RECORDS) if one.offset <= end]
