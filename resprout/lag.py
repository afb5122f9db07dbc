"""How far a worker is behind: in events, and by the clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

from resprout.settings import DENSE
from stream.columnar import predictions_from_bytes
from stream.log import LogHome
from stream.topics import CLICKS, predictions

MOST_LOOKS = 1_000
"""Looks that are remembered; of more, every second one is forgotten."""


class Ahead:
    """Tells how many events there are for a worker of another process than the others.

    All workers follow dense, so for them these are what dense has published. For dense they are
    those in the log of the clicks: exactly where a record holds one event, else by how many a
    record has held so far.

    Parameters
    ----------
    home
        Where the logs live.
    worker
        Who asks.
    begins
        By partition the offset of the clicks with which the run begins; not named: 0.
    """

    def __init__(
        self, home: LogHome, worker: str, begins: Mapping[int, int] = MappingProxyType({})
    ) -> None:
        self._published = home.reader(predictions(DENSE))
        self._clicks = home.reader(CLICKS) if worker == DENSE else None
        self._begins = begins

    def __call__(self) -> int | None:
        """Look; None while dense has published nothing."""
        newest = self._published.last(0)
        if newest is None:
            return None
        batch = predictions_from_bytes(newest.record.value)
        if self._clicks is None:
            return batch.end
        through = {partition: place.offset for partition, place in batch.trained_through.items()}
        through.update({span.partition: span.last.offset for span in batch.spans})
        begins = self._begins
        read = sum(offset + 1 - begins.get(p, 0) for p, offset in through.items())
        there = sum(self._clicks.end(p) - begins.get(p, 0) for p in self._clicks.partitions)
        unread = there - read
        return batch.end + round(max(unread, 0) * batch.end / read)

    def close(self) -> None:
        """Release the logs."""
        self._published.close()
        if self._clicks is not None:
            self._clicks.close()


class Behind:
    """Tells for how long the events that a worker has not come through have been there.

    Event time need not be anywhere near the clock's, so it is not asked: at every look it is noted
    how many events there are, and the lag is the time since there were as many as the worker has
    come through, in between two looks by a straight line. Before the first look nothing is known,
    and the lag is at least the time since then.

    Examples
    --------
    >>> behind = Behind()
    >>> behind.look(there=100, now=0)
    >>> behind.look(there=200, now=10)
    >>> behind.seconds(count=150, now=12), behind.seconds(count=200, now=12)
    (7.0, 0.0)
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()

    @property
    def there(self) -> int | None:
        """How many events there were at the last look; None before the first."""
        return self._looks[-1][1] if self._looks else None

    def look(self, there: int, now: float) -> None:
        """Note how many events there are now, by any clock that does not go back."""
        if len(self._looks) >= MOST_LOOKS:
            self._looks = deque(list(self._looks)[::2])
        self._looks.append((now, there))

    def seconds(self, count: int, now: float) -> float:
        """Return the lag of a worker that has come through ``count`` events."""
        while len(self._looks) > 1 and self._looks[1][1] <= count:
            self._looks.popleft()
        if self.there is None or self.there <= count:
            return 0.0
        then, had = self._looks[0]
        if had > count:
            return float(now - then)
        later, has = self._looks[1]
        return float(now - then - (later - then) * (count - had) / (has - had))
