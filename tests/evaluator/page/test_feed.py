from __future__ import annotations

import asyncio
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evaluator.page.feed import Feed
from stream.embedded import EmbeddedHome
from stream.log import LogReader, LogUnreachableError, Record, StoredRecord
from stream.messages import dump
from stream.topics import WINDOWS
from tests.evaluator.runs import window


class Away:
    """A reader of a log that cannot be reached for the first few reads."""

    def __init__(self, reader: LogReader, reads: int) -> None:
        self.reads, self._reader = reads, reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, partition: int, offset: int, max_records: int = 64) -> list[StoredRecord]:
        self.reads -= 1
        if self.reads >= 0:
            raise LogUnreachableError("the broker has been away for 120 s")
        return list(self._reader.read(partition, offset, max_records))


def test_a_log_that_cannot_be_reached_is_tried_again_and_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = EmbeddedHome(tmp_path)

    async def look() -> list[int]:
        feed = Feed(Away(home.reader(WINDOWS), reads=3))
        following = asyncio.create_task(feed.follow())
        seen = []
        async for entry in feed.behind(-1):
            seen.append(entry.offset)
            if len(seen) == 2:
                feed.close()
        await following
        await feed.release()
        return seen

    with closing(home.writer(WINDOWS)) as writer, caplog.at_level(logging.WARNING):
        writer.append([Record(dump(window(100, n, {"dense": 0.4}))) for n in range(2)])
        assert asyncio.run(look()) == [0, 1]
    assert caplog.messages == [
        "the page does not see what comes: the broker has been away for 120 s"
    ]


def test_who_waits_for_more_is_let_go_when_the_feed_closes(tmp_path: Path) -> None:
    async def look() -> list[int]:
        feed = Feed(EmbeddedHome(tmp_path).reader(WINDOWS))

        async def wait() -> list[int]:
            return [entry.offset async for entry in feed.behind(-1)]

        waiting = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        feed.close()
        found = await asyncio.gather(*waiting)
        await feed.release()
        return [offset for one in found for offset in one]

    assert asyncio.run(look()) == []
