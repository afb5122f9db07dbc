"""The log in a folder: an SQLite database each, with one writer and many readers, and no server.

::

    <folder>/<name>/log.db   the database (and ``log.db-wal``, ``log.db-shm`` while it is open)
    <folder>/<name>/writer   the lock of the one writer
    <folder>/<name>/flushed  how far it was flushed

Readers in other threads and processes of the same machine see a record as soon as
:meth:`LocalLogWriter.append` returns. An append is one transaction: a crash or a full disk leaves
all of it or nothing. Each record has a checksum of its own besides what SQLite checks.

SQLite takes the first damaged transaction of the write-ahead log for its end, which after a crash
of the machine is right, and forgets what follows. So how far the log was flushed is written down
beside it: one that ends before is refused, and stays as it is.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar
from zlib import crc32

from pydantic_core import from_json, to_json

from stream.log.api import (
    Headers,
    LogCorruptError,
    LogError,
    LogFormatError,
    LogLockedError,
    LogLostError,
    LogTrimmedError,
    Record,
    StoredRecord,
    check_name,
)
from stream.state import FileLockedError, hold, sync

T = TypeVar("T")

MAX_BYTES: Final = 256 * 1024 * 1024
"""The largest value of a record."""
_APPLICATION: Final = 0x52657370
_FORMAT: Final = 1
_STRIDE: Final = 1 << 48
"""The id of a record is ``partition * _STRIDE + offset``."""
_BUSY_SECONDS: Final = 60.0
"""How long a transaction waits for another one, such as that of a trim."""
_TRIM_RECORDS: Final = 256
"""Records that one transaction of a trim deletes: whoever appends waits no longer than that."""
_VACUUM_PAGES: Final = 512
_CHECKSUM: Final = struct.Struct("<I")

_CREATE: Final = f"""
PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_FORMAT};
CREATE TABLE log (identity TEXT NOT NULL, release TEXT NOT NULL, flushes INTEGER NOT NULL);
CREATE TABLE partitions (number INTEGER PRIMARY KEY, begin INTEGER NOT NULL);
CREATE TABLE records (id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, checksum INTEGER NOT NULL,
                      headers BLOB NOT NULL, value BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class LocalLogStore:
    """A folder of logs.

    Parameters
    ----------
    folder
        Made when its first log is made.
    writable
        Whether a log that is not there is made when it is opened.

    Examples
    --------
    >>> import tempfile
    >>> store = LocalLogStore(Path(tempfile.mkdtemp()))
    >>> clicks = store.writer("clicks")
    >>> clicks.append([Record(b"first"), Record(b"second")])
    >>> [stored.record.value for stored in store.reader("clicks").read(0, offset=1)]
    [b'second']
    >>> clicks.close()
    """

    folder: Path
    writable: bool = True

    def exists(self, name: str) -> bool:
        """Tell whether a log is there."""
        return self._file(name).exists()

    def create(self, logs: Mapping[str, int]) -> tuple[str, ...]:
        """Make the logs that are not there, with so many partitions; return all their folders."""
        for name, partitions in logs.items():
            if partitions < 1:
                raise ValueError(f"log {name!r} cannot have {partitions} partitions; use 1 or more")
            file = self._file(name)
            if file.exists():
                continue
            # Where several try at once, one wins and all see it whole.
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".draft-{uuid.uuid4().hex}")
            identity = uuid.uuid4().hex, version("resprout")
            with closing(sqlite3.connect(draft, isolation_level=None)) as made:
                made.executescript(_CREATE)
                made.execute("INSERT INTO log VALUES (?, ?, 0)", identity)
                made.executemany("INSERT INTO partitions VALUES (?, 0)", zip(range(partitions)))
            sync(draft)
            with suppress(FileExistsError):
                os.link(draft, file)
            draft.unlink()
            sync(file.parent)
            sync(self.folder)
        return tuple(str(self.folder / name) for name in logs)

    def reader(self, name: str) -> LocalLogReader:
        """Open a log for reading."""
        return LocalLogReader(self._opened(name))

    def writer(self, name: str) -> LocalLogWriter:
        """Open a log for writing; :class:`LogLockedError` if somebody else writes it."""
        return LocalLogWriter(self._opened(name))

    def trim(self, name: str, partition: int, offset: int) -> None:
        """Delete the records before ``offset``, while others read and append.

        Most of the space that they took is given back to the file system.
        """
        with closing(_Database(self._opened(name))) as database:
            base = database.base(partition)
            begin, end = database.bounds(partition)
            stop = min(offset, end)
            for at in range(begin, stop, _TRIM_RECORDS):
                after = min(at + _TRIM_RECORDS, stop)
                database.write(
                    ("DELETE FROM records WHERE id >= ? AND id < ?", [(base, base + after)]),
                    (
                        "UPDATE partitions SET begin = max(begin, ?) WHERE number = ?",
                        [(after, partition)],
                    ),
                )
            database.shrink()

    def describe(self) -> str:
        """Say where the logs are."""
        return str(self.folder)

    def close(self) -> None:
        """Do nothing: whoever opens a log here closes it."""

    def _file(self, name: str) -> Path:
        """Return the database of a log; refuse a log in the form of earlier releases."""
        folder = self.folder / check_name(name)
        if (folder / "identity").exists():
            raise LogFormatError(
                f"{folder} holds a log in segment files, as earlier releases of Resprout wrote "
                "them; finish the run with the release that began it, or begin it anew in another "
                "folder"
            )
        return folder / "log.db"

    def _opened(self, name: str) -> Path:
        """Return the database of a log; made where it may be."""
        if not self.exists(name):
            if not self.writable:
                raise LogError(
                    f"{self.folder} holds no log {name!r}: either its run has not begun, or what "
                    "was there is gone; name a state folder that is whole"
                )
            self.create({name: 1})
        return self._file(name)


class _Database:
    """The database of a log, and what SQLite cannot do in our words.

    Closed, it is opened again by the next use.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.name = file, file.parent.name
        self.ahead = file.with_name(f"{file.name}-wal")
        self.flushed = file.with_name("flushed")
        self._connection: sqlite3.Connection | None = None
        if self.ahead.exists() and os.access(file.parent, os.W_OK):
            # Whoever closes a database last moves all but what is damaged out of the write-ahead
            # log, and deletes it; not so who may only read.
            self._connect("mode=ro")
            self._look()
            self.close()
        self._look()

    def _look(self) -> None:
        """See that it is a log, of this format, and whole as far as it was flushed."""
        [(application, number)] = self.rows(
            "SELECT * FROM pragma_application_id, pragma_user_version"
        )
        if application != _APPLICATION:
            raise self.damage("it is not a log of Resprout")
        sql = "SELECT identity, release, (SELECT count(*) FROM partitions) FROM log"
        [(self.identity, release, partitions)] = self.rows(sql)
        if number != _FORMAT:
            raise LogFormatError(
                f"{self.file} is a log of format {number}, written by Resprout {release}; this "
                f"release reads format {_FORMAT}: use the release that wrote it, or begin the run "
                "anew in another folder"
            )
        self.partitions = tuple(range(partitions))
        for partition, flushed in zip(self.partitions, self._read_flushed(), strict=False):
            end = self.bounds(partition)[1]
            if end < flushed:
                raise self.damage(
                    f"partition {partition} ends at {end}, and was flushed up to {flushed}: its "
                    "write-ahead log is damaged or gone"
                )

    def _read_flushed(self) -> tuple[int, ...]:
        """Return how far each partition was flushed; nothing where that is not known."""
        try:
            written = self.flushed.read_bytes()
        except FileNotFoundError:
            return ()
        ends, checksum = written[: -_CHECKSUM.size], written[-_CHECKSUM.size :]
        # It was being written when the machine crashed: it vouches for nothing then.
        if len(written) % 8 != _CHECKSUM.size or _CHECKSUM.pack(crc32(ends)) != checksum:
            return ()
        return tuple(end for (end,) in struct.iter_unpack("<q", ends))

    def write_flushed(self, ends: Sequence[int]) -> None:
        """Write down how far each partition was flushed."""
        written = struct.pack(f"<{len(ends)}q", *ends)
        self.flushed.write_bytes(written + _CHECKSUM.pack(crc32(written)))

    def base(self, partition: int) -> int:
        """Return the id of offset 0 of a partition; refuse one that is not there."""
        if not 0 <= partition < len(self.partitions):
            known = ", ".join(map(str, self.partitions))
            raise ValueError(f"log {self.name!r} has no partition {partition}; it has {known}")
        return partition * _STRIDE

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the oldest offset that is kept, and the one that the next record will get."""
        base = self.base(partition)
        sql = """SELECT begin, coalesce((SELECT max(id) FROM records WHERE id < ?), -1)
                 FROM partitions WHERE number = ?"""
        [(begin, newest)] = self.rows(sql, base + _STRIDE, partition)
        return begin, max(begin, newest - base + 1)

    def rows(self, sql: str, *values: int) -> list[Any]:
        """Carry out one statement, and return the rows that it finds."""
        return self._use(lambda connection: connection.execute(sql, values).fetchall())

    def write(self, *statements: tuple[str, Iterable[Sequence[Any]]]) -> None:
        """Carry out statements, each for some rows of values: all of them or, failing, none."""

        def work(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for sql, rows in statements:
                    connection.executemany(sql, rows)

        self._use(work)

    def shrink(self) -> None:
        """Return free pages to the file system where they are more than a quarter of all.

        Fewer stay, since the next records would only ask for them again.
        """
        [(pages, free)] = self.rows("SELECT * FROM pragma_page_count, pragma_freelist_count")
        # A script: of a pragma, `execute` takes one step only, which returns one page.
        script = f"PRAGMA incremental_vacuum({_VACUUM_PAGES})"
        for _ in range(0, free if 4 * free > pages else 0, _VACUUM_PAGES):
            self._use(lambda connection: connection.executescript(script))
        self.rows("PRAGMA wal_checkpoint")

    def damage(self, what: str) -> LogCorruptError:
        """Say that the database is damaged, and the way out."""
        return LogCorruptError(
            f"{self.file}: {what}; restore the folder of the log from a copy, or begin the run "
            "anew in another folder"
        )

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with the database, and say what an error of SQLite means."""
        try:
            return work(self._connection or self._connect())
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self.damage(str(error)) from error
            raise OSError(
                f"{self.file}: {error}; what was to be written is not in the log: look at its disk"
            ) from error

    def _connect(self, mode: str = "mode=rw") -> sqlite3.Connection:
        """Open the database; where its folder cannot be written, as one that does not change."""
        is_fixed = not os.access(self.file.parent, os.W_OK) and not self.ahead.exists()
        self._connection = sqlite3.connect(
            f"{self.file.absolute().as_uri()}?{'immutable=1' if is_fixed else mode}",
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )
        # Records that are deleted are not overwritten with zeros, as some builds would.
        self._connection.executescript("PRAGMA secure_delete = 0; PRAGMA synchronous = NORMAL")
        return self._connection

    def __del__(self) -> None:
        self.close()


class LocalLogReader:
    """One of many readers of a log in a folder, used by one thread at a time.

    Parameters
    ----------
    file
        The database; use :meth:`LocalLogStore.reader`.

    Attributes
    ----------
    identity
        Names this very log: a log deleted and made again under its old name has another.
    partitions
        The partitions, ascending.
    """

    def __init__(self, file: Path) -> None:
        self._database = _Database(file)
        self.identity, self.partitions = self._database.identity, self._database.partitions

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        """Return up to ``max_records`` records from ``offset`` on; none at the end."""
        base = self._database.base(partition)
        sql = "SELECT * FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
        rows = self._database.rows(sql, base + max(offset, 0), base + _STRIDE, max_records)
        if not rows or not rows[0][0] - base == offset == rows[-1][0] - base - len(rows) + 1:
            begin, end = self._database.bounds(partition)
            if offset > end:
                raise LogLostError(
                    f"{self._database.file}, partition {partition}: it ends at {end}, before "
                    f"offset {offset}: records are gone; restore the folder of the log from a "
                    "copy, or begin the run anew in another folder"
                )
            if offset < begin:
                raise LogTrimmedError(
                    f"{self._database.file}, partition {partition}: offset {offset} has been "
                    f"trimmed away; the oldest kept is {begin}: begin with a new state folder, and "
                    "let its logs keep more (stream.retention)"
                )
            if rows:
                raise self._database.damage(f"a record after {offset} is missing")
        found = []
        for at, time_ms, checksum, headers, value in rows:
            offset = at - base
            if _checksum(at, time_ms, headers, value) != checksum:
                what = f"record {offset} of partition {partition} does not match its checksum"
                raise self._database.damage(what)
            record = Record(value, _headers(headers) if headers else (), time_ms)
            found.append(StoredRecord(partition, offset, offset + 1, record))
        return found

    def begin(self, partition: int) -> int:
        """Return the offset of the oldest record that is kept."""
        return self._database.bounds(partition)[0]

    def end(self, partition: int) -> int:
        """Return the offset that the next record will get."""
        return self._database.bounds(partition)[1]

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where the partition holds none."""
        begin, end = self._database.bounds(partition)
        return self.read(partition, end - 1, 1)[0] if begin < end else None

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is at or after ``time_ms``, else the end.

        Times need not grow along the log, so all records before the answer are looked at.
        """
        base = self._database.base(partition)
        sql = "SELECT min(id) FROM records WHERE id >= ? AND id < ? AND time_ms >= ?"
        [(found,)] = self._database.rows(sql, base, base + _STRIDE, time_ms)
        return self.end(partition) if found is None else int(found) - base

    def sync(self) -> None:
        """Return once all that can be read now survives a crash of the machine.

        What was committed is in the write-ahead log, or where that is not there, in the database.
        """
        ahead = self._database.ahead
        with suppress(FileNotFoundError):
            sync(ahead if ahead.exists() else self._database.file)

    def close(self) -> None:
        """Release the file; reading opens it again."""
        self._database.close()


class LocalLogWriter:
    """The one writer of a log in a folder, used by one thread at a time.

    Parameters
    ----------
    file
        The database; use :meth:`LocalLogStore.writer`.

    Attributes
    ----------
    identity
        The same as the readers see.
    """

    def __init__(self, file: Path) -> None:
        self._database = database = _Database(file)
        self.identity = database.identity
        try:
            self._lock = hold(file.with_name("writer"), f"writer of {database.name}")
        except FileLockedError as held:
            raise LogLockedError(
                f"log {database.name!r} in {file.parent.parent} is being written by {held}; stop "
                "it first"
            ) from None
        self._ends = [database.bounds(partition)[1] for partition in database.partitions]
        self._closed = self._dirty = False

    @property
    def max_value_bytes(self) -> int:
        """The largest value of a record without headers."""
        return MAX_BYTES

    def end(self, partition: int = 0) -> int:
        """Return the offset that the next record gets."""
        self._database.base(partition)
        return self._ends[partition]

    def append(self, records: Sequence[Record], partition: int = 0) -> None:
        """Append records in order, all or none; readers see them at once.

        A crash of the process loses none of them; one of the machine may, before :meth:`flush`.

        Raises
        ------
        OSError
            The disk is full: none of them is appended, and the writer can continue.
        """
        first = self._database.base(partition) + self._ends[partition]
        if self._closed:
            raise ValueError(f"log {self._database.name!r}: this writer is closed; open another")
        if records:
            self._database.write(
                ("INSERT INTO records VALUES (?, ?, ?, ?, ?)", _rows(records, first))
            )
            self._ends[partition] += len(records)
            self._dirty = True

    def flush(self) -> None:
        """Return once all that was appended survives a crash of the machine."""
        if self._dirty:
            # A commit with synchronous = FULL waits until all of the write-ahead log is on disk.
            self._database.rows("PRAGMA synchronous = FULL")
            self._database.rows("UPDATE log SET flushes = flushes + 1")
            self._database.rows("PRAGMA synchronous = NORMAL")
            self._database.write_flushed(self._ends)
            self._dirty = False

    def close(self) -> None:
        """Flush, and let the next writer in."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
            # So that all is in one file, however many readers stay.
            self._database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._database.close()
            self._lock.close()


def _rows(records: Sequence[Record], first: int) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    """Make a row of each record, numbered from an id on."""
    for at, (value, headers, time_ms) in enumerate(records, first):
        if len(value) > MAX_BYTES:
            raise ValueError(f"record of {len(value)} bytes; the most is {MAX_BYTES}: split it")
        # As JSON, each byte of a header's value as the character of its number.
        pairs = [(name, bytes_.decode("latin-1")) for name, bytes_ in headers]
        written = to_json(pairs) if pairs else b""
        yield at, time_ms, _checksum(at, time_ms, written, value), written, value


@lru_cache(maxsize=1024)
def _headers(written: bytes) -> Headers:
    return tuple((name, value.encode("latin-1")) for name, value in from_json(written))


def _checksum(at: int, time_ms: int, headers: bytes, value: bytes) -> int:
    return crc32(value, crc32(headers, crc32(struct.pack("<qq", at, time_ms))))
