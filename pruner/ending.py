"""Where the input ends, for those who do not read all of it."""

from __future__ import annotations

from learner.snapshot import SnapshotStore
from stream.clicks import ClickReader
from stream.codec import END, kind_of
from stream.log import LogReader
from stream.schema import FeatureSchema

_DENSE = "dense"


class InputEnd:
    """Finds out how many events the input has, once the dense model has learned all of them.

    The dense model leaves a last snapshot where the input ends: behind its place there is nothing
    but the end record.

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
        last = self._clicks.last(0)
        return last is not None and kind_of(last) == END

    def _count_at_end(self, snapshot: str) -> int | None:
        """Return the count of a snapshot if nothing comes after it."""
        cursor = self._snapshots.read(snapshot).cursor
        reader = ClickReader(self._clicks, self._schema, 1, cursor)
        return cursor.count if reader.next() is None and reader.ended else None
