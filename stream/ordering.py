"""Which events of several partitions come next.

The dense learner chooses (:class:`Resumed`), and its predictions state what it chose; everybody
else (:class:`Recorded`) follows them. One partition has one order, and needs neither.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from stream import topics
from stream.columnar import predictions_from_bytes
from stream.log import LogReader, LogStore, StoredRecord
from stream.messages import PositionRange, PredictionBatch
from stream.partitions import PartitionReader, PartitionReaders
from stream.spec import Waiting

LOG: Final = topics.predictions("dense")
"""States the order."""


class ReadOrder(Protocol):
    """Says which events come next; one reader has one."""

    @property
    def waits_for(self) -> Waiting:
        """The log that must go on, where the last :meth:`next` had nothing to say."""

    def next(self, begin: int, events: int, lanes: PartitionReaders) -> Sequence[PositionRange]:
        """Return where the events of a batch stand, each partition at most once.

        Empty where that is not known yet, or the input has ended.

        Parameters
        ----------
        begin
            Events before the batch.
        events
            In a full batch; one that is shorter is the last.
        lanes
            Of which they are the next events; these are ready when this returns.
        """


def open_order(home: LogStore, clicks: LogReader) -> LogReader | None:
    """Open the log that states the order of the clicks; None where one partition needs none."""
    return home.reader(LOG) if len(clicks.partitions) > 1 else None


class RoundRobin:
    """The order of somebody who may choose.

    Of each batch every partition gives an equal share, beginning with another one each time; what
    some cannot give the others do. So nobody waits for a partition that rests, a full batch is
    there as soon as all partitions together hold one, and it takes at most one span of each. The
    last batch, once all partitions have ended, is what is left. Of one partition this is the order
    in which its events stand; of several it depends on what has arrived when it is asked.
    """

    @property
    def waits_for(self) -> Waiting:
        """The clicks."""
        return Waiting(topics.CLICKS)

    def next(self, begin: int, events: int, lanes: PartitionReaders) -> Sequence[PositionRange]:
        """Choose the next batch."""
        if len(lanes) == 1:
            (lane,) = lanes.values()
            return _next_of_one(lane, events)
        share = -(-events // len(lanes))
        ready = _filled(lanes, share)
        if ready < events:
            ready = _filled(lanes, events)
        if ready < events and not all(lane.ended for lane in lanes.values()):
            return ()
        turn = begin // events % len(lanes)
        in_turn = [*lanes.values()][turn:] + [*lanes.values()][:turn]
        taken = [0] * len(in_turn)
        for most in (share, events):
            for at, lane in enumerate(in_turn):
                more = min(most, lane.ready) - taken[at]
                taken[at] += max(0, min(more, events - sum(taken)))
        return tuple(lane.span(n) for lane, n in zip(in_turn, taken, strict=True) if n)


class Recorded:
    """The order that the predictions of dense state.

    Parameters
    ----------
    log
        Of these, read by nobody else through this reader.
    offset
        A place in it before which nothing is to be looked for; None finds one.

    Attributes
    ----------
    offset
        The place behind the predictions of the last batch; as given before the first.
    """

    def __init__(self, log: LogReader, offset: int | None = None) -> None:
        self.offset = offset
        self._log = log
        self._next = offset
        self._unread: deque[StoredRecord] = deque()
        self._found: PredictionBatch | None = None

    @property
    def waits_for(self) -> Waiting:
        """The predictions of dense or, where these are ahead, the clicks."""
        return Waiting(LOG if self._found is None else topics.CLICKS)

    def next(self, begin: int, events: int, lanes: PartitionReaders) -> Sequence[PositionRange]:
        """Find out about the next batch.

        Raises
        ------
        ValueError
            If the clicks are not those of which the predictions are.
        """
        if self._found is None:
            self._found = self._find(begin)
        if self._found is None:
            # A reader that has come to the end is to know it.
            _filled(lanes, 1)
            return ()
        spans = self._found.spans
        if not all(_there(span, lanes) for span in spans):
            return ()
        short = sum(span.events for span in spans) < events
        if short and not _over(spans, lanes):
            return ()
        _check(self._found, events, lanes)
        self._found, self.offset = None, self._next
        return spans

    def _find(self, begin: int) -> PredictionBatch | None:
        """Return the predictions of the batch after ``begin`` events; None if not there yet."""
        if self._next is None:
            self._next = self._seek(begin)
        for stored in self._records(self._next):
            batch = predictions_from_bytes(stored.record.value)
            if batch.begin == begin:
                return batch
            if batch.begin > begin:
                raise ValueError(
                    f"{LOG} goes on at {batch.begin}: the order of the events behind {begin} is "
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

    def _seek(self, begin: int) -> int:
        """Find a place from which the predictions reach those after ``begin`` events.

        A restart takes them back and then they go on batch by batch, so between a record at or
        before the one looked for and one behind it, it stands itself.
        """
        low, high = self._log.begin(0), self._log.end(0)
        while high - low > 1:
            middle = (low + high) // 2
            found = self._log.read(0, middle, 1)
            if found and predictions_from_bytes(found[0].record.value).begin <= begin:
                low = found[0].offset
            else:
                high = middle
        return low


class Resumed:
    """The order of the dense learner: what it had published in earlier lives, then its choice.

    Parameters
    ----------
    log
        Its own predictions.
    offset
        :attr:`offset` at the checkpoint from which it goes on; None where there is none.
    """

    def __init__(self, log: LogReader, offset: int | None = None) -> None:
        self._log = log
        self._stated: Recorded | None = Recorded(log, log.begin(0) if offset is None else offset)
        self._chosen = RoundRobin()

    @property
    def waits_for(self) -> Waiting:
        """The clicks: it never waits for anybody."""
        return Waiting(topics.CLICKS)

    @property
    def offset(self) -> int | None:
        """Where the predictions behind the last batch begin, once those before are flushed."""
        return self._log.end(0) if self._stated is None else self._stated.offset

    def next(self, begin: int, events: int, lanes: PartitionReaders) -> Sequence[PositionRange]:
        """Repeat the next batch, or choose it."""
        if self._stated is not None:
            spans = self._stated.next(begin, events, lanes)
            if spans or self._stated.waits_for.log != LOG:
                return spans
            self._stated = None
        return self._chosen.next(begin, events, lanes)


def _next_of_one(lane: PartitionReader, events: int) -> Sequence[PositionRange]:
    """Take the next batch of the only lane there is."""
    lane.fill(events)
    if lane.ready < events and not (lane.ended and lane.ready):
        return ()
    return (lane.span(min(events, lane.ready)),)


def _filled(lanes: PartitionReaders, events: int) -> int:
    """Have so many events ready in each lane, as far as there are; return how many are in all."""
    for lane in lanes.values():
        lane.fill(events)
    return sum(lane.ready for lane in lanes.values())


def _there(span: PositionRange, lanes: PartitionReaders) -> bool:
    """Whether the events of a span are ready, or never will be."""
    lane = lanes.get(span.partition)
    if lane is None:
        return True
    lane.fill(span.events)
    return lane.ended or lane.ready >= span.events


def _over(spans: Sequence[PositionRange], lanes: PartitionReaders) -> bool:
    """Whether it can be told that nothing comes behind the last batch, or that something does."""
    events = {span.partition: span.events for span in spans}
    for partition, lane in lanes.items():
        lane.fill(events.get(partition, 0) + 1)
    return all(lane.ended or lane.ready > events.get(p, 0) for p, lane in lanes.items())


def _check(batch: PredictionBatch, events: int, lanes: PartitionReaders) -> None:
    """Refuse predictions of other events than those that come next."""
    spans = batch.spans
    total = sum(span.events for span in spans)
    left = sum(lane.ready for lane in lanes.values()) - total
    same = all(_same(span, lanes.get(span.partition)) for span in spans)
    if not same or total > events or (total < events and left):
        raise ValueError(
            f"the predictions of dense from {batch.begin} on are of {total} events in {spans}, "
            f"which is no batch of {events} events that come next in the clicks; give all models "
            "the same batch_events, schema and log"
        )


def _same(span: PositionRange, lane: PartitionReader | None) -> bool:
    return lane is not None and lane.ready >= span.events and lane.span(span.events) == span
