"""Where the input ends, for those who do not read all of it."""

from __future__ import annotations

from learner.snapshot import SnapshotStore
from stream.clicks import nothing_follows
from stream.codec import END, kind_of
from stream.log import LogReader
from stream.schema import FeatureSchema

_DENSE = "dense"


class InputEnd:
    """Finds out how many events the input has, once the dense model has learned all of them.

    The dense model leaves a last snapshot where the input ends: behind its places there is nothing
    but the end records.

    Parameters
    ----------
    clicks
        The clicks log.
    snapshots
        Where dense leaves its snapshots.
    schema
        Decides which events are valid.
    """

    def __init__(self, clicks: LogReader, snapshots: SnapshotStore, schema: FeatureSchema) -> None:
        self._clicks = clicks
        self._snapshots = snapshots
        self._schema = schema
        self._tried: str | None = None
        self._total: int | None = None

    def total(self) -> int | None:
        """Return the number of valid events of the whole input, None while it is not known."""
        if self._total is None and self._last_is_end():
            newest = self._snapshots.names(_DENSE)[-1:]
            if newest and newest[0] != self._tried:
                self._tried = newest[0]
                self._total = self._count_at_end(newest[0])
        return self._total

    def _last_is_end(self) -> bool:
        lasts = [self._clicks.last(partition) for partition in self._clicks.partitions]
        return all(last is not None and kind_of(last) == END for last in lasts)

    def _count_at_end(self, snapshot: str) -> int | None:
        """Return the count of a snapshot if nothing comes after it."""
        cursor = self._snapshots.read(snapshot).cursor
        return cursor.count if nothing_follows(self._clicks, self._schema, cursor) else None
