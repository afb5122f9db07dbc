"""What the logs do not keep: decided from what workers still need, and deleted."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from stream import topics
from stream.config import RetentionConfig
from stream.follow import LogFollower, MessageLog
from stream.log.api import LogReader, LogStore
from stream.messages import Window

Needed = Mapping[str, Mapping[int, int]]
"""By log and partition the lowest offset that any worker may still read, in this life or after a
restart from its checkpoint. What is not named is not deleted."""


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

    The newest record always stays: a source goes on from the newest click, and so does its truth.

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
        Of the log ``windows``, where its last ``windows_events`` events begin.

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
    """

    def __init__(self, store: LogStore, config: RetentionConfig) -> None:
        self._store, self._config = store, config
        self._opened = ExitStack()
        self._readers: dict[str, LogReader] = {}
        self._windows: LogFollower[Window] | None = None
        self._ends: deque[tuple[int, int]] = deque()
        """Of each window that is recent: its end, and its offset in the log."""

    def trim(self, needed: Needed) -> dict[tuple[str, int], int]:
        """Delete what is not kept; return, by log and partition, where those begin that lost any.

        Logs that are not there are passed over.
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
                recent = self._recent() if log == topics.WINDOWS else 0
                kept = keep_from(self._config, log, offset, extent, recent)
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

    def _recent(self) -> int:
        """Return the offset of the first window of the last ``windows_events`` events."""
        events = self._config.windows_events
        if events is None:
            return 0
        if self._windows is None:
            self._windows = MessageLog(self._store, topics.WINDOWS).follow(Window)
            self._opened.callback(self._windows.close)
        while found := self._windows.poll_logged():
            self._ends.extend((one.message.end, one.offset) for one in found)
        newest = max((end for end, _ in self._ends), default=0)
        while self._ends and self._ends[0][0] <= newest - events:
            self._ends.popleft()
        return self._ends[0][1] if self._ends else 0
