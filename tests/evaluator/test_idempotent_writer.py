from __future__ import annotations

from pathlib import Path

import pytest

from evaluator.worker import IdempotentWriter
from stream.follow import LogPosition, read_all
from stream.log import LogIdentityError, LogLockedError
from stream.log.local import LocalLogStore
from stream.messages import Decision, parse

MESSAGES = [Decision(count=count, why_not="maturing") for count in (500, 1000, 1500)]


def held(home: LocalLogStore) -> list[str]:
    return [parse(stored.record.value).key for stored in read_all(home.reader("windows"))]


def test_what_came_before_a_crash_is_not_written_again(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    before = IdempotentWriter(home, "windows")
    before.append(MESSAGES[:1])
    checkpoint = before.position
    before.append(MESSAGES[1:2])
    before.close()
    after = IdempotentWriter(home, "windows", checkpoint)
    assert after.append(MESSAGES[1:]) == MESSAGES[2:]
    assert held(home) == ["decision/500", "decision/1000", "decision/1500"]
    assert after.conflicts == 0


def test_a_repeat_that_differs_raises_the_alarm_and_the_first_stays(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    before = IdempotentWriter(home, "windows")
    before.append(MESSAGES)
    before.close()
    after = IdempotentWriter(home, "windows")
    assert after.append([Decision(count=1000, why_not="cooldown")]) == []
    assert after.conflicts == 1
    assert [stored.record.value for stored in read_all(home.reader("windows"))][1].count(b"matur")


def test_nothing_to_write_writes_nothing(tmp_path: Path) -> None:
    outbox = IdempotentWriter(LocalLogStore(tmp_path), "windows")
    assert outbox.append([]) == []
    outbox.flush()
    assert outbox.position.offset == 0


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    kept = IdempotentWriter(home, "windows")
    with pytest.raises(LogLockedError, match=r"log 'windows' .* is being written by"):
        IdempotentWriter(home, "windows")
    kept.close()


def test_a_log_that_was_made_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogIdentityError, match="windows before"):
        IdempotentWriter(LocalLogStore(tmp_path), "windows", LogPosition("before", 0))
