from __future__ import annotations

from pathlib import Path

import pytest

from evaluator.join import LogPosition, resume
from stream.log import LogIdentityError
from stream.log.local import LocalLogStore


def test_reading_goes_on_at_the_offset_of_the_position(tmp_path: Path) -> None:
    log = LocalLogStore(tmp_path).reader("ledger")
    assert resume(log, "ledger", None) == 0
    assert resume(log, "ledger", LogPosition(log.identity, 7)) == 7


def test_a_position_in_a_log_that_was_made_again_is_refused(tmp_path: Path) -> None:
    log = LocalLogStore(tmp_path).reader("ledger")
    with pytest.raises(LogIdentityError, match=r"ledger before, this one is .* made again; begin"):
        resume(log, "ledger", LogPosition("before", 7))
