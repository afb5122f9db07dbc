from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.log import (
    LogCorruptError,
    LogError,
    LogFormatError,
    LogLockedError,
    LogLostError,
    LogTrimmedError,
    Record,
)
from stream.log.local import LocalLogStore
from tests.stream.log_contract import everything, numbered, records


def database(store: LocalLogStore) -> Path:
    return store.folder / "clicks" / "log.db"


def filled(store: LocalLogStore, count: int) -> LocalLogStore:
    """Write that many numbered records, one at a time."""
    with closing(store.writer("clicks")) as writer:
        for record in numbered(count):
            writer.append([record])
    return store


def altered(store: LocalLogStore, sql: str) -> LocalLogStore:
    """Change the database of a log by hand."""
    with closing(sqlite3.connect(database(store))) as connection:
        connection.executescript(sql)
    return store


def copied(store: LocalLogStore, name: str) -> LocalLogStore:
    """Copy a store beside itself."""
    return LocalLogStore(Path(shutil.copytree(store.folder, store.folder.with_name(name))))


some_records = st.builds(
    Record,
    st.binary(max_size=40),
    st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8)), max_size=3).map(tuple),
    st.integers(-(2**63), 2**63 - 1),
)


@settings(max_examples=30, deadline=None)
@given(
    appends=st.lists(st.lists(some_records, max_size=5), max_size=12),
    max_records=st.integers(1, 9),
)
def test_the_log_is_the_list_of_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory, appends: list[list[Record]], max_records: int
) -> None:
    store = LocalLogStore(tmp_path_factory.mktemp("log"))
    writer, reader = store.writer("clicks"), store.reader("clicks")
    expected: list[Record] = []
    for some in appends:
        writer.append(some)
        expected += some
        assert reader.end(0) == len(expected)
    assert records(everything(reader, max_records)) == expected
    writer.close()


def test_readers_see_a_record_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    writer, reader = store.writer("clicks"), store.reader("clicks")
    for i in range(3):
        writer.append(numbered(1, start=i))
        assert records(reader.read(0, i)) == numbered(1, start=i)
    writer.close()


def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"log name '\.\./clicks'"):
        LocalLogStore(tmp_path).reader("../clicks")


def test_a_store_says_where_it_is(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    assert store.describe() == str(tmp_path)
    assert store.create({"clicks": 3, "truth": 1}) == (f"{tmp_path}/clicks", f"{tmp_path}/truth")


def test_a_missing_log_is_refused_where_none_is_made(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path, writable=False)
    for opened in (store.reader, store.writer):
        with pytest.raises(LogError, match=r"holds no log 'clicks': either its run has not begun"):
            opened("clicks")
    assert os.listdir(tmp_path) == []
    filled(LocalLogStore(tmp_path), 1)
    assert records(everything(store.reader("clicks"))) == numbered(1)


def test_a_log_of_no_partition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="log 'clicks' cannot have 0 partitions; use 1 or more"):
        LocalLogStore(tmp_path).create({"clicks": 0})


def test_the_number_of_partitions_is_kept_with_the_log(tmp_path: Path) -> None:
    LocalLogStore(tmp_path).create({"clicks": 2})
    with closing(LocalLogStore(tmp_path).writer("clicks")) as writer:
        writer.append(numbered(1), partition=1)
    again = LocalLogStore(tmp_path).reader("clicks")
    assert again.partitions == (0, 1)
    assert records(everything(again, partition=1)) == numbered(1)


def test_ten_partitions_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    store.create({"clicks": 11})
    with closing(store.writer("clicks")) as writer:
        for number in range(11):
            writer.append(numbered(1, start=number), partition=number)
    reader = store.reader("clicks")
    assert reader.partitions == tuple(range(11))
    for number in range(11):
        assert records(everything(reader, partition=number)) == numbered(1, number)


def test_a_log_deleted_and_made_again_has_another_identity(tmp_path: Path) -> None:
    store = filled(LocalLogStore(tmp_path), 1)
    before = store.reader("clicks").identity
    store.folder.joinpath("clicks").rename(tmp_path / "away")
    assert store.reader("clicks").identity != before


def test_a_log_opened_by_many_at_once_gets_one_identity(tmp_path: Path) -> None:
    for attempt in range(5):
        store = LocalLogStore(tmp_path / str(attempt))
        with ThreadPoolExecutor(8) as pool:
            readers = list(pool.map(store.reader, ["clicks"] * 8))
        assert len({reader.identity for reader in readers}) == 1
        for reader in readers:
            reader.close()
        assert os.listdir(store.folder / "clicks") == ["log.db"]


def test_the_lock_names_the_process_that_writes(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    writer = store.writer("clicks")
    with pytest.raises(LogLockedError, match=rf"being written by .* \(process {os.getpid()}\)"):
        store.writer("clicks")
    writer.close()


def test_a_record_too_large_is_refused_and_nothing_is_appended(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    writer = store.writer("clicks")
    with pytest.raises(ValueError, match="record of 268435457 bytes; the most is 268435456"):
        writer.append([Record(b"small"), Record(bytes(2**28 + 1))])
    assert store.reader("clicks").end(0) == 0
    writer.append(numbered(1))
    assert records(everything(store.reader("clicks"))) == numbered(1)
    writer.close()


# Crashes.


class _Deadly(list[Record]):
    """Records in the middle of which whoever appends them is killed."""

    def __iter__(self) -> Iterator[Record]:
        yield from super().__iter__()
        os.kill(os.getpid(), signal.SIGKILL)


def append_and_die(folder: Path, value_bytes: int) -> None:
    """Append two records, then begin to append ten more, as a process of its own."""
    child = os.fork()
    if child == 0:
        writer = LocalLogStore(folder).writer("clicks")
        writer.append(numbered(2))
        writer.append(_Deadly([Record(bytes(value_bytes))] * 10))
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("value_bytes", [10, 8_000_000])
def test_a_writer_killed_in_mid_append_leaves_none_of_it(tmp_path: Path, value_bytes: int) -> None:
    append_and_die(tmp_path, value_bytes)
    store = LocalLogStore(tmp_path)
    left = database(store).with_name("log.db-wal").stat().st_size
    assert (left > 8_000_000) == (value_bytes > 10), (
        "what does not fit in memory is on disk by then"
    )
    reader = store.reader("clicks")
    assert records(everything(reader)) == numbered(2)
    with closing(store.writer("clicks")) as writer:
        writer.append(numbered(3, start=2))
    assert records(everything(reader)) == numbered(5)


KILLED = """
import sys
from pathlib import Path
from stream.log import Record
from stream.log.local import LocalLogStore
writer = LocalLogStore(Path(sys.argv[1])).writer("clicks")
for i in range(1_000_000):
    writer.append([Record(b"%d" % i, (("part", b"%d" % part),)) for part in range(3)])
    print(i, flush=True)
"""


def test_a_writer_killed_at_any_time_loses_nothing_that_it_had_appended(tmp_path: Path) -> None:
    store, done, begun = LocalLogStore(tmp_path), 0, 0
    for attempt in range(10):
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writing:
            assert writing.stdout is not None
            for _ in range(1 + 37 * attempt):
                writing.stdout.readline()
            writing.kill()
            told = attempt * 37 + 1 + len(writing.stdout.read().splitlines())
        begun = done
        with closing(store.reader("clicks")) as reader:
            found = reader.read(0, 3 * begun, 1_000_000)
        done += len(found) // 3
        assert len(found) == 3 * (done - begun)
        assert told <= done - begun <= told + 1
        assert [one.record.value for one in found[::3]] == [b"%d" % i for i in range(done - begun)]
        assert [one.record.headers for one in found[:3]] == [
            (("part", b"0"),),
            (("part", b"1"),),
            (("part", b"2"),),
        ]


def dirty_bytes(path: Path) -> int:
    """Return how much of a file is in memory only; skip where the kernel does not say."""
    found = (ctypes.c_uint64 * 5)()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        area = (ctypes.c_uint64 * 2)(0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(451, descriptor, ctypes.byref(area), ctypes.byref(found), 0) != 0:
            pytest.skip("this kernel has no cachestat(2), which says what is not on disk yet")
    finally:
        os.close(descriptor)
    return 4096 * (found[1] + found[2])


def test_what_was_flushed_is_on_disk(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    writer = store.writer("clicks")
    ahead = database(store).with_name("log.db-wal")
    for i in range(3):
        writer.append([Record(bytes(100_000))] * 5)
        if dirty_bytes(ahead) == 0:
            pytest.skip(f"{tmp_path} is on a file system that writes at once, or never")
        writer.append(numbered(1, start=i))
        writer.flush()
        assert dirty_bytes(ahead) == 0
        assert dirty_bytes(database(store)) == 0
    writer.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
from stream.log.local import LocalLogStore
from stream.log import Record
writer = LocalLogStore(Path(sys.argv[1])).writer("clicks")
writer.append([Record(b"before")])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    writer.append([Record(b"small"), Record(bytes(500_000))])
except OSError as error:
    print(error)
writer.append([Record(b"after")])
writer.close()
"""


def test_an_append_that_finds_the_disk_full_leaves_nothing_behind(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, check=True, text=True
    )
    assert str(database(store)) in done.stdout
    assert "what was to be written is not in the log: look at its disk" in done.stdout
    assert records(everything(store.reader("clicks"))) == [Record(b"before"), Record(b"after")]


def test_a_log_torn_anywhere_by_a_crash_of_the_machine_ends_with_a_whole_append(
    tmp_path: Path,
) -> None:
    """What was not flushed may be lost from any byte on."""
    store = LocalLogStore(tmp_path / "whole")
    writer = store.writer("clicks")
    writer.append(numbered(3))
    writer.flush()
    ahead = database(store).with_name("log.db-wal")
    flushed = ahead.stat().st_size
    for group in range(1, 5):
        writer.append(numbered(3, start=3 * group))
    sizes = set()
    for cut in [*range(flushed, ahead.stat().st_size, 1_111), ahead.stat().st_size]:
        left = copied(store, f"cut-{cut}")
        database(left).with_name("log.db-shm").unlink()
        os.truncate(database(left).with_name("log.db-wal"), cut)
        reader = left.reader("clicks")
        found = records(everything(reader))
        assert found == numbered(len(found))
        with closing(left.writer("clicks")) as again:
            again.append(numbered(2, start=len(found)))
        assert records(everything(reader)) == numbered(len(found) + 2)
        sizes.add(len(found))
    writer.close()
    assert sizes == {3, 6, 9, 12, 15}


def files(store: LocalLogStore) -> dict[str, bytes]:
    """Read all files of a log but the one that SQLite makes anew."""
    found = database(store).parent.iterdir()
    return {file.name: file.read_bytes() for file in found if not file.name.endswith("-shm")}


def power_lost(folder: Path, rng: random.Random) -> tuple[LocalLogStore, int, int]:
    """Write a log, flush it somewhere, go on, and copy what is there.

    Returns
    -------
    The copy, how many records were flushed, and how long the write-ahead log was then.
    """
    store = LocalLogStore(folder / "live")
    writer, flushed, length, count = store.writer("clicks"), 0, 0, 0
    last = rng.randrange(1, 30)
    for append in range(last + rng.randrange(10)):
        some = numbered(rng.randrange(1, 4), start=count)
        writer.append([one._replace(value=one.value.ljust(rng.randrange(3_000))) for one in some])
        count += len(some)
        if append < last:
            writer.flush()
            flushed, length = count, database(store).with_name("log.db-wal").stat().st_size
    left = copied(store, "left")
    database(left).with_name("log.db-shm").unlink()
    writer.close()
    return left, flushed, length


@pytest.mark.parametrize("seed", range(50))
def test_after_a_loss_of_power_all_that_was_flushed_is_there(tmp_path: Path, seed: int) -> None:
    """Pages that were not flushed may be on disk, or not, or hold anything."""
    rng = random.Random(seed)
    left, flushed, length = power_lost(tmp_path, rng)
    ahead = database(left).with_name("log.db-wal")
    content = bytearray(ahead.read_bytes())
    for page in range(length, len(content), 512):
        if rng.random() < 0.3:
            content[page : page + 512] = rng.choice((bytes(512), rng.randbytes(512)))
    ahead.write_bytes(content[: rng.randrange(length, len(content) + 1)])
    found = records(everything(left.reader("clicks")))
    assert len(found) >= flushed
    assert [one.value.rstrip() for one in found] == [one.value for one in numbered(len(found))]
    with closing(left.writer("clicks")) as writer:
        writer.append(numbered(1, start=len(found)))
    assert left.reader("clicks").end(0) == len(found) + 1


@pytest.mark.parametrize("seed", range(20))
def test_a_log_damaged_where_it_was_flushed_is_refused_and_nothing_of_it_is_erased(
    tmp_path: Path, seed: int
) -> None:
    """SQLite would take the damaged place for the end, and write over what follows."""
    rng = random.Random(seed)
    left, _, length = power_lost(tmp_path, rng)
    ahead = database(left).with_name("log.db-wal")
    content = bytearray(ahead.read_bytes())
    if seed % 4 == 0:
        del content[rng.randrange(length) :]
    else:
        content[rng.randrange(length)] ^= 1 << rng.randrange(8)
    ahead.write_bytes(content)
    before = files(left)
    for opened in (left.reader, left.writer):
        with pytest.raises(LogCorruptError, match=r"log\.db: partition 0 ends at \d+, and was flu"):
            opened("clicks")
    after = files(left)
    assert {name: after[name] for name in before} == before


def test_a_log_that_ends_before_a_position_is_refused(tmp_path: Path) -> None:
    reader = filled(LocalLogStore(tmp_path), 3).reader("clicks")
    assert reader.read(0, 3) == []
    with pytest.raises(LogLostError, match=r"partition 0: it ends at 3, before offset 4: records"):
        reader.read(0, 4)


def test_what_tells_how_far_a_log_was_flushed_is_passed_over_where_it_is_damaged(
    tmp_path: Path,
) -> None:
    store = filled(LocalLogStore(tmp_path), 3)
    told = database(store).with_name("flushed")
    for content in (b"", b"x", told.read_bytes()[:-1], told.read_bytes()[:4] + bytes(8)):
        told.write_bytes(content)
        assert records(everything(store.reader("clicks"))) == numbered(3)


def test_a_closed_log_is_one_file_though_readers_stay(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    reader = store.reader("clicks")
    filled(store, 100)
    assert len(everything(reader)) == 100
    assert database(store).with_name("log.db-wal").stat().st_size == 0


# Damage: what no crash explains.


@pytest.mark.parametrize(
    "damage",
    [
        "value = CAST('record 7' AS BLOB)",
        'headers = CAST(\'[["number","7"]]\' AS BLOB)',
        "time_ms = 7000",
        "checksum = checksum + 1",
    ],
)
def test_a_record_that_was_altered_is_named(tmp_path: Path, damage: str) -> None:
    store = filled(LocalLogStore(tmp_path), 3)
    altered(store, f"UPDATE records SET {damage} WHERE id = 1")
    reader = store.reader("clicks")
    assert records(reader.read(0, 0, 1)) == numbered(1)
    expected = r"log\.db: record 1 of partition 0 does not match its checksum; restore the folder"
    with pytest.raises(LogCorruptError, match=expected):
        reader.read(0, 1)
    assert records(reader.read(0, 2)) == numbered(1, start=2)


def test_no_flipped_byte_of_a_value_goes_unnoticed(tmp_path: Path) -> None:
    whole = filled(LocalLogStore(tmp_path / "whole"), 3)
    content = database(whole).read_bytes()
    begin = content.index(b"record 1")
    for at in range(begin, begin + len(b"record 1")):
        store = copied(whole, f"copy-{at}")
        database(store).write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        with pytest.raises(LogCorruptError, match="record 1 of partition 0 does not match"):
            store.reader("clicks").read(0, 0)


def test_a_record_that_has_moved_is_named(tmp_path: Path) -> None:
    store = filled(LocalLogStore(tmp_path), 4)
    altered(store, "DELETE FROM records WHERE id = 1; UPDATE records SET id = 1 WHERE id = 2")
    with pytest.raises(LogCorruptError, match="record 1 of partition 0 does not match"):
        store.reader("clicks").read(0, 0, 2)


def test_a_record_that_is_missing_is_named(tmp_path: Path) -> None:
    store = altered(filled(LocalLogStore(tmp_path), 6), "DELETE FROM records WHERE id IN (2, 3)")
    reader = store.reader("clicks")
    assert records(reader.read(0, 0, 2)) == numbered(2)
    for offset in (0, 1, 2, 3):
        with pytest.raises(LogCorruptError, match=rf"a record after {offset} is missing; restore"):
            reader.read(0, offset)
    assert records(reader.read(0, 4)) == numbered(2, start=4)


@pytest.mark.parametrize("keep", [0, 50, 5_000])
def test_a_database_that_was_cut_or_written_over_is_named(tmp_path: Path, keep: int) -> None:
    store = filled(LocalLogStore(tmp_path), 1_000)
    content = database(store).read_bytes()
    database(store).write_bytes(content[:keep] + b"x" * (len(content) - keep))
    with pytest.raises(LogCorruptError, match=rf"{database(store)}: .*; restore the folder of the"):
        everything(store.reader("clicks"))


def test_another_database_in_its_place_is_refused(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    store.folder.joinpath("clicks").mkdir()
    altered(store, "CREATE TABLE records (id INTEGER PRIMARY KEY)")
    with pytest.raises(LogCorruptError, match=r"clicks/log\.db: it is not a log of Resprout"):
        store.reader("clicks")


# Forms of other releases.


def test_a_log_of_a_later_release_is_refused_by_name(tmp_path: Path) -> None:
    store = filled(LocalLogStore(tmp_path), 1)
    altered(store, "PRAGMA user_version = 2; UPDATE log SET release = '9.1'")
    expected = r"a log of format 2, written by Resprout 9\.1; this release reads format 1: use the"
    for opened in (store.reader, store.writer):
        with pytest.raises(LogFormatError, match=expected):
            opened("clicks")


def test_a_log_in_segment_files_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "clicks"
    (folder / "0").mkdir(parents=True)
    (folder / "identity").write_text("0" * 32)
    (folder / "0" / f"{0:020d}.log").write_bytes(b"\xf7rs\x01")
    store = LocalLogStore(tmp_path)
    for opened in (store.reader, store.writer, store.exists):
        with pytest.raises(LogFormatError, match=rf"{folder} holds a log in segment files, as ear"):
            opened("clicks")
    assert not (folder / "log.db").exists()


# Trimming.


def test_exactly_what_stands_before_the_offset_is_deleted(tmp_path: Path) -> None:
    store = filled(LocalLogStore(tmp_path), 7)
    reader = store.reader("clicks")
    begins = []
    for offset in (0, 3, 2, 6, 7, 9):
        store.trim("clicks", 0, offset)
        begins.append(reader.begin(0))
    assert begins == [0, 3, 3, 6, 7, 7]


def test_no_offset_is_given_twice_even_where_all_is_trimmed(tmp_path: Path) -> None:
    store = filled(LocalLogStore(tmp_path), 300)
    store.trim("clicks", 0, 300)
    with closing(store.reader("clicks")) as reader:
        assert (reader.begin(0), reader.end(0), reader.last(0)) == (300, 300, None)
    with closing(store.writer("clicks")) as writer:
        writer.append(numbered(1))
    assert [one.offset for one in everything(store.reader("clicks"))] == [300]


def test_a_reader_whose_next_record_was_trimmed_is_told(tmp_path: Path) -> None:
    store = filled(LocalLogStore(tmp_path), 8)
    reader = store.reader("clicks")
    assert records(reader.read(0, 0, 1)) == numbered(1)
    for upto in (6, 8):
        store.trim("clicks", 0, upto)
        expected = rf"offset 1 has been trimmed away; the oldest kept is {upto}"
        with pytest.raises(LogTrimmedError, match=expected):
            reader.read(0, 1)


def test_others_append_and_read_while_a_log_is_trimmed(tmp_path: Path) -> None:
    store = filled(LocalLogStore(tmp_path), 1)
    reader, writer = store.reader("clicks"), store.writer("clicks")
    with ThreadPoolExecutor(1) as pool:
        for i in range(1, 4_000, 100):
            writer.append(numbered(100, start=i))
            trimming = pool.submit(store.trim, "clicks", 0, i)
            assert records(reader.read(0, i, 100)) == numbered(100, start=i)
            writer.append([])
            trimming.result()
    assert reader.begin(0) == 3901
    writer.close()


def test_a_trimmed_log_gives_its_space_back(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    with closing(store.writer("clicks")) as writer:
        for _ in range(40):
            writer.append([Record(os.urandom(100_000))] * 5)
    size = database(store).stat().st_size
    assert size > 20_000_000
    store.trim("clicks", 0, 20)
    assert database(store).stat().st_size == size, "a tenth is kept for the next records"
    store.trim("clicks", 0, 190)
    assert database(store).stat().st_size < size / 10
    assert len(everything(store.reader("clicks"))) == 10
    with sqlite3.connect(database(store)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_a_log_that_is_trimmed_as_it_grows_stays_small(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    with closing(store.writer("clicks")) as writer:
        for i in range(1, 101):
            writer.append([Record(os.urandom(100_000))] * 5)
            writer.flush()
            store.trim("clicks", 0, 5 * i - 20)
            assert database(store).stat().st_size < 5_000_000
    assert sum(file.stat().st_size for file in database(store).parent.iterdir()) < 5_000_000


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
    store, total = LocalLogStore(tmp_path), 3000
    command = [sys.executable, "-c", FOLLOW, str(tmp_path), str(total)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "ready\n"
        filled(store, total)
        lines = following.stdout.read().splitlines()
    assert lines == [f"record {i}" for i in range(total)]
    assert following.returncode == 0


def test_a_closed_reader_opens_its_file_again_when_asked(tmp_path: Path) -> None:
    store = filled(LocalLogStore(tmp_path), 3)
    reader = store.reader("clicks")
    assert reader.end(0) == 3
    reader.close()
    with closing(store.writer("clicks")) as writer:
        writer.append(numbered(1, start=3))
        assert reader.end(0) == 4
        assert records(everything(reader)) == numbered(4)


def test_a_log_in_a_folder_that_cannot_be_written_is_read() -> None:
    """As on a read-only volume; root may write anywhere, so another user looks."""
    with tempfile.TemporaryDirectory() as folder:
        store = filled(LocalLogStore(Path(folder)), 3)
        Path(folder).chmod(0o755)
        database(store).parent.chmod(0o555)
        child = os.fork()
        if child == 0:
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                found = records(everything(store.reader("clicks")))
                os._exit(0 if found == numbered(3) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        database(store).parent.chmod(0o755)
