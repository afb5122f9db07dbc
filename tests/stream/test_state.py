from __future__ import annotations

import hashlib
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from stream.state import (
    Checkpoints,
    StateFormatError,
    StateLockedError,
    lock_folder,
    write_atomic,
    write_folder_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def counts(folder: Path) -> list[int]:
    return [int(name[:15]) for name in names(folder)]


def test_a_second_worker_on_a_state_folder_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "dense"
    pattern = rf"state folder {path} is in use by dense \(process {os.getpid()}\); stop it"
    with closing(lock_folder(path)), pytest.raises(StateLockedError, match=pattern):
        lock_folder(path)
    again = closing(lock_folder(path, "the sparse learner"))
    with again, pytest.raises(StateLockedError, match="in use by the sparse learner"):
        lock_folder(path)


def test_a_state_folder_may_be_closed_twice(tmp_path: Path) -> None:
    state = lock_folder(tmp_path)
    state.close()
    state.close()
    lock_folder(tmp_path).close()


def test_a_file_is_replaced_and_no_draft_is_left(tmp_path: Path) -> None:
    write_atomic(tmp_path / "head", b"1")
    write_atomic(tmp_path / "head", b"22")
    assert (tmp_path / "head").read_bytes() == b"22"
    assert names(tmp_path) == ["head"]


def test_a_folder_holds_exactly_the_parts_it_was_last_given(tmp_path: Path) -> None:
    path = tmp_path / "dense" / "snapshot"
    write_folder_atomic(path, {"a": [b"1"], "b": [b"2"]})
    write_folder_atomic(path, {"b": [b"3"]})
    assert names(path) == ["b"]
    assert (path / "b").read_bytes() == b"3"
    assert names(tmp_path / "dense") == ["snapshot"]


def test_a_folder_that_holds_the_parts_already_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    write_folder_atomic(path, {"a": [b"1", memoryview(b"2")]})
    before = path.stat().st_ino
    write_folder_atomic(path, {"a": [b"1", memoryview(b"2")]})
    assert path.stat().st_ino == before


@pytest.mark.parametrize("name", ["../a", "a/b", ".hidden"])
def test_a_part_that_is_no_plain_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"part {name!r} of .*: use a plain file name"):
        write_folder_atomic(tmp_path / "snapshot", {name: [b""]})
    assert names(tmp_path) == []


def test_the_newest_checkpoint_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() is None
    checkpoints.write(500, {"model": b"old", "cursor.json": b"{}"})
    path = checkpoints.write(1_000, {"model": b"new", "cursor.json": b"{}"})
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.count, latest.path) == (1_000, path)
    assert latest.parts == {"model": b"new", "cursor.json": b"{}"}
    assert path.name.startswith("000000000001000-")


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_only_the_last_few_are_kept(tmp_path: Path, keep: int) -> None:
    checkpoints = Checkpoints(tmp_path, keep)
    for i in range(1, 8):
        checkpoints.write(500 * i, {"model": bytes([i])})
        assert counts(tmp_path) == [500 * j for j in range(max(1, i - keep + 1), i + 1)]


def test_a_second_checkpoint_of_one_count_takes_the_place_of_the_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for content in (b"1", b"2", b"3", b"2"):
        checkpoints.write(500, {"model": content})
        latest = checkpoints.latest()
        assert latest is not None
        assert latest.parts == {"model": content}
    assert len(names(tmp_path)) == 1


def damage_part(path: Path) -> None:
    (path / "model").write_bytes(b"altered")


def remove_part(path: Path) -> None:
    (path / "model").unlink()


def cut_manifest(path: Path) -> None:
    os.truncate(path / "manifest.json", 20)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_part, "part 'model' does not match its SHA-256"),
        (remove_part, "No such file"),
        (cut_manifest, "manifest.json does not match the folder's name"),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(500, {"model": b"good"})
    newest = checkpoints.write(1_000, {"model": b"bad"})
    damage(newest)
    with caplog.at_level(logging.WARNING):
        latest = checkpoints.latest()
    assert latest is not None
    assert latest.count == 500
    assert f"{newest} is damaged, falling back" in caplog.text
    assert reason in caplog.text


def test_writing_after_a_fall_back_clears_what_was_damaged(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    damage_part(checkpoints.write(1_000, {"model": b"bad"}))
    checkpoints.write(500, {"model": b"good"})
    assert counts(tmp_path) == [500]


def test_a_damaged_checkpoint_is_mended_by_writing_it_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    damage_part(checkpoints.write(500, {"model": b"good"}))
    checkpoints.write(500, {"model": b"good"})
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.parts == {"model": b"good"}


def test_with_no_whole_checkpoint_left_it_says_that_it_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    damage_part(checkpoints.write(500, {"model": b"good"}))
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest() is None
    assert f"no checkpoint in {tmp_path} is whole: beginning anew" in caplog.text


def test_the_manifest_is_not_a_part(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"part 'manifest\.json' is the checkpoint's own"):
        Checkpoints(tmp_path).write(500, {"manifest.json": b""})


def test_keeping_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep is 0; at least 1"):
        Checkpoints(tmp_path, keep=0)


WRITING = """
import sys
from pathlib import Path
from stream.state import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
count = 0
while True:
    count += 500
    checkpoints.write(count, {"model": count.to_bytes(4, "little") * 50_000})
    print(count, flush=True)
"""


def test_a_worker_killed_while_it_writes_a_checkpoint_loses_none_it_had_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(0)
    for life in range(4):
        folder = tmp_path / str(life)
        command = [sys.executable, "-c", WRITING, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writing:
            assert writing.stdout is not None
            for _ in range(chance.randint(2, 6)):
                written = int(writing.stdout.readline())
            for _ in range(chance.randint(0, 20_000)):
                pass
            writing.kill()
        latest = Checkpoints(folder).latest()
        assert latest is not None
        assert latest.count >= written
        assert latest.parts == {"model": latest.count.to_bytes(4, "little") * 50_000}
        Checkpoints(folder).write(10_000_000, {"model": b""})
        assert not list(folder.glob(".*"))
    assert "damaged" not in caplog.text


def test_a_checkpoint_of_another_format_is_no_damage_to_fall_back_from(tmp_path: Path) -> None:
    """It would be learned again from an older one, and the newer one deleted."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(500, {"model": b"1"})
    path = checkpoints.write(1_000, {"model": b"2"})
    manifest = path / "manifest.json"
    later = manifest.read_bytes().replace(b'"format": 1', b'"format": 2')
    manifest.write_bytes(later)
    digest = hashlib.sha256(later).hexdigest()[:12]
    path.rename(path.with_name(f"000000000001000-{digest}"))
    expected = r"is of format 2, written by Resprout 0\.1\.0; this release reads format 1: use"
    with pytest.raises(StateFormatError, match=expected):
        checkpoints.latest()
