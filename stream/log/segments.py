"""The segment files of one partition, and the walk through their frames."""

from __future__ import annotations

import os
from bisect import bisect_right
from pathlib import Path

from stream.log import LogCorruptError, LogTrimmedError, frame

_CHUNK_BYTES = 256 * 1024
_MARK_EVERY = 128


def bases(folder: Path) -> list[int]:
    """Return the base offsets of a partition's segments, ascending."""
    return sorted(int(name[:-4]) for name in os.listdir(folder) if name.endswith(".log"))


def begin(folder: Path) -> int:
    """Return the offset of the oldest record that is kept; 0 where there is no segment."""
    return next(iter(bases(folder)), 0)


def segment(folder: Path, base: int) -> Path:
    """Name the segment whose first record has offset ``base``.

    >>> segment(Path("clicks/0"), 1500).name
    '00000000000000001500.log'
    """
    return folder / f"{base:020d}.log"


class Walker:
    """Goes through the frames of one partition, from a place forward.

    ``offset`` is the record it stands before, ``position`` the byte in segment ``base`` where that
    record's frame begins or will begin. Bytes are read ahead into ``buffer``; what is there is
    believed only for whole frames, since a torn tail may be cut and written anew.

    Parameters
    ----------
    folder
        The partition's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = -1
        self.offset = 0
        self.position = 0
        self._descriptor = -1
        self._buffer = b""
        self._start = 0
        self._marks: list[tuple[int, int]] = []

    def go(self, offset: int) -> bool:
        """Stand before a record; False where the partition ends earlier."""
        if offset != self.offset or self._descriptor < 0:
            self._jump(offset)
            while self.offset < offset and self.advance():
                pass
        return self.offset == offset

    def _jump(self, offset: int) -> None:
        """Stand at the nearest known place at or before a record."""
        known = bases(self.folder)
        if offset < next(iter(known), 0):
            raise self._trimmed(offset)
        if not known:
            return
        base = known[bisect_right(known, offset) - 1]
        if base != self.base or self._descriptor < 0:
            self.open(base)
        else:
            mark = self._marks[bisect_right(self._marks, offset, key=lambda m: m[0]) - 1]
            if not mark[0] <= self.offset <= offset:
                self.offset, self.position = mark

    def go_to_end(self) -> None:
        """Stand behind the last whole record, reading no segment but the newest."""
        known = bases(self.folder)
        if known and self.base < known[-1]:
            self.open(known[-1])
        while self.advance():
            pass

    def open(self, base: int) -> None:
        """Stand before the first record of a segment."""
        try:
            descriptor = os.open(segment(self.folder, base), os.O_RDONLY)
        except FileNotFoundError:
            raise self._trimmed(base) from None
        self.close()
        self._descriptor = descriptor
        self.base = self.offset = base
        self.position = self._start = 0
        self._buffer = b""
        self._marks = [(base, 0)]

    def advance(self) -> tuple[bytes, int, int] | None:
        """Pass one record; return a buffer and where in it the frame stands, None at the end."""
        at = self.position - self._start
        stop = frame.end(self._buffer, at, self.offset) if at >= 0 else 0
        if not stop:
            if not self._refill():
                return None
            at, stop = 0, frame.end(self._buffer, 0, self.offset)
        self.offset += 1
        self.position = self._start + stop
        if self.offset - self._marks[-1][0] >= _MARK_EVERY:
            self._marks.append((self.offset, self.position))
        return self._buffer, at, stop

    def _refill(self) -> bool:
        """Read on from the file until the buffer begins with a whole frame; False at the end."""
        while True:
            # Looked up before the bytes are read: a segment with a successor grows no more.
            after = [base for base in bases(self.folder) if base > self.base]
            if self._descriptor >= 0 and self._load():
                return True
            if not after:
                return self._tail_grew()
            if self._descriptor >= 0 and (self._buffer or after[0] != self.offset):
                self._refuse_gap(after[0])
            self.open(after[0])

    def _load(self) -> bool:
        """Fill the buffer from ``position`` on; False where no whole frame stands there."""
        self._start = self.position
        self._buffer = os.pread(self._descriptor, _CHUNK_BYTES, self.position)
        size = frame.wanted(self._buffer)
        if size > len(self._buffer) >= _CHUNK_BYTES:
            self._buffer = os.pread(self._descriptor, size, self.position)
        return frame.end(self._buffer, 0, self.offset) > 0

    def _tail_grew(self) -> bool:
        """Tell a torn or growing tail (False) from damage with good records behind it (raises)."""
        if not self._buffer or self._descriptor < 0:
            return False
        rest = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, self.position)
        if not frame.holds_later(rest, self.offset):
            return False
        if self._load():
            return True
        raise self._damage()

    def _refuse_gap(self, successor: int) -> None:
        """Raise: this segment ends before record ``successor``, with which the next begins."""
        path = segment(self.folder, self.base)
        if not path.exists():
            raise self._trimmed(self.offset)
        if self._buffer:
            raise self._damage()
        raise LogCorruptError(
            f"{path}: ends with record {self.offset - 1} at byte {self.position}, but the next "
            f"segment begins with {successor}; restore the file between them from a copy"
        )

    def _damage(self) -> LogCorruptError:
        path = segment(self.folder, self.base)
        return LogCorruptError(
            f"{path}: record {self.offset} at byte {self.position} does not match its checksum, "
            f"and others follow it; restore the file from a copy"
        )

    def _trimmed(self, offset: int) -> LogTrimmedError:
        return LogTrimmedError(
            f"{self.folder}: offset {offset} has been trimmed away; "
            f"the oldest kept is {begin(self.folder)}"
        )

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = self.base = -1

    def __del__(self) -> None:
        self.close()
