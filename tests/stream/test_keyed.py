from __future__ import annotations

import logging
from pathlib import Path

import pytest

from stream.follow import Deduplicator, LogFollower, read_all
from stream.log.local import LocalLogStore
from tests.stream.log_contract import numbered, records


def test_the_first_is_taken_and_its_repeats_are_not() -> None:
    first = Deduplicator()
    taken = [first.accept(key, key.encode()) for key in ("a", "b", "a", "c", "b", "a")]
    assert taken == [True, True, False, True, False, False]
    assert first.conflicts == 0
    assert len(first) == 3


def test_a_repeat_that_differs_raises_an_alarm(caplog: pytest.LogCaptureFixture) -> None:
    first = Deduplicator()
    first.accept("window/500/0", b"0.7")
    with caplog.at_level(logging.ERROR):
        assert not first.accept("window/500/0", b"0.8")
    assert first.conflicts == 1
    assert "window/500/0 was published again with other bytes" in caplog.text
    assert not first.accept("window/500/0", b"0.7")
    assert first.conflicts == 1


def test_a_key_that_is_forgotten_is_new_again() -> None:
    first = Deduplicator()
    first.accept("a", b"1")
    first.forget(["a", "never seen"])
    assert first.accept("a", b"2")
    assert first.conflicts == 0


def test_the_oldest_are_forgotten_beyond_the_bound() -> None:
    first = Deduplicator(max_entries=2)
    for key in "abc":
        first.accept(key, b"")
    assert len(first) == 2
    assert not first.accept("b", b"")
    assert not first.accept("c", b"")
    assert first.accept("a", b"")


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="max_entries is 0; use at least 1"):
        Deduplicator(max_entries=0)


def test_what_is_dumped_and_loaded_goes_on_as_if_nothing_had_happened() -> None:
    first = Deduplicator(max_entries=3)
    for key in "abc":
        first.accept(key, key.encode())
    first.accept("b", b"other")
    again = Deduplicator.load(first.dump(), max_entries=3)
    assert again.dump() == first.dump()
    assert again.conflicts == 1
    assert again.accept("d", b"") is first.accept("d", b"") is True
    assert again.dump() == first.dump()
    assert not again.accept("b", b"b")
    assert again.conflicts == 1


def test_a_tail_returns_each_record_once(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    writer = home.writer("ledger")
    tail = LogFollower(home.reader("ledger"))
    assert tail.at_end
    assert tail.poll() == []
    writer.append(numbered(5))
    assert not tail.at_end
    assert records(tail.poll(max_records=3)) == numbered(3)
    assert records(tail.poll()) == numbered(2, start=3)
    assert tail.at_end
    writer.append(numbered(1, start=5))
    assert records(tail.poll()) == numbered(1, start=5)
    writer.close()


def test_a_tail_resumes_from_its_offset(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    writer = home.writer("ledger")
    writer.append(numbered(5))
    before = LogFollower(home.reader("ledger"))
    before.poll(max_records=2)
    after = LogFollower(home.reader("ledger"), before.offset)
    assert records(after.poll()) == numbered(3, start=2)
    writer.close()


def test_a_new_tail_begins_with_the_oldest_record_kept(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    writer = home.writer("ledger")
    for record in numbered(5):
        writer.append([record])
    home.trim("ledger", 0, 3)
    assert records(LogFollower(home.reader("ledger")).poll()) == numbered(2, start=3)
    writer.close()


def test_all_records_are_gone_through_in_order(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    assert list(read_all(home.reader("ledger"))) == []
    writer = home.writer("ledger")
    writer.append(numbered(600))
    assert records(list(read_all(home.reader("ledger")))) == numbered(600)
    writer.close()
