"""The log in a folder: segment files, one writer, many readers, no server.

::

    <home>/<name>/identity      32 hex digits, made once
    <home>/<name>/writer        the lock of the one writer
    <home>/<name>/0/<base>.log  segments of partition 0; base: the offset of the first record

A segment is a row of frames (:mod:`stream.frame`). The writer only ever appends to the newest
segment, with one ``write`` for each :meth:`EmbeddedWriter.append`, so readers in other threads and
processes see a record as soon as ``append`` returns, and a killed writer leaves at worst one torn
frame at the very end. Readers take a torn tail for the end; the next writer cuts it.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stream import frame
from stream.disk import HeldError, hold, sync_folder
from stream.log import LogLockedError, Record, StoredRecord
from stream.segments import Walker, bases, begin, segment

log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class EmbeddedHome:
    """A folder of logs.

    Parameters
    ----------
    folder
        Made when its first log is opened.
    segment_bytes
        A segment that would grow beyond is followed by a new one; an ``append`` is never split.

    Examples
    --------
    >>> import tempfile
    >>> home = EmbeddedHome(Path(tempfile.mkdtemp()))
    >>> clicks = home.writer("clicks")
    >>> clicks.append([Record(b"first"), Record(b"second")])
    >>> [stored.record.value for stored in home.reader("clicks").read(0, offset=1)]
    [b'second']
    >>> clicks.close()
    """

    folder: Path
    segment_bytes: int = SEGMENT_BYTES

    def reader(self, name: str) -> EmbeddedReader:
        """Open a log for reading; made empty if it is not there yet."""
        return EmbeddedReader(self._make(name))

    def writer(self, name: str) -> EmbeddedWriter:
        """Open a log for writing; :class:`LogLockedError` if somebody else writes it."""
        return EmbeddedWriter(self._make(name), self.segment_bytes)

    def _make(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"log name {name!r}; use letters, digits, '_', '-' and '.' inside")
        folder = self.folder / name
        (folder / "0").mkdir(parents=True, exist_ok=True)
        if not (folder / "identity").exists():
            _make_identity(folder)
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


class EmbeddedReader:
    """One of many readers of a log in a folder.

    Reading on from where the last read ended costs no look-up. A reader is used by one thread at
    a time: let each thread open its own.

    Parameters
    ----------
    folder
        The log's own folder; use :meth:`EmbeddedHome.reader`.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._identity = (folder / "identity").read_text()
        self._folder = folder / "0"
        self._reading = Walker(self._folder)
        self._ending = Walker(self._folder)

    @property
    def identity(self) -> str:
        """Name this very log: a log deleted and made again under its old name has another."""
        return self._identity

    @property
    def partitions(self) -> tuple[int, ...]:
        """The one partition, 0."""
        return (0,)

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        """Return up to ``max_records`` records from ``offset`` on; none at the end."""
        _check_partition(self.name, partition)
        found: list[StoredRecord] = []
        if self._reading.go(offset):
            while len(found) < max_records and (place := self._reading.advance()):
                found.append(frame.decode(*place))
        return found

    def begin(self, partition: int) -> int:
        """Return the offset of the oldest record that is kept."""
        _check_partition(self.name, partition)
        return begin(self._folder)

    def end(self, partition: int) -> int:
        """Return the offset that the next record will get; reads only what it has not yet seen."""
        _check_partition(self.name, partition)
        self._ending.go_to_end()
        return self._ending.offset

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where the partition holds none."""
        end = self.end(partition)
        if end == self.begin(partition) or not self._ending.go(end - 1):
            return None
        place = self._ending.advance()
        return frame.decode(*place) if place else None

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is at or after ``time_ms``, else the end.

        Times need not grow along the log, so all records before the answer are looked at.
        """
        walker = Walker(self._folder)
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
        self._reading.close()
        self._ending.close()


class EmbeddedWriter:
    """The one writer of a log in a folder.

    Parameters
    ----------
    folder
        The log's own folder; use :meth:`EmbeddedHome.writer`.
    segment_bytes
        When to begin a new segment.

    Attributes
    ----------
    cut_bytes
        Bytes of a torn tail, left by a crash, that were cut when the log was opened.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._descriptor = -1
        self.name = folder.name
        self._identity = (folder / "identity").read_text()
        self._folder = folder / "0"
        self._segment_bytes = segment_bytes
        try:
            self._lock = hold(folder / "writer", f"writer of {folder.name}")
        except HeldError as held:
            raise LogLockedError(
                f"log {folder.name!r} in {folder.parent} is being written by {held}; stop it first"
            ) from None
        self.cut_bytes = 0
        self._dirty = False
        self._unsynced = [self._folder, folder, folder.parent]
        try:
            self._offset, self._size = self._open_last()
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> str:
        """The same as the readers see."""
        return self._identity

    def _open_last(self) -> tuple[int, int]:
        """Open the newest segment after its last whole record, and cut what follows."""
        walker = Walker(self._folder)
        walker.go_to_end()
        base = max(walker.base, 0)
        self._open_segment(base)
        torn = os.fstat(self._descriptor).st_size - walker.position
        if torn:
            os.ftruncate(self._descriptor, walker.position)
            os.fsync(self._descriptor)
            self.cut_bytes = torn
            path = segment(self._folder, base)
            log.warning("%s: cut a torn tail of %d bytes at %d", path, torn, walker.position)
        return walker.offset, walker.position

    def _open_segment(self, base: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(segment(self._folder, base), flags, 0o644)

    def append(self, records: Sequence[Record], partition: int = 0) -> None:
        """Append records in order: readers see them at once, a crash of the machine may lose them.

        Where the disk is full, none of them is appended.
        """
        _check_partition(self.name, partition)
        if self._descriptor < 0:
            raise ValueError(f"log {self.name!r}: this writer is closed; open another")
        frames = b"".join(
            [frame.encode(offset, record) for offset, record in enumerate(records, self._offset)]
        )
        if not frames:
            return
        if self._size and self._size + len(frames) > self._segment_bytes:
            self._roll()
        self._write(frames)
        self._offset += len(records)
        self._size += len(frames)
        self._dirty = True

    def _write(self, frames: bytes) -> None:
        try:
            written = os.write(self._descriptor, frames)
            while written < len(frames):
                written += os.write(self._descriptor, memoryview(frames)[written:])
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise

    def _roll(self) -> None:
        """Begin a new segment."""
        self.flush()
        full = self._descriptor
        self._open_segment(self._offset)
        self._size = 0
        self._unsynced.append(self._folder)
        os.close(full)

    def flush(self) -> None:
        """Return once all that was appended survives a crash of the machine."""
        if self._dirty:
            os.fdatasync(self._descriptor)
            while self._unsynced:
                sync_folder(self._unsynced.pop())
            self._dirty = False

    def trim(self, partition: int, offset: int) -> None:
        """Delete the segments, oldest first, that hold nothing from ``offset`` on.

        The newest segment always stays, and so does the offset that the next record will get.
        """
        _check_partition(self.name, partition)
        for base, successor in pairwise(bases(self._folder)):
            if successor > offset:
                break
            segment(self._folder, base).unlink()
        sync_folder(self._folder)

    def close(self) -> None:
        """Flush, and let the next writer in."""
        if self._descriptor >= 0:
            self.flush()
            os.close(self._descriptor)
            self._descriptor = -1
        self._lock.close()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _check_partition(name: str, partition: int) -> None:
    if partition != 0:
        raise ValueError(f"log {name!r} has no partition {partition}; it has only 0")
