"""The log in a folder: segment files, one writer, many readers, no server.

::

    <home>/<name>/identity      32 hex digits, made once
    <home>/<name>/writer        the lock of the one writer
    <home>/<name>/0/<base>.log  segments of partition 0; base: the offset of the first record
    <home>/<name>/1/...         of partition 1, where there are several

A segment is a row of frames (:mod:`stream.log.frame`). The writer only ever appends to the newest
segment, with one ``write`` for each :meth:`LocalLogWriter.append`, so readers in other threads and
processes see a record as soon as ``append`` returns, and a killed writer leaves at worst one torn
frame at the very end. Readers take a torn tail for the end; the next writer cuts it.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stream.log import LogLockedError, Record, StoredRecord, frame
from stream.log.partition import PartitionWriter
from stream.log.segments import Walker, begin
from stream.state import FileLockedError, hold

log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class LocalLogStore:
    """A folder of logs.

    Parameters
    ----------
    folder
        Made when its first log is opened.
    segment_bytes
        A segment that would grow beyond is followed by a new one; an ``append`` is never split.
    partitions
        Of logs that have several, by name; fixed when the log is made.

    Examples
    --------
    >>> import tempfile
    >>> home = LocalLogStore(Path(tempfile.mkdtemp()))
    >>> clicks = home.writer("clicks")
    >>> clicks.append([Record(b"first"), Record(b"second")])
    >>> [stored.record.value for stored in home.reader("clicks").read(0, offset=1)]
    [b'second']
    >>> clicks.close()
    """

    folder: Path
    segment_bytes: int = SEGMENT_BYTES
    partitions: Mapping[str, int] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        """Tell whether a log is there; a reader would make it."""
        return (self.folder / name).is_dir()

    def reader(self, name: str) -> LocalLogReader:
        """Open a log for reading; made empty if it is not there yet."""
        return LocalLogReader(self._make(name))

    def writer(self, name: str) -> LocalLogWriter:
        """Open a log for writing; :class:`LogLockedError` if somebody else writes it."""
        return LocalLogWriter(self._make(name), self.segment_bytes)

    def _make(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"log name {name!r}; use letters, digits, '_', '-' and '.' inside")
        folder, wanted = self.folder / name, self.partitions.get(name)
        made = (folder / "identity").exists()
        for partition in range(1 if made else wanted or 1):
            (folder / str(partition)).mkdir(parents=True, exist_ok=True)
        if not made:
            _make_identity(folder)
        found = len(_partitions(folder))
        if wanted not in (None, found):
            raise ValueError(
                f"log {name!r} in {self.folder} was made with {found} partitions, not {wanted}; "
                "name another folder"
            )
        return folder


def _make_identity(folder: Path) -> None:
    """Give a log its identity; where several try at once, one wins and all see it whole."""
    identity = uuid.uuid4().hex
    draft = folder / f".identity-{identity}"
    with draft.open("w") as file:
        file.write(identity)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, folder / "identity")
    except FileExistsError:
        log.debug("%s was given its identity by somebody else", folder)
    draft.unlink()


class LocalLogReader:
    """One of many readers of a log in a folder.

    Reading on from where the last read ended costs no look-up. A reader is used by one thread at
    a time: let each thread open its own.

    Parameters
    ----------
    folder
        The log's own folder; use :meth:`LocalLogStore.reader`.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._identity = (folder / "identity").read_text()
        self._folders = _partitions(folder)
        self._reading = [Walker(one) for one in self._folders]
        self._ending = [Walker(one) for one in self._folders]

    @property
    def identity(self) -> str:
        """Name this very log: a log deleted and made again under its old name has another."""
        return self._identity

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions, ascending."""
        return tuple(range(len(self._folders)))

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        """Return up to ``max_records`` records from ``offset`` on; none at the end."""
        self._check(partition)
        walker = self._reading[partition]
        found: list[StoredRecord] = []
        if walker.go(offset):
            while len(found) < max_records and (place := walker.advance()):
                found.append(frame.decode(*place, partition))
        return found

    def begin(self, partition: int) -> int:
        """Return the offset of the oldest record that is kept."""
        self._check(partition)
        return begin(self._folders[partition])

    def end(self, partition: int) -> int:
        """Return the offset that the next record will get; reads only what it has not yet seen."""
        self._check(partition)
        walker = self._ending[partition]
        walker.go_to_end()
        return walker.offset

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where the partition holds none."""
        end, walker = self.end(partition), self._ending[partition]
        if end == self.begin(partition) or not walker.go(end - 1):
            return None
        place = walker.advance()
        return frame.decode(*place, partition) if place else None

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is at or after ``time_ms``, else the end.

        Times need not grow along the log, so all records before the answer are looked at.
        """
        self._check(partition)
        walker = Walker(self._folders[partition])
        walker.go(self.begin(partition))
        try:
            while place := walker.advance():
                buffer, at, _ = place
                if frame.time_ms(buffer, at) >= time_ms:
                    return walker.offset - 1
            return walker.offset
        finally:
            walker.close()

    def close(self) -> None:
        """Release the files; reading opens them again."""
        for walker in (*self._reading, *self._ending):
            walker.close()

    def _check(self, partition: int) -> None:
        _check_partition(self.name, partition, len(self._folders))


class LocalLogWriter:
    """The one writer of a log in a folder.

    Parameters
    ----------
    folder
        The log's own folder; use :meth:`LocalLogStore.writer`.
    segment_bytes
        When to begin a new segment.

    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._writers: list[PartitionWriter] = []
        self.name = folder.name
        self._identity = (folder / "identity").read_text()
        try:
            self._lock = hold(folder / "writer", f"writer of {folder.name}")
        except FileLockedError as held:
            raise LogLockedError(
                f"log {folder.name!r} in {folder.parent} is being written by {held}; stop it first"
            ) from None
        try:
            for partition in _partitions(folder):
                self._writers.append(PartitionWriter(partition, segment_bytes))
        except BaseException:
            self.close()
            raise
        self._partitions = len(self._writers)

    @property
    def identity(self) -> str:
        """The same as the readers see."""
        return self._identity

    @property
    def cut_bytes(self) -> int:
        """Bytes of torn tails, left by a crash, that were cut when the log was opened."""
        return sum(writer.cut_bytes for writer in self._writers)

    def append(self, records: Sequence[Record], partition: int = 0) -> None:
        """Append records in order: readers see them at once, a crash of the machine may lose them.

        Where the disk is full, none of them is appended.
        """
        _check_partition(self.name, partition, self._partitions)
        if not self._writers:
            raise ValueError(f"log {self.name!r}: this writer is closed; open another")
        self._writers[partition].append(records)

    def flush(self) -> None:
        """Return once all that was appended survives a crash of the machine."""
        for writer in self._writers:
            writer.flush()

    def trim(self, partition: int, offset: int) -> None:
        """Delete the segments, oldest first, that hold nothing from ``offset`` on.

        The newest segment always stays, and so does the offset that the next record will get.
        """
        _check_partition(self.name, partition, self._partitions)
        self._writers[partition].trim(offset)

    def close(self) -> None:
        """Flush, and let the next writer in."""
        self.flush()
        while self._writers:
            self._writers.pop().close()
        self._lock.close()


def _partitions(folder: Path) -> list[Path]:
    """Return the folders of a log's partitions, in order."""
    numbers = sorted(int(one.name) for one in folder.iterdir() if one.name.isdecimal())
    return [folder / str(number) for number in numbers]


def _check_partition(name: str, partition: int, count: int) -> None:
    if not 0 <= partition < count:
        known = ", ".join(map(str, range(count)))
        raise ValueError(f"log {name!r} has no partition {partition}; it has {known}")
