from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stream.state import FileLockedError, hold

HOLDING = """
import sys
from pathlib import Path
from stream.state import hold
held = hold(Path(sys.argv[1]), "dense")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    held = hold(tmp_path / "lock", "dense")
    with pytest.raises(FileLockedError, match=rf"^dense \(process {os.getpid()}\)$"):
        hold(tmp_path / "lock", "other")
    held.close()
    hold(tmp_path / "lock", "other").close()


def test_a_holder_that_has_not_yet_signed_is_named_as_new(tmp_path: Path) -> None:
    held = hold(tmp_path / "lock", "dense")
    os.truncate(tmp_path / "lock", 0)
    with pytest.raises(FileLockedError, match="a process that has just started"):
        hold(tmp_path / "lock", "other")
    held.close()


def test_a_lock_that_is_dropped_is_free(tmp_path: Path) -> None:
    hold(tmp_path / "lock", "dense")
    hold(tmp_path / "lock", "other").close()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"held\n"
        with pytest.raises(FileLockedError, match=rf"dense \(process {holding.pid}\)"):
            hold(tmp_path / "lock", "other")
        holding.kill()
    hold(tmp_path / "lock", "other").close()
