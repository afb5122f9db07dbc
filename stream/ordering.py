"""Which events of several partitions come next.

The dense learner chooses (:class:`Resumed`), and its predictions record what it chose; all others
follow them (:class:`Recorded`). A log of one partition has one order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from stream import topics
from stream.columnar import predictions_from_bytes
from stream.log.api import LogReader, LogStore, LogTrimmedError, StoredRecord
from stream.messages import PositionRange, PredictionBatch
from stream.partitions import PartitionReader, PartitionReaders
from stream.spec import Waiting

LOG: Final = topics.predictions("dense")
"""The log that records the order."""


class ReadOrder(Protocol):
    """Decides which events come next, for one reader."""

    @property
    def waits_for(self) -> Waiting:
        """The log that must go on, where the last :meth:`next` returned nothing."""

    def next(self, begin: int, events: int, readers: PartitionReaders) -> Sequence[PositionRange]:
        """Return where the events of a batch stand, each partition at most once.

        Empty where that is not known yet, or the input has ended.

        Parameters
        ----------
        begin
            Events before the batch.
        events
            In a full batch; one that is shorter is the last.
        readers
            Of the partitions. The events returned are their next ones, and are ready.
        """


def open_order(store: LogStore, clicks: LogReader) -> LogReader | None:
    """Open the log that records the order of the clicks; None where one partition needs none."""
    return store.reader(LOG) if len(clicks.partitions) > 1 else None


def find_predictions(log: LogReader, begin: int) -> int:
    """Find an offset from which the predictions of a model reach those after ``begin`` events.

    A restart takes them back and then they go on batch by batch, so between a record at or before
    the batch looked for and one after it, it stands itself. Others may trim the log meanwhile, as
    long as they leave that batch.
    """
    low, high = log.begin(0), log.end(0)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            found = log.read(0, middle, 1)
        except LogTrimmedError:
            low = log.begin(0)
            continue
        if found and predictions_from_bytes(found[0].record.value).begin <= begin:
            low = found[0].offset
        else:
            high = middle
    return low


class RoundRobin:
    """Every partition gives an equal share of each batch, and another one begins each time.

    What some partitions cannot give the others do. So a partition without new events stops nobody,
    a full batch is there as soon as all partitions together hold one, and it takes at most one
    range of each. The last batch, once all partitions have ended, is what is left. With one
    partition this is the order in which its events stand; with several it depends on what has
    arrived by then.
    """

    @property
    def waits_for(self) -> Waiting:
        """The clicks."""
        return Waiting(topics.CLICKS)

    def next(self, begin: int, events: int, readers: PartitionReaders) -> Sequence[PositionRange]:
        """Choose the next batch."""
        share = -(-events // len(readers))
        ready = _fill(readers, share)
        if ready < events and share < events:
            ready = _fill(readers, events)
        if ready < events and not all(reader.ended for reader in readers.values()):
            return ()
        first = begin // events % len(readers)
        in_turn = [*readers.values()][first:] + [*readers.values()][:first]
        taken = [0] * len(in_turn)
        for most in (share, events):
            for at, reader in enumerate(in_turn):
                more = min(most, reader.ready) - taken[at]
                taken[at] += max(0, min(more, events - sum(taken)))
        return tuple(reader.span(n) for reader, n in zip(in_turn, taken, strict=True) if n)


class Recorded:
    """The order that the predictions of the dense model record.

    Parameters
    ----------
    log
        These predictions, read by nobody else through this reader.
    offset
        Where to look for the next batch; None finds that out.

    Attributes
    ----------
    offset
        The place after the predictions of the last batch; as given before the first.
    """

    def __init__(self, log: LogReader, offset: int | None = None) -> None:
        self.offset = self._next = offset
        self._log = log
        self._unread: deque[StoredRecord] = deque()
        self._found: PredictionBatch | None = None

    @property
    def waits_for(self) -> Waiting:
        """The predictions of dense or, where these are ahead, the clicks."""
        return Waiting(LOG if self._found is None else topics.CLICKS)

    def next(self, begin: int, events: int, readers: PartitionReaders) -> Sequence[PositionRange]:
        """Look the next batch up.

        Raises
        ------
        ValueError
            If the predictions are of other clicks than these.
        """
        if self._found is None:
            self._found = self._find(begin)
        if self._found is None:
            # A reader that has come to the end is to know it.
            _fill(readers, 1)
            return ()
        spans = self._found.spans
        for span in spans:
            reader = readers.get(span.partition)
            if reader is not None:
                reader.fill(span.events)
                if reader.ready < span.events and not reader.ended:
                    return ()
        if sum(span.events for span in spans) < events and not _is_clear(spans, readers):
            return ()
        _check(self._found, events, readers)
        self._found, self.offset = None, self._next
        return spans

    def _find(self, begin: int) -> PredictionBatch | None:
        """Return the predictions of the batch after ``begin`` events; None if not there yet."""
        if self._next is None:
            self._next = find_predictions(self._log, begin)
        for stored in self._records(self._next):
            batch = predictions_from_bytes(stored.record.value)
            if batch.begin == begin:
                return batch
            if batch.begin > begin:
                raise ValueError(
                    f"{LOG} goes on at {batch.begin}: the order of the events after {begin} is "
                    "missing there; begin with new logs"
                )
        return None

    def _records(self, offset: int) -> Iterator[StoredRecord]:
        """Read on, one record after the other."""
        while True:
            if not self._unread:
                self._unread.extend(self._log.read(0, offset))
            if not self._unread:
                return
            stored = self._unread.popleft()
            self._next = offset = stored.next_offset
            yield stored


class Resumed:
    """The order of the dense learner: what it had published before a restart, then its choice.

    Parameters
    ----------
    log
        Its own predictions.
    offset
        :attr:`offset` at the checkpoint from which it goes on; None where there is none.
    """

    def __init__(self, log: LogReader, offset: int | None = None) -> None:
        self._log = log
        start = log.begin(0) if offset is None else offset
        self._recorded: Recorded | None = Recorded(log, start)
        self._chosen = RoundRobin()

    @property
    def waits_for(self) -> Waiting:
        """The clicks: it never waits for another worker."""
        return Waiting(topics.CLICKS)

    @property
    def offset(self) -> int | None:
        """Where the predictions after the last batch begin, once those before are flushed."""
        return self._log.end(0) if self._recorded is None else self._recorded.offset

    def next(self, begin: int, events: int, readers: PartitionReaders) -> Sequence[PositionRange]:
        """Repeat the next batch, or choose it."""
        if self._recorded is not None:
            spans = self._recorded.next(begin, events, readers)
            if spans or self._recorded.waits_for.log != LOG:
                return spans
            self._recorded = None
        return self._chosen.next(begin, events, readers)


def _fill(readers: PartitionReaders, events: int) -> int:
    """Have so many events ready of each partition, if they are there; return the sum."""
    for reader in readers.values():
        reader.fill(events)
    return sum(reader.ready for reader in readers.values())


def _is_clear(spans: Sequence[PositionRange], readers: PartitionReaders) -> bool:
    """Tell whether it is known if anything comes after the last batch, which is short."""
    events = {span.partition: span.events for span in spans}
    for partition, reader in readers.items():
        reader.fill(events.get(partition, 0) + 1)
    return all(one.ended or one.ready > events.get(p, 0) for p, one in readers.items())


def _check(batch: PredictionBatch, events: int, readers: PartitionReaders) -> None:
    """Refuse predictions of other events than those that come next."""
    total = sum(span.events for span in batch.spans)
    left = sum(reader.ready for reader in readers.values()) - total
    same = all(_is_next(span, readers.get(span.partition)) for span in batch.spans)
    if not same or total > events or (total < events and left):
        raise ValueError(
            f"the predictions of dense from {batch.begin} on are of {total} events in "
            f"{batch.spans}, which is no batch of {events} events that come next in the clicks; "
            "give all models the same batch_events, schema and log"
        )


def _is_next(span: PositionRange, reader: PartitionReader | None) -> bool:
    return reader is not None and reader.ready >= span.events and reader.span(span.events) == span
