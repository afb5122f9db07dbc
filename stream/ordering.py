"""The clicks of each partition, decoded ahead, and which of several partitions comes next.

The dense learner chooses (:class:`Resumed`), and its predictions record what it chose; all others
follow them (:class:`Recorded`). A log of one partition has one order.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stream import topics
from stream.batch import ClickBatch
from stream.codec import Decoded, Invalid
from stream.columnar import predictions_from_bytes
from stream.log.api import LogReader, LogStore, LogTrimmedError, StoredRecord
from stream.messages import Position, PositionRange, PredictionBatch
from stream.schema import FeatureSchema
from stream.sharing import SharedClickReader, fetch
from stream.spec import Waiting
from stream.start_position import SETTING, describe_begin

LOG: Final = topics.predictions("dense")
"""The log that records the order."""
_DETAIL: Final = 120
"""Characters that are kept of what is wrong: it may quote a name that the event itself brings."""
_MOST_INVALID: Final = 10_000
"""Invalid events read at a time, so that the caller can do something else in between."""

OnInvalid = Callable[[Sequence[Invalid]], None]
"""Takes invalid events of one partition, at least one, in order, as soon as they are read."""


@dataclass(frozen=True, slots=True)
class InvalidRun:
    """Invalid events with no valid one between them."""

    valid_before: int
    """Valid events that were read before them."""
    first: str
    """What is wrong with the first."""
    reasons: Counter[str] = field(default_factory=Counter)


class PartitionReader:
    """Reads the valid events of one partition, in order, and counts the invalid ones between them.

    Parameters
    ----------
    log
        The clicks.
    partition
        The partition to read.
    schema
        Decides how events are encoded and which are valid.
    start
        The position to read next; None begins with the first event. A partition that has lost its
        first records is then refused, since nobody could tell which events are missing.

    Attributes
    ----------
    ready
        Valid events that are decoded and not taken yet.
    at_end
        An end record has been read, and stands after the events that are ready. Nothing after it is
        read before :meth:`pass_end`.
    on_invalid
        Takes every invalid event; by default nobody does.
    """

    def __init__(
        self, log: LogReader, partition: int, schema: FeatureSchema, start: Position | None = None
    ) -> None:
        self.ready = 0
        self.at_end = False
        self.on_invalid: OnInvalid | None = None
        self._log, self._partition, self._next = log, partition, start
        self._fetch: Callable[[int, int], Decoded | None] = partial(fetch, log, schema)
        if isinstance(log, SharedClickReader) and log.schema == schema:
            self._fetch = log.fetch
        self._chunks: deque[Decoded] = deque()
        self._taken = 0
        self._invalid: deque[InvalidRun] = deque()
        self._valid_read = self._invalid_read = 0

    @property
    def exhausted(self) -> bool:
        """An end has been read, every event before it taken, and nothing stands after it so far."""
        return self.at_end and self.ready == 0 and not self._continues()

    @property
    def invalid(self) -> int:
        """Invalid events that were read and are not skipped yet."""
        return sum(run.reasons.total() for run in self._invalid)

    @property
    def first_invalid(self) -> str:
        """What is wrong with the first of them."""
        return self._invalid[0].first if self._invalid else ""

    def fill(self, events: int) -> bool:
        """Read until so many events are ready, there are no more for now, or many were invalid.

        Returns True in the last case: more may be there.
        """
        most = self._invalid_read + _MOST_INVALID
        while self.ready < events and not self.at_end and self._read():
            if self._invalid_read >= most:
                return True
        return False

    def pass_end(self) -> bool:
        """Read on after an end record, if anything stands there; say whether it does."""
        if self.exhausted or not self.at_end or self.ready:
            return False
        self.at_end = False
        return True

    def skip_to_end(self) -> None:
        """Return to the end at which a reader stopped: what is not valid before it was counted."""
        while not self.at_end and self._read(counts=False):
            """Between the last event and the end there is nothing that is valid."""
        self._invalid.clear()

    def span(self, events: int) -> PositionRange:
        """Return where the next events stand; so many must be ready."""
        first = self._chunks[0].position(self._taken)
        left = self._taken + events
        for chunk in self._chunks:
            if left <= len(chunk.places):
                break
            left -= len(chunk.places)
        return PositionRange(self._partition, first, chunk.position(left - 1), events)

    def places(self, events: int) -> NDArray[np.int64]:
        """Return where each of the next events stands, shape (n, 3): partition, offset and row.

        So many must be ready.
        """
        found: list[NDArray[np.int64]] = []
        begin, left = self._taken, events
        for chunk in self._chunks:
            found.append(chunk.places[begin : begin + left])
            begin, left = 0, left - len(found[-1])
            if not left:
                break
        whole = np.full((events, 3), self._partition, np.int64)
        np.concatenate(found, out=whole[:, 1:])
        return whole

    def take(self, events: int) -> list[ClickBatch]:
        """Take the next events, as views; so many must be ready."""
        self.ready -= events
        parts: list[ClickBatch] = []
        while events:
            chunk, begin = self._chunks[0], self._taken
            end = self._taken = min(begin + events, len(chunk.places))
            parts.append(chunk.batch[begin:end])
            events -= end - begin
            if end == len(chunk.places):
                self._chunks.popleft()
                self._taken = 0
        return parts

    def skip(self, *, last: bool = False) -> Counter[str]:
        """Count by reason the invalid events before the last one taken, or all that were read.

        Each is counted once.
        """
        taken = self._valid_read - self.ready
        skipped: Counter[str] = Counter()
        while self._invalid and (last or self._invalid[0].valid_before < taken):
            skipped += self._invalid.popleft().reasons
        return skipped

    def _continues(self) -> bool:
        """Whether anything stands after the end record."""
        place = self._next
        return place is not None and bool(self._log.read(self._partition, place.offset, 1))

    def _read(self, *, counts: bool = True) -> bool:
        """Read and decode some more records; return whether there were any.

        Parameters
        ----------
        counts
            Whether invalid events are handed on.
        """
        if self._next is None:
            begin = self._log.begin(self._partition)
            if begin > 0:
                where = describe_begin(self._log, self._partition)
                raise LogTrimmedError(
                    f"the clicks log begins with {where}: what stood before has been trimmed away, "
                    "and a run begins with the first event. Of clicks that others write, say with "
                    f"{SETTING} from which time or offsets on it is to read; else begin with a log "
                    'that has all, and let it keep more: stream.retention.clicks = "all"'
                )
            self._next = Position(begin, 0)
        decoded = self._fetch(self._partition, self._next.offset)
        if decoded is None:
            return False
        decoded = decoded.since(self._next)
        self._next, self.at_end = Position(decoded.next_offset, 0), decoded.end
        for one in decoded.invalid:
            before = self._valid_read + decoded.count_before(one.place)
            if not self._invalid or self._invalid[-1].valid_before != before:
                self._invalid.append(InvalidRun(before, one.detail[:_DETAIL]))
            self._invalid[-1].reasons[one.reason.value] += 1
        self._invalid_read += len(decoded.invalid)
        if counts and decoded.invalid and self.on_invalid is not None:
            self.on_invalid(decoded.invalid)
        if len(decoded.places):
            self._chunks.append(decoded)
            self.ready += len(decoded.places)
            self._valid_read += len(decoded.places)
        return True


PartitionReaders = Mapping[int, PartitionReader]
"""By partition, ascending."""


class ReadOrder(Protocol):
    """Decides which events come next, for one reader."""

    @property
    def waits_for(self) -> Waiting:
        """The log that must continue, where the last :meth:`next` returned nothing."""

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

    A restart takes them back, then they continue batch by batch, so between a record at or before
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
    range of each. The last batch, once all partitions are at an end, is what is left. With one
    partition this is the order in which its events stand; with several it depends on what has
    arrived by then.
    """

    waits_for = Waiting(topics.CLICKS)

    def next(self, begin: int, events: int, readers: PartitionReaders) -> Sequence[PositionRange]:
        """Choose the next batch."""
        share = -(-events // len(readers))
        ready = _fill(readers, share)
        if share < events and ready < events:
            ready = _fill(readers, events)
        if ready < events and not all(reader.at_end for reader in readers.values()):
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
        wanted = {span.partition: span.events for span in self._found.spans}
        # Whether anything comes after a batch that is short must be known.
        more = sum(wanted.values()) < events
        for partition, reader in readers.items():
            most = wanted.get(partition, 0)
            reader.fill(most + more)
            if reader.ready < most + more and not reader.at_end:
                return ()
        self._check(self._found, events, readers)
        spans, self._found, self.offset = self._found.spans, None, self._next
        return spans

    def _find(self, begin: int) -> PredictionBatch | None:
        """Return the predictions of the batch after ``begin`` events; None if not there yet."""
        if self._next is None:
            self._next = find_predictions(self._log, begin)
        while True:
            if not self._unread:
                self._unread.extend(self._log.read(0, self._next))
            if not self._unread:
                return None
            stored = self._unread.popleft()
            self._next = stored.next_offset
            batch = predictions_from_bytes(stored.record.value)
            if batch.begin == begin:
                return batch
            if batch.begin > begin:
                raise ValueError(
                    f"{LOG} continues at {batch.begin}: the order of the events after {begin} is "
                    "missing there; begin with new logs"
                )

    def _check(self, batch: PredictionBatch, events: int, readers: PartitionReaders) -> None:
        """Refuse predictions of other events than those that come next."""
        total = sum(span.events for span in batch.spans)
        left = sum(reader.ready for reader in readers.values()) - total
        same = all(
            span.partition in readers
            and readers[span.partition].ready >= span.events
            and readers[span.partition].span(span.events) == span
            for span in batch.spans
        )
        if not same or total > events or (total < events and left):
            raise ValueError(
                f"the predictions of dense from {batch.begin} on are of {total} events in "
                f"{batch.spans}, which is no batch of {events} events that come next in the "
                "clicks; give all models the same batch_events, schema and log"
            )


class Resumed:
    """The order of the dense learner: what it had published before a restart, then its choice.

    Parameters
    ----------
    log
        Its own predictions.
    offset
        :attr:`offset` at the checkpoint from which it continues; None where there is none.
    """

    waits_for = Waiting(topics.CLICKS)
    """It never waits for another worker."""

    def __init__(self, log: LogReader, offset: int | None = None) -> None:
        self._log = log
        start = log.begin(0) if offset is None else offset
        self._recorded: Recorded | None = Recorded(log, start)
        self._chosen = RoundRobin()

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
