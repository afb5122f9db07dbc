"""Reading clicks in batches that are cut by count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from stream.batch import ClickBatch
from stream.log import LogIdentityError, LogReader
from stream.messages import Position, PositionRange
from stream.ordering import ReadOrder, RoundRobin
from stream.partitions import OnInvalid, PartitionReader
from stream.schema import FeatureSchema
from stream.spec import Waiting
from stream.topics import CLICKS


class ClickCursor(BaseModel):
    """How far a reader has come: what stands before has been handed out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str
    """The log that the places are in."""
    count: int = 0
    """Valid events handed out since the start of the run."""
    places: dict[int, Position] = {}
    """For each partition the place to read next; one that is not named, from its beginning."""
    ended: bool = False
    """The input has ended, and nothing of it is left."""


@dataclass(frozen=True, slots=True)
class CountedBatch:
    """The valid events number ``begin + 1`` to ``end``."""

    begin: int
    batch: ClickBatch
    spans: tuple[PositionRange, ...]
    """Where the events stand, in their order; each partition at most once."""
    skipped: Mapping[str, int]
    """Events that are not valid since the batch before, by reason."""
    last: bool
    """The input ended inside this batch, which is short. An input that ends exactly where a batch
    does has no such batch: ask :attr:`ClickReader.ended`.
    """

    @property
    def end(self) -> int:
        """Valid events through the end of this batch."""
        return self.begin + len(self.batch)


class ClickReader:
    """Cuts the ``clicks`` log into batches of ``batch_events`` valid events.

    Of one partition, the batches depend on the log alone, not on the sizes of its records nor on
    when they were written; of several, on the log and the order. The input ends when every
    partition has. One reader has one owner: it is not shared between threads.

    Parameters
    ----------
    log
        The log to read.
    schema
        Decides how events are encoded and which are valid.
    batch_events
        Events a batch; only the one right before the end of the input may be shorter.
    cursor
        Where to go on; None begins at the start of the log.
    order
        Says which events come next, of a log of several partitions; None for one of one.

    Raises
    ------
    LogTrimmedError
        If a partition that is to be read from its beginning has lost it.

    Attributes
    ----------
    count
        Valid events handed out since the start of the run.
    """

    def __init__(
        self,
        log: LogReader,
        schema: FeatureSchema,
        batch_events: int,
        cursor: ClickCursor | None = None,
        order: ReadOrder | None = None,
    ) -> None:
        if batch_events < 1:
            raise ValueError(f"batch_events is {batch_events}; it must be at least 1")
        if order is None and len(log.partitions) > 1:
            raise ValueError(
                f"the clicks log has partitions {log.partitions}: they are read in the order that "
                "the dense learner states; hand in stream.order.Stated"
            )
        self._batch_events = batch_events
        cursor = cursor or ClickCursor(identity=log.identity)
        self.count = cursor.count
        self._identity, self._places = cursor.identity, dict(cursor.places)
        self._passed_end = cursor.ended
        self._lanes = _lanes(log, schema, cursor)
        self._order = order or RoundRobin()

    @property
    def cursor(self) -> ClickCursor:
        """The place after the last batch handed out."""
        return ClickCursor(
            identity=self._identity,
            count=self.count,
            places=dict(self._places),
            ended=self._passed_end,
        )

    @property
    def ended(self) -> bool:
        """Whether the end of the input has been reached and every batch handed out."""
        return all(lane.over for lane in self._lanes.values())

    @property
    def waits_for(self) -> Waiting:
        """What must come, where :meth:`next` last returned None: a log; at the end the clicks.

        Where most of what has come since the last batch is not valid it says so: such events are
        skipped, and a producer whose schema is wrong would wait for ever without knowing why.
        """
        waits_for = Waiting(CLICKS) if self.ended else self._order.waits_for
        lanes = self._lanes.values()
        unfit, ready = sum(lane.unfit for lane in lanes), sum(lane.ready for lane in lanes)
        if waits_for.log != CLICKS or self.ended or unfit <= ready:
            return waits_for
        first = next(lane.first_unfit for lane in lanes if lane.unfit)
        return Waiting(CLICKS, f"valid clicks: of those that came most are not, the first: {first}")

    def next(self) -> CountedBatch | None:
        """Return the next batch; None where it is not all there yet, or the input has ended."""
        spans = self._order.next(self.count, self._batch_events, self._lanes)
        return self._cut(tuple(spans)) if spans else None

    def hand_out(self, met: OnInvalid) -> None:
        """Hand out all invalid events from here on, each as soon as it is met.

        That may be well before the batch comes that skips it, or none may ever come. A reader that
        goes on from a cursor meets those behind the cursor again.
        """
        for lane in self._lanes.values():
            lane.met = met

    def look_ahead(self) -> None:
        """Read on as far as a batch could reach, so that what is invalid there is met.

        Where the order of several partitions is stated they are else read no further than that.
        """
        for lane in self._lanes.values():
            lane.fill(self._batch_events)

    def drain(self) -> Mapping[str, int]:
        """Count by reason the invalid events after the last batch, once the input has ended.

        The cursor passes them.
        """
        if not self.ended:
            return {}
        skipped = self._skipped((), last=True)
        self._passed_end = True
        return skipped

    def _cut(self, spans: tuple[PositionRange, ...]) -> CountedBatch:
        """Hand out the events of a batch, and move the cursor behind it."""
        parts = [part for span in spans for part in self._lanes[span.partition].take(span.events)]
        batch = ClickBatch.concat(parts)
        last = len(batch) < self._batch_events
        begin = self.count
        for span in spans:
            self._places[span.partition] = Position(span.last.offset, span.last.row + 1)
        self.count, self._passed_end = begin + len(batch), last
        return CountedBatch(begin, batch, spans, self._skipped(spans, last=last), last)

    def _skipped(self, spans: Sequence[PositionRange], *, last: bool) -> Mapping[str, int]:
        """Count the invalid events before the ends of spans, at the end of the input all."""
        lanes = self._lanes.values() if last else [self._lanes[span.partition] for span in spans]
        found = [lane.skip(last=last) for lane in lanes if lane.unfit]
        return sum(found, Counter()) if found else {}


def nothing_follows(log: LogReader, schema: FeatureSchema, cursor: ClickCursor) -> bool:
    """Whether the input has ended at a cursor: every partition has, without another valid event."""
    lanes = _lanes(log, schema, cursor)
    for lane in lanes.values():
        while lane.fill(1):
            """What is not valid does not count."""
    return all(lane.over for lane in lanes.values())


def _lanes(
    log: LogReader, schema: FeatureSchema, cursor: ClickCursor
) -> dict[int, PartitionReader]:
    """Open the partitions of a log at a cursor, refusing a position in another log."""
    if cursor.identity != log.identity:
        raise LogIdentityError(
            f"the position is in the clicks log {cursor.identity}, this one is {log.identity}: it "
            "was deleted and made again; begin with a new state folder"
        )
    lanes = {p: PartitionReader(log, p, schema, cursor.places.get(p)) for p in log.partitions}
    for lane in lanes.values():
        lane.ended = cursor.ended
    return lanes
