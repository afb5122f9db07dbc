"""Appending to one partition of a log in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from stream.log import Record, frame
from stream.log.segments import Walker, bases, segment
from stream.state import sync_folder

log = logging.getLogger(__name__)


class PartitionWriter:
    """The one writer of a partition; whoever makes it holds the lock of the log.

    Parameters
    ----------
    folder
        The partition's own folder.
    segment_bytes
        When to begin a new segment.

    Attributes
    ----------
    cut_bytes
        Bytes of a torn tail that were cut at the start.
    """

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self._descriptor = -1
        self._folder = folder
        self._segment_bytes = segment_bytes
        self.cut_bytes = 0
        self._dirty = False
        self._unsynced = [folder, folder.parent, folder.parent.parent]
        try:
            self._offset, self._size = self._open_last()
        except BaseException:
            self.close()
            raise

    def append(self, records: Sequence[Record]) -> None:
        """Append records in order; where the disk is full, none of them is appended."""
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

    def flush(self) -> None:
        """Return once all that was appended survives a crash of the machine."""
        if self._dirty:
            os.fdatasync(self._descriptor)
            while self._unsynced:
                sync_folder(self._unsynced.pop())
            self._dirty = False

    def trim(self, offset: int) -> None:
        """Delete the segments, oldest first, that hold nothing from ``offset`` on.

        The newest segment always stays, and so does the offset that the next record will get.
        """
        for base, successor in pairwise(bases(self._folder)):
            if successor > offset:
                break
            segment(self._folder, base).unlink()
        sync_folder(self._folder)

    def close(self) -> None:
        """Let go of the file; what was not flushed a crash of the machine may still lose."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

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

    def __del__(self) -> None:
        self.close()
