from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError

from stream.follow import Deduplicator, LogPosition, MessageLog, read_all, resume
from stream.log import (
    LogIdentityError,
    LogLostError,
    LogStore,
    LogTrimmedError,
    Record,
    StoredRecord,
)
from stream.log.local import LocalLogStore
from stream.messages import Alarm, Decision, Message, Progress, dump
from tests.stream.log_contract import numbered, records


def decisions(count: int, start: int = 0) -> list[Decision]:
    return [Decision(count=500 * n, why_not="maturing") for n in range(start, start + count)]


def alarm(count: int) -> Alarm:
    return Alarm(
        detector="click_rate",
        feature=None,
        count=count,
        since=0,
        statistic=2,
        threshold=1,
        reason="it fell",
    )


def progress(events: int) -> Progress:
    return Progress(
        worker="dense", count=0, events=events, wall_seconds=1, waiting_for=None, time_ms=7
    )


def write(store: LogStore, messages: Sequence[Message]) -> None:
    with closing(store.writer("ledger")) as writer:
        writer.append([Record(dump(message)) for message in messages])


# Repeats.


def test_the_first_is_taken_and_its_repeats_are_not() -> None:
    seen = Deduplicator()
    taken = [seen.accept(key, key.encode()) for key in ("a", "b", "a", "c", "b", "a")]
    assert taken == [True, True, False, True, False, False]
    assert seen.conflicts == 0
    assert len(seen) == 3


def test_a_repeat_that_differs_raises_an_alarm(caplog: pytest.LogCaptureFixture) -> None:
    seen = Deduplicator()
    seen.accept("window/500/0", b"0.7")
    with caplog.at_level(logging.ERROR):
        assert not seen.accept("window/500/0", b"0.8")
    assert seen.conflicts == 1
    assert "window/500/0 was published again with other bytes" in caplog.text
    assert not seen.accept("window/500/0", b"0.7")
    assert seen.conflicts == 1


def test_a_key_that_is_forgotten_is_new_again() -> None:
    seen = Deduplicator()
    seen.accept("a", b"1")
    seen.forget(["a", "never seen"])
    assert seen.accept("a", b"2")
    assert seen.conflicts == 0


def test_the_oldest_are_forgotten_beyond_the_bound() -> None:
    seen = Deduplicator(max_entries=2)
    for key in "abc":
        seen.accept(key, b"")
    assert len(seen) == 2
    assert not seen.accept("b", b"")
    assert not seen.accept("c", b"")
    assert seen.accept("a", b"")


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="max_entries is 0; use at least 1"):
        Deduplicator(max_entries=0)


# Positions.


def test_reading_goes_on_at_the_offset_of_the_position(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    write(store, decisions(7))
    log = store.reader("ledger")
    assert resume(log, "ledger", None) == 0
    assert resume(log, "ledger", LogPosition(log.identity, 7)) == 7


def test_a_position_after_the_end_of_its_log_is_refused(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    write(store, decisions(7))
    log = store.reader("ledger")
    lost = r"the log ledger ends at 7, before offset 8, up to which it was written or read at the"
    with pytest.raises(LogLostError, match=lost):
        MessageLog(log, "ledger").follow(Decision, position=LogPosition(log.identity, 8))


def test_a_position_in_a_log_that_was_made_again_is_refused(tmp_path: Path) -> None:
    log = LocalLogStore(tmp_path).reader("ledger")
    with pytest.raises(LogIdentityError, match=r"ledger before, this one is .* made again; begin"):
        MessageLog(log, "ledger").follow(Decision, position=LogPosition("before", 7))


# Following.


def test_a_follower_returns_each_message_once(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    follower = MessageLog(store, "ledger").follow(Decision)
    assert follower.at_end
    assert follower.poll() == []
    write(store, decisions(5))
    assert not follower.at_end
    assert follower.poll(max_records=3) == decisions(3)
    assert follower.poll() == decisions(2, start=3)
    assert follower.at_end
    write(store, decisions(1, start=5))
    assert follower.poll() == decisions(1, start=5)
    follower.close()


def test_a_follower_resumes_from_its_position(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    write(store, decisions(5))
    before = MessageLog(store, "ledger").follow(Decision)
    before.poll(max_records=2)
    assert before.position == LogPosition(store.reader("ledger").identity, 2)
    after = MessageLog(store, "ledger").follow(Decision, position=before.position)
    assert after.poll() == decisions(3, start=2)


def test_a_new_follower_begins_with_the_oldest_record_kept(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    write(store, decisions(5))
    store.trim("ledger", 0, 3)
    assert MessageLog(store, "ledger").follow(Decision).poll() == decisions(2, start=3)


def test_what_was_trimmed_before_it_was_read_is_an_error_or_passed_over(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    write(store, decisions(5))
    strict = MessageLog(store, "ledger").follow(Decision)
    lenient = MessageLog(store, "ledger").follow(Decision, skips_trimmed=True)
    assert strict.poll(1) == lenient.poll(1) == decisions(1)
    store.trim("ledger", 0, 3)
    with pytest.raises(LogTrimmedError, match="offset 1 has been trimmed away"):
        strict.poll()
    assert lenient.poll() == decisions(2, start=3)


def test_repeats_are_left_out_and_one_that_differs_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = LocalLogStore(tmp_path)
    other = Decision(count=500, why_not="cooling down")
    write(store, [*decisions(3), *decisions(2), other, *decisions(1, start=3)])
    follower = MessageLog(store, "ledger").follow(Decision)
    with caplog.at_level(logging.ERROR):
        assert follower.poll(max_records=2) + follower.poll(2) + follower.poll(2) == decisions(4)
    assert (follower.conflicts, follower.repeats) == (1, {3, 4, 5})
    assert caplog.messages == [
        "decision/500 was published again with other bytes; the first is kept"
    ]


def test_progress_is_of_the_wall_clock_and_never_a_repeat(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    told = [progress(500), progress(600), progress(600)]
    write(store, told)
    follower = MessageLog(store, "ledger").follow(Progress)
    assert follower.poll() == told
    assert (follower.conflicts, follower.repeats) == (0, set())


def test_a_poll_is_empty_only_at_the_end_however_much_is_passed_over(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    write(store, [*(alarm(n) for n in range(200)), *decisions(1), *decisions(1), alarm(200)])
    follower = MessageLog(store, "ledger").follow(Decision)
    assert follower.poll(max_records=10) == decisions(1)
    assert follower.poll(max_records=10) == []
    assert follower.at_end


def test_without_a_kind_every_message_counts(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    written: list[Message] = [alarm(7), *decisions(1), progress(500)]
    write(store, written)
    found: list[Message] = list(MessageLog(store, "ledger").read())
    assert found == written


def test_each_message_knows_where_it_stands(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    write(store, [alarm(7), *decisions(2)])
    found = MessageLog(store, "ledger").follow(Decision).poll_logged()
    assert [(one.offset, one.message) for one in found] == [*zip((1, 2), decisions(2), strict=True)]
    assert [one.value for one in found] == [dump(decision) for decision in decisions(2)]


def test_what_is_none_of_the_kinds_is_told_of_where_asked(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    with closing(store.writer("ledger")) as writer:
        writer.append([Record(b"{"), Record(dump(alarm(7))), Record(dump(decisions(1)[0]))])
    told = []

    def tell(stored: StoredRecord, what: str) -> None:
        told.append((stored.offset, what.partition(":")[0]))

    follower = MessageLog(store, "ledger").follow(Decision, on_other=tell)
    assert follower.poll() == decisions(1)
    assert told == [(0, "no message (Invalid JSON"), (1, "a alarm")]


def test_what_is_no_message_is_an_error_and_stays_the_next_record(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    with closing(store.writer("ledger")) as writer:
        writer.append([Record(b"{")])
    follower = MessageLog(store, "ledger").follow(Decision)
    for _ in range(2):
        with pytest.raises(ValidationError, match="Invalid JSON"):
            follower.poll()
    assert follower.position.offset == 0


def test_a_log_is_read_as_often_as_asked(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    write(store, [*decisions(600), alarm(7)])
    for log in (MessageLog(store, "ledger"), MessageLog(store.reader("ledger"), "ledger")):
        assert list(log.read(Decision)) == decisions(600)
        assert list(log.read(Alarm)) == [alarm(7)]


def test_all_records_are_gone_through_in_order(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    assert list(read_all(store.reader("clicks"))) == []
    with closing(store.writer("clicks")) as writer:
        writer.append(numbered(600))
    assert records(list(read_all(store.reader("clicks")))) == numbered(600)
