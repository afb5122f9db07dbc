from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.log import LogCorruptError, LogLockedError, LogTrimmedError, Record
from stream.log.frame import encode
from stream.log.local import LocalLogStore
from tests.stream.log_contract import everything, numbered, records

SMALL = 150
"""A segment size that holds two numbered records."""


def segments(home: LocalLogStore) -> list[Path]:
    return sorted((home.folder / "clicks" / "0").glob("*.log"))


def filled(home: LocalLogStore, count: int) -> LocalLogStore:
    """Write that many numbered records, one at a time."""
    writer = home.writer("clicks")
    for record in numbered(count):
        writer.append([record])
    writer.close()
    return home


def copied(home: LocalLogStore, name: int) -> LocalLogStore:
    """Copy a home beside itself."""
    folder = home.folder.with_name(f"copy-{name}")
    return LocalLogStore(Path(shutil.copytree(home.folder, folder)), home.segment_bytes)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_readers_see_a_record_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    writer, reader = home.writer("clicks"), home.reader("clicks")
    for i in range(3):
        writer.append(numbered(1, start=i))
        assert records(reader.read(0, i)) == numbered(1, start=i)
    writer.close()


@settings(max_examples=50, deadline=None)
@given(
    appends=st.lists(st.lists(st.binary(max_size=40), max_size=5), max_size=12),
    segment_bytes=st.integers(1, 400),
    max_records=st.integers(1, 9),
)
def test_the_log_is_the_list_of_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory,
    appends: list[list[bytes]],
    segment_bytes: int,
    max_records: int,
) -> None:
    home = LocalLogStore(tmp_path_factory.mktemp("log"), segment_bytes)
    writer, reader = home.writer("clicks"), home.reader("clicks")
    expected: list[bytes] = []
    for values in appends:
        writer.append([Record(value) for value in values])
        expected += values
        assert reader.end(0) == len(expected)
    assert [one.record.value for one in everything(reader, max_records)] == expected
    writer.close()


def test_a_segment_that_would_grow_too_large_is_followed_by_a_new_one(tmp_path: Path) -> None:
    home = filled(LocalLogStore(tmp_path, SMALL), 5)
    assert [path.name for path in segments(home)] == [f"{base:020d}.log" for base in (0, 2, 4)]
    assert all(path.stat().st_size <= SMALL for path in segments(home))


def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"log name '\.\./clicks'"):
        LocalLogStore(tmp_path).reader("../clicks")


def test_a_log_deleted_and_made_again_has_another_identity(tmp_path: Path) -> None:
    home = filled(LocalLogStore(tmp_path), 1)
    before = home.reader("clicks").identity
    home.folder.joinpath("clicks").rename(tmp_path / "away")
    assert home.reader("clicks").identity != before


def test_a_log_opened_by_many_at_once_gets_one_identity(tmp_path: Path) -> None:
    for attempt in range(5):
        home = LocalLogStore(tmp_path / str(attempt))
        with ThreadPoolExecutor(8) as pool:
            readers = list(pool.map(home.reader, ["clicks"] * 8))
        assert len({reader.identity for reader in readers}) == 1
        assert sorted(os.listdir(home.folder / "clicks")) == ["0", "identity"]


def test_the_lock_names_the_process_that_writes(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    writer = home.writer("clicks")
    with pytest.raises(LogLockedError, match=rf"being written by .* \(process {os.getpid()}\)"):
        home.writer("clicks")
    writer.close()


def test_a_record_too_large_is_refused_and_nothing_is_appended(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    writer = home.writer("clicks")
    with pytest.raises(ValueError, match="record of 268435457 bytes; the most is 268435456"):
        writer.append([Record(b"small"), Record(bytes(2**28 + 1))])
    assert home.reader("clicks").end(0) == 0
    writer.close()


# Torn tails: what a crash leaves behind.


def test_a_tail_torn_anywhere_is_the_end_for_readers_and_is_cut_by_the_next_writer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = filled(LocalLogStore(tmp_path / "whole"), 3)
    last = len(encode(2, numbered(1, start=2)[0]))
    for left in range(1, last):
        home = copied(whole, left)
        [segment] = segments(home)
        os.truncate(segment, segment.stat().st_size - last + left)
        reader = home.reader("clicks")
        assert records(everything(reader)) == numbered(2)
        assert reader.end(0) == 2

        caplog.clear()
        with caplog.at_level(logging.WARNING):
            writer = home.writer("clicks")
        assert writer.cut_bytes == left
        assert f"cut a torn tail of {left} bytes" in caplog.text
        writer.append(numbered(2, start=2))
        assert records(everything(reader)) == numbered(4)
        writer.close()


def test_a_last_record_damaged_anywhere_is_cut_like_a_torn_one(tmp_path: Path) -> None:
    whole = filled(LocalLogStore(tmp_path / "whole"), 3)
    last = len(encode(2, numbered(1, start=2)[0]))
    for back in range(1, last + 1):
        home = copied(whole, back)
        [segment] = segments(home)
        flip(segment, segment.stat().st_size - back)
        assert records(everything(home.reader("clicks"))) == numbered(2)
        writer = home.writer("clicks")
        assert writer.cut_bytes == last
        writer.close()


def test_a_tail_of_zeros_is_cut(tmp_path: Path) -> None:
    home = filled(LocalLogStore(tmp_path), 3)
    [segment] = segments(home)
    os.truncate(segment, segment.stat().st_size + 4096)
    assert records(everything(home.reader("clicks"))) == numbered(3)
    writer = home.writer("clicks")
    assert writer.cut_bytes == 4096
    writer.close()


def test_a_log_that_was_closed_has_nothing_to_cut(tmp_path: Path) -> None:
    writer = filled(LocalLogStore(tmp_path), 3).writer("clicks")
    assert writer.cut_bytes == 0
    writer.close()


def test_a_new_segment_left_empty_by_a_crash_is_written_on(tmp_path: Path) -> None:
    home = filled(LocalLogStore(tmp_path, SMALL), 2)
    (home.folder / "clicks" / "0" / f"{2:020d}.log").touch()
    last = home.reader("clicks").last(0)
    assert last is not None
    assert last.record == numbered(2)[1]
    writer = home.writer("clicks")
    writer.append(numbered(1, start=2))
    writer.close()
    assert records(everything(home.reader("clicks"))) == numbered(3)


KILLED = """
import sys
from pathlib import Path
from stream.log.local import LocalLogStore
from stream.log import Record
writer = LocalLogStore(Path(sys.argv[1])).writer("clicks")
for i in range(1000):
    writer.append([Record(bytes([i % 256]) * int(sys.argv[2]))])
"""


def kill_in_mid_append(home: LocalLogStore, value_bytes: int) -> int:
    """Kill a writer with kill -9 while its file grows; return the bytes of a torn frame."""
    whole = len(encode(0, Record(bytes(value_bytes))))
    command = [sys.executable, "-c", KILLED, str(home.folder), str(value_bytes)]
    with subprocess.Popen(command) as writing:
        size = 0
        while writing.poll() is None and (size < 2 * whole or size % whole == 0):
            size = segments(home)[0].stat().st_size if segments(home) else 0
        writing.kill()
    return segments(home)[0].stat().st_size % whole


def test_a_writer_killed_in_mid_append_leaves_a_log_that_opens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value_bytes = 8_000_000
    for attempt in range(20):
        home = LocalLogStore(tmp_path / str(attempt), segment_bytes=2**40)
        if torn := kill_in_mid_append(home, value_bytes):
            break
    assert torn, "no kill fell inside an append"

    reader = home.reader("clicks")
    found = everything(reader, max_records=1)
    assert len(found) >= 2
    assert all(r == Record(bytes([i]) * value_bytes) for i, r in enumerate(records(found)))
    with caplog.at_level(logging.WARNING):
        writer = home.writer("clicks")
    assert writer.cut_bytes == torn
    assert f"cut a torn tail of {torn} bytes" in caplog.text
    writer.append(numbered(1))
    assert records(reader.read(0, len(found))) == numbered(1)
    writer.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
from stream.log.local import LocalLogStore
from stream.log import Record
writer = LocalLogStore(Path(sys.argv[1])).writer("clicks")
writer.append([Record(b"before")])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    writer.append([Record(b"small"), Record(bytes(5000))])
except OSError as error:
    print(type(error).__name__)
writer.append([Record(b"after")])
writer.close()
"""


def test_an_append_that_finds_the_disk_full_leaves_nothing_behind(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, check=True
    )
    assert done.stdout == b"OSError\n"
    assert records(everything(home.reader("clicks"))) == [Record(b"before"), Record(b"after")]


# Damage: what no crash explains.


def test_a_record_damaged_anywhere_before_the_last_is_named(tmp_path: Path) -> None:
    whole = filled(LocalLogStore(tmp_path / "whole"), 3)
    first, middle = (len(encode(i, record)) for i, record in enumerate(numbered(2)))
    for at in range(first, first + middle):
        home = copied(whole, at)
        [segment] = segments(home)
        flip(segment, at)
        reader = home.reader("clicks")
        assert records(reader.read(0, 0, 1)) == numbered(1)
        with pytest.raises(LogCorruptError, match=rf"{segment}: record 1 at byte {first} does"):
            reader.read(0, 1)
        with pytest.raises(LogCorruptError, match="restore the file from a copy"):
            home.writer("clicks")


def test_a_segment_that_has_a_successor_has_no_torn_tail(tmp_path: Path) -> None:
    home = filled(LocalLogStore(tmp_path, SMALL), 5)
    os.truncate(segments(home)[0], segments(home)[0].stat().st_size - 1)
    with pytest.raises(LogCorruptError, match=r"0\.log: record 1 at byte \d+ does not match"):
        everything(home.reader("clicks"))


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    home = filled(LocalLogStore(tmp_path, SMALL), 6)
    segments(home)[1].unlink()
    reader = home.reader("clicks")
    with pytest.raises(LogCorruptError, match=r"ends with record 1 .* begins with 4; restore"):
        everything(reader)
    assert records(reader.read(0, 4)) == numbered(2, start=4)


# Trimming.


def test_only_whole_segments_before_the_offset_are_deleted(tmp_path: Path) -> None:
    home = filled(LocalLogStore(tmp_path, SMALL), 7)
    writer, reader = home.writer("clicks"), home.reader("clicks")
    begins = []
    for offset in range(9):
        writer.trim(0, offset)
        begins.append(reader.begin(0))
    assert begins == [0, 0, 2, 2, 4, 4, 6, 6, 6]
    writer.close()


def test_a_reader_whose_next_record_was_trimmed_is_told(tmp_path: Path) -> None:
    home = filled(LocalLogStore(tmp_path, SMALL), 8)
    reader = home.reader("clicks")
    assert records(reader.read(0, 0, 1)) == numbered(1)
    writer = home.writer("clicks")
    writer.trim(0, 6)
    with pytest.raises(LogTrimmedError, match="offset 2 has been trimmed away; the oldest kept is"):
        reader.read(0, 1)
    writer.close()


def test_a_segment_that_vanishes_between_listing_and_opening_was_trimmed(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    reader = home.reader("clicks")
    (tmp_path / "clicks" / "0" / f"{0:020d}.log").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LogTrimmedError, match="offset 0 has been trimmed away"):
        reader.read(0, 0)


# Many readers.

FOLLOW = """
import sys
from pathlib import Path
from stream.log.local import LocalLogStore
reader = LocalLogStore(Path(sys.argv[1])).reader("clicks")
print("ready", flush=True)
offset = 0
while offset < int(sys.argv[2]):
    for stored in reader.read(0, offset):
        print(stored.record.value.decode())
        offset = stored.next_offset
"""


def test_another_process_sees_every_record_while_it_is_written(tmp_path: Path) -> None:
    home, total = LocalLogStore(tmp_path, segment_bytes=10_000), 3000
    command = [sys.executable, "-c", FOLLOW, str(tmp_path), str(total)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "ready\n"
        filled(home, total)
        lines = following.stdout.read().splitlines()
    assert lines == [f"record {i}" for i in range(total)]
    assert following.returncode == 0


def test_a_closed_reader_opens_its_files_again_when_asked(tmp_path: Path) -> None:
    home = filled(LocalLogStore(tmp_path), 3)
    reader = home.reader("clicks")
    assert reader.end(0) == 3
    reader.close()
    filled_again = home.writer("clicks")
    filled_again.append(numbered(1, start=3))
    assert reader.end(0) == 4
    assert records(everything(reader)) == numbered(4)
    filled_again.close()
