from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evaluator.page.feed import PageFeed
from stream.follow import LoggedMessage
from stream.log import LogReader, LogUnreachableError, Record, StoredRecord
from stream.log.local import LocalLogStore
from stream.messages import AnyMessage, Message, Progress, dump
from stream.topics import WINDOWS
from tests.evaluator.messages import progress
from tests.evaluator.runs import window

CE = {"dense": 0.4, "sparse": 0.5}


def taken(*messages: AnyMessage, recent: int = 100) -> PageFeed:
    """Take messages in from a log with holes: offsets 10, 13, 16, ..."""
    feed = PageFeed(recent=recent)
    for number, message in enumerate(messages):
        feed.take(LoggedMessage(10 + 3 * number, message, dump(message)))
    return feed


def test_only_the_last_records_are_kept_as_they_are() -> None:
    feed = taken(*(window(100, number, CE) for number in range(5)), recent=2)
    assert feed.forgotten == 16
    assert [entry.offset for entry in feed.recent(16)] == [19, 22]
    assert [entry.offset for entry in feed.recent(19)] == [22]
    assert feed.recent(22) == []
    assert feed.recent(19)[0].value == dump(window(100, 4, CE))


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
    home = LocalLogStore(tmp_path)

    async def look() -> list[int]:
        feed = PageFeed(Away(home.reader(WINDOWS), reads=3))
        following = asyncio.create_task(feed.follow())
        seen = []
        async for entry in feed.after(-1):
            seen.append(entry.offset)
            if len(seen) == 2:
                await feed.close()
        await following
        await feed.release()
        return seen

    with closing(home.writer(WINDOWS)) as writer, caplog.at_level(logging.WARNING):
        writer.append([Record(dump(window(100, n, {"dense": 0.4}))) for n in range(2)])
        assert asyncio.run(look()) == [0, 1]
    assert caplog.messages == [
        "the page does not see what comes: the broker has been away for 120 s"
    ]


def test_a_repeat_is_passed_over_by_all_who_look_on(tmp_path: Path) -> None:
    """Also by those who come late, for whom old records are read again."""
    home = LocalLogStore(tmp_path)

    async def look() -> list[int]:
        feed = PageFeed(home.reader(WINDOWS), recent=1, live=False)
        feed.catch_up()
        assert len(feed.history.tables[100]) == 2
        assert feed.history.workers["dense"].last == progress("dense", 2.0, 600)
        await feed.close()
        found = [entry.offset async for entry in feed.after(-1)]
        await feed.release()
        return found

    told = [progress("dense", 2.0, 500), progress("dense", 2.0, 600)]
    windows = [window(100, n, {"dense": 0.4}) for n in (0, 0, 1)]
    with closing(home.writer(WINDOWS)) as writer:
        writer.append([Record(dump(message)) for message in (*windows, *told)])
    assert asyncio.run(look()) == [0, 2, 3, 4]


def test_who_waits_for_more_is_let_go_when_the_feed_closes(tmp_path: Path) -> None:
    async def look() -> list[int]:
        feed = PageFeed(LocalLogStore(tmp_path).reader(WINDOWS))

        async def wait() -> list[int]:
            return [entry.offset async for entry in feed.after(-1)]

        waiting = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        await feed.close()
        found = await asyncio.gather(*waiting)
        await feed.release()
        return [offset for one in found for offset in one]

    assert asyncio.run(look()) == []


def test_what_came_just_before_the_end_reaches_who_looks_on(tmp_path: Path) -> None:
    """The feed looks every now and then, and the end does not wait for that."""
    home = LocalLogStore(tmp_path)

    async def look(write: Callable[[int], None]) -> list[int]:
        feed = PageFeed(home.reader(WINDOWS), recent=2)
        following = asyncio.create_task(feed.follow())

        async def wait(offset: int) -> list[int]:
            return [entry.offset async for entry in feed.after(offset)]

        waiting = [asyncio.create_task(wait(offset)) for offset in (-1, 3)]
        await asyncio.sleep(0.05)
        for number in range(1_000):
            write(number)
        await feed.close()
        found = await asyncio.gather(*waiting)
        await following
        await feed.release()
        assert found[1] == list(range(4, 1_000))
        return found[0]

    with closing(home.writer(WINDOWS)) as writer:
        assert asyncio.run(
            look(lambda n: writer.append([Record(dump(window(100, n, {"dense": 0.4})))]))
        ) == list(range(1_000))


def test_a_feed_that_cannot_be_read_at_the_end_lets_go_all_the_same(tmp_path: Path) -> None:
    async def look() -> list[int]:
        feed = PageFeed(Away(LocalLogStore(tmp_path).reader(WINDOWS), reads=9))
        await feed.close()
        found = [entry.offset async for entry in feed.after(-1)]
        await feed.release()
        return found

    assert asyncio.run(look()) == []


DONE = [progress("evaluator", 3.0, 900, done=True), progress("sparse", 3.0, 800)]


@pytest.mark.parametrize(
    ("live", "told", "expected"),
    [
        (True, [], [("live", True), ("stopped", False)]),
        (True, DONE, [("live", True), ("finished", False)]),
        (False, [], [("stopped", True), ("stopped", False)]),
        (False, [progress("evaluator", 3.0, 900)], [("stopped", True), ("stopped", False)]),
        (False, DONE, [("finished", False), ("finished", False)]),
        (False, [*DONE, progress("evaluator", 0.0, 0)], [("stopped", True), ("stopped", False)]),
    ],
)
def test_the_log_says_whether_a_run_has_ended_and_the_server_whether_more_may_come(
    live: bool, told: list[Progress], expected: list[tuple[str, bool]], tmp_path: Path
) -> None:
    home = LocalLogStore(tmp_path)

    async def look() -> list[tuple[str, bool]]:
        feed = PageFeed(home.reader(WINDOWS), live=live)
        feed.catch_up()
        before = (feed.state, feed.live)
        await feed.close()
        return [before, (feed.state, feed.live)]

    with closing(home.writer(WINDOWS)) as writer:
        writer.append([Record(dump(one)) for one in told])
        assert asyncio.run(look()) == expected


def test_who_looks_at_a_run_that_another_process_writes_is_let_go_at_its_end(
    tmp_path: Path,
) -> None:
    home = LocalLogStore(tmp_path)

    async def look(write: Callable[[Message], None]) -> list[str]:
        feed = PageFeed(home.reader(WINDOWS), live=False)
        following = asyncio.create_task(feed.follow())
        seen: list[str] = []
        write(window(100, 0, {"dense": 0.4}))
        async for entry in feed.after(-1):
            seen.append(entry.message.kind)
            if entry.message.kind == "window":
                write(DONE[0])
        await feed.close()
        await following
        await feed.release()
        return seen

    with closing(home.writer(WINDOWS)) as writer:
        found = asyncio.run(look(lambda message: writer.append([Record(dump(message))])))
    assert found == ["window", "progress"]
