"""What the logs do not keep: decided from what workers still need, and deleted."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stream import topics
from stream.config import RetentionConfig
from stream.follow import LogFollower, MessageLog
from stream.log.api import LogReader, LogStore, StoredRecord
from stream.messages import Position, Window
from stream.ordering import LOG as ORDER
from stream.ordering import find_predictions
from stream.reader import ClickCursor
from stream.state import Checkpoints

Needed = Mapping[str, Mapping[int, int]]
"""By log and partition the lowest offset that any worker may still read, in this life or after a
restart from its checkpoint. What is not named is not deleted."""

FIRST_CLICK: Final = ClickCursor(identity="")
"""Where a worker that has no checkpoint reads the clicks: from their beginning."""


@dataclass(frozen=True, slots=True)
class RestartPoint:
    """A place from which a worker may continue, and what it reads from there on."""

    clicks: Sequence[ClickCursor] = ()
    """It reads the clicks from these places on."""
    offsets: Mapping[str, int] = field(default_factory=dict)
    """By log of one partition, the offset from which on it reads; 0: all of it."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """By log of predictions, the count of events from which on it publishes them again, which
    others compare with those that are there. They lower the offset of a log that ``offsets`` names,
    and keep no other."""
    windows_after: int | None = None
    """The count of events after which it reads windows; None: it reads none."""


class RestartPoints:
    """The restart points of one worker: those of its checkpoints, each of which is read once.

    With a single whole checkpoint, or none, the worker may have to begin anew, since a checkpoint
    can turn out to be damaged.

    Parameters
    ----------
    checkpoints
        Of the worker.
    read
        Makes a restart point of the parts of a checkpoint.
    """

    def __init__(
        self, checkpoints: Checkpoints, read: Callable[[Mapping[str, bytes]], RestartPoint]
    ) -> None:
        self._checkpoints, self._read = checkpoints, read
        self._known: dict[Path, RestartPoint | None] = {}

    def poll(self, begin: RestartPoint) -> list[RestartPoint]:
        """Return all, with ``begin`` among them where the worker may have to begin anew."""
        known, self._known = self._known, {}
        for path in self._checkpoints.paths():
            if path in known:
                self._known[path] = known[path]
                continue
            # One that is deleted meanwhile is none; one that is damaged is not read again.
            with suppress(OSError):
                try:
                    self._known[path] = self._read(self._checkpoints.read(path).parts)
                except ValueError:
                    self._known[path] = None
        found = [point for point in self._known.values() if point is not None]
        return found if len(found) > 1 else [begin, *found]


@dataclass(frozen=True, slots=True)
class LogExtent:
    """What a partition of a log holds."""

    begin: int
    """The offset of the oldest record."""
    last: int
    """The offset of the newest record."""
    end: int
    """The offset that the next record will get."""


def keep_from(
    config: RetentionConfig, log: str, needed: int, extent: LogExtent, recent: int = 0
) -> int | None:
    """Decide from which offset on a partition of a log is kept.

    The newest record always stays: a source continues from the newest click, and so does its truth.

    Parameters
    ----------
    config
        Says what is kept though nobody needs it.
    log
        The name of the log.
    needed
        The lowest offset that any worker may still read.
    extent
        What the partition holds.
    recent
        Of the log ``windows``, the offset of the first window to keep: of the last
        ``windows_events`` events, or of those that a worker still reads, whichever is earlier.

    Returns
    -------
    The offset; None where everything is kept.

    Examples
    --------
    >>> held = LogExtent(begin=0, last=99, end=100)
    >>> keep_from(RetentionConfig(), "clicks", 40, held)
    40
    >>> keep_from(RetentionConfig(), "clicks", 100, held)
    99
    >>> keep_from(RetentionConfig(clicks="all"), "clicks", 40, held) is None
    True
    >>> keep_from(RetentionConfig(progress_records=10), "progress.dense", 95, held)
    90
    """
    kind = log.partition(".")[0]
    bound = {
        topics.CLICKS: needed if config.clicks == "needed" else 0,
        "predictions": needed if config.predictions == "needed" else 0,
        topics.TRUTH: needed if config.truth == "needed" else 0,
        topics.WINDOWS: recent if config.windows_events is not None else 0,
        "progress": extent.end - config.progress_records,
    }.get(kind, 0)
    found = min(bound, needed, extent.last)
    return found if found > extent.begin else None


class LogTrimmer:
    """Deletes now and then what the logs do not keep.

    Parameters
    ----------
    store
        The store of the logs.
    config
        Says what they keep.
    deduplicate_events
        Offsets before those that a worker reads, in which it looks for the ids of events.
    """

    def __init__(
        self, store: LogStore, config: RetentionConfig, deduplicate_events: int = 0
    ) -> None:
        self._store, self._config, self._before = store, config, deduplicate_events
        self._opened = ExitStack()
        self._readers: dict[str, LogReader] = {}
        self._windows: LogFollower[Window] | None = None
        self._ends: deque[tuple[int, int]] = deque()
        """Of each window that is recent: its end, and its offset in the log."""

    def needed(self, points: Sequence[RestartPoint]) -> Needed:
        """Return what may be read from some restart points on, of the logs that they name."""
        if not self._store.exists(topics.CLICKS):
            return {}
        clicks = self._reader(topics.CLICKS)
        cursors = [cursor for point in points for cursor in point.clicks]
        offsets: dict[str, int] = {}
        counts: dict[str, int] = {}
        for point in points:
            for log, offset in point.offsets.items():
                offsets[log] = min(offset, offsets.get(log, offset))
            for log, count in point.counts.items():
                counts[log] = min(count, counts.get(log, count))
        if len(clicks.partitions) > 1:
            # Whoever reads clicks of several partitions looks up which of them come next.
            counts[ORDER] = min([*(cursor.count for cursor in cursors), counts.get(ORDER, 0)])
        for log, count in counts.items():
            if offsets.get(log) and self._store.exists(log):
                offsets[log] = min(offsets[log], find_predictions(self._reader(log), count))
        # In another log, or before it has come to a partition, a cursor reads from its beginning.
        known = [one.places if one.identity == clicks.identity else {} for one in cursors]
        start = Position(0, 0)
        places = {
            partition: min((one.get(partition, start).offset for one in known), default=0)
            for partition in clicks.partitions
        }
        places = {partition: max(0, offset - self._before) for partition, offset in places.items()}
        return {topics.CLICKS: places, **{log: {0: at} for log, at in offsets.items()}}

    def trim(self, needed: Needed, windows_after: int = sys.maxsize) -> dict[tuple[str, int], int]:
        """Delete what is not kept; return, by log and partition, where those begin that lost any.

        Logs that are not there are passed over.

        Parameters
        ----------
        needed
            What may still be read.
        windows_after
            The windows that end after this count may be, too.
        """
        trimmed = {}
        for log, partitions in needed.items():
            if log not in self._readers and not self._store.exists(log):
                continue
            reader = self._reader(log)
            for partition, offset in partitions.items():
                last = reader.last(partition)
                if last is None:
                    continue
                end = reader.end(partition)
                extent = LogExtent(reader.begin(partition), last.offset, end)
                recent = self._recent(windows_after) if log == topics.WINDOWS else 0
                lowest = min(offset, self._young(log, reader, last))
                kept = keep_from(self._config, log, lowest, extent, recent)
                if kept is not None:
                    self._store.trim(log, partition, kept)
                    trimmed[log, partition] = kept
        return trimmed

    def close(self) -> None:
        """Release the logs."""
        self._opened.close()

    def _reader(self, log: str) -> LogReader:
        if log not in self._readers:
            self._readers[log] = self._store.reader(log)
            self._opened.callback(self._readers[log].close)
        return self._readers[log]

    def _young(self, log: str, reader: LogReader, last: StoredRecord) -> int:
        """Return the offset from which on a partition is kept for its age; that of the newest."""
        seconds = self._config.recent_seconds
        if not seconds or log.partition(".")[0] not in (topics.CLICKS, topics.TRUTH, "predictions"):
            return last.offset
        return reader.seek(last.partition, last.record.time_ms - round(1_000 * seconds))

    def _recent(self, windows_after: int) -> int:
        """Return the offset of the first window of the last ``windows_events`` events.

        One that ends after another count comes first, where it is earlier.
        """
        events = self._config.windows_events
        if events is None:
            return 0
        if self._windows is None:
            windows = MessageLog(self._store, topics.WINDOWS)
            self._windows = windows.follow(Window, skips_trimmed=True)
            self._opened.callback(self._windows.close)
        while found := self._windows.poll_logged():
            self._ends.extend((one.message.end, one.offset) for one in found)
        newest = max((end for end, _ in self._ends), default=0)
        while self._ends and self._ends[0][0] <= min(newest - events, windows_after):
            self._ends.popleft()
        return self._ends[0][1] if self._ends else 0
