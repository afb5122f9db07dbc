"""Reading clicks in batches that are cut by count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stream.batch import ClickBatch
from stream.log.api import LogIdentityError, LogLostError, LogReader
from stream.messages import Position, PositionRange
from stream.ordering import OnInvalid, PartitionReader, ReadOrder, RoundRobin
from stream.schema import FeatureSchema
from stream.spec import Waiting
from stream.topics import CLICKS


class ClickCursor(BaseModel):
    """How far a reader has come."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str
    """Of the log that the positions are in."""
    count: int = 0
    """Valid events read since the start of the run."""
    places: dict[int, Position] = {}
    """For each partition the position to read next; one that is not named begins at its start."""
    ended: bool = False
    """The input has ended, and nothing of it is left to read."""


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
    """An end record cut this batch short. An input that ends exactly where a batch does has no such
    batch: ask :attr:`ClickReader.ended`.
    """
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 3), np.int64))
    """Shape (n, 3): partition, offset and row of each event."""

    @property
    def end(self) -> int:
        """Valid events through the end of this batch."""
        return self.begin + len(self.batch)


class ClickReader:
    """Cuts the ``clicks`` log into batches that end at the multiples of ``batch_events``.

    They are counted in valid events. An end record cuts a batch short too; where the input has been
    continued after it, the next batch reaches to the next multiple, so that all after it end where
    they would without that record.

    With one partition, the batches depend on the log alone, not on the sizes of its records nor on
    when they were written; with several, on the log and the order. The input ends when every
    partition has. A reader is used by one thread at a time.

    Parameters
    ----------
    log
        The log to read.
    schema
        Decides how events are encoded and which are valid.
    batch_events
        Events a batch; only those right before and after an end record may be shorter.
    cursor
        Where to continue; None begins at the start of the log.
    order
        Decides which events come next, where the log has several partitions.

    Raises
    ------
    LogTrimmedError
        If a partition that is to be read from its beginning has lost it.

    Attributes
    ----------
    cursor
        The place after the last batch.
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
                "the dense learner records; hand in stream.ordering.Recorded"
            )
        self._batch_events = batch_events
        self.cursor = cursor or ClickCursor(identity=log.identity)
        self._partitions = _open(log, schema, self.cursor)
        self._order = order or RoundRobin()

    @property
    def count(self) -> int:
        """Valid events read since the start of the run."""
        return self.cursor.count

    @property
    def ended(self) -> bool:
        """Whether the input has ended, as far as is known now, and every batch has been read."""
        return all(reader.exhausted for reader in self._partitions.values())

    @property
    def waits_for(self) -> Waiting:
        """What must come, where :meth:`next` last returned None: a log; at the end the clicks.

        Where most of what has come since the last batch is not valid it says so: such events are
        skipped, and a producer whose schema is wrong would wait for ever without knowing why.
        """
        waits_for = Waiting(CLICKS) if self.ended else self._order.waits_for
        readers = self._partitions.values()
        invalid, ready = sum(one.invalid for one in readers), sum(one.ready for one in readers)
        if waits_for.log != CLICKS or self.ended or invalid <= ready:
            return waits_for
        first = next(one.first_invalid for one in readers if one.invalid)
        return Waiting(CLICKS, f"valid clicks: of those that came most are not, the first: {first}")

    def next(self) -> CountedBatch | None:
        """Return the next batch; None where it is not all there yet, or the input has ended."""
        wanted = self._batch_events - self.count % self._batch_events
        spans: tuple[PositionRange, ...] = ()
        while not spans:
            if self._at_end and not self._pass_ends():
                return None
            spans = tuple(self._order.next(self.count, wanted, self._partitions))
            if not spans and not self._at_end:
                return None
        stand = np.concatenate([self._partitions[s.partition].places(s.events) for s in spans])
        parts = [part for one in spans for part in self._partitions[one.partition].take(one.events)]
        batch, begin = ClickBatch.concat(parts), self.count
        last = len(batch) < wanted
        places = {one.partition: Position(one.last.offset, one.last.row + 1) for one in spans}
        places, count = self.cursor.places | places, begin + len(batch)
        self.cursor = self.cursor.model_copy(
            update={"count": count, "places": places, "ended": last}
        )
        return CountedBatch(begin, batch, spans, self._skip(spans, last=last), last, stand)

    def on_invalid(self, handler: OnInvalid) -> None:
        """Hand all invalid events from here on to somebody, each as soon as it is read.

        That may be well before the batch comes that skips it, or none may ever come. A reader that
        continues from a cursor reads those after the cursor again.
        """
        for reader in self._partitions.values():
            reader.on_invalid = handler

    def look_ahead(self) -> None:
        """Read on as far as a batch could reach, so that the invalid events there are found.

        With several partitions, a recorded order reads no further than it has been recorded.
        """
        for reader in self._partitions.values():
            reader.fill(self._batch_events)

    def drain(self) -> Mapping[str, int]:
        """Count by reason the invalid events after the last batch, once the input has ended.

        The cursor passes them.
        """
        if not self.ended:
            return {}
        self.cursor = self.cursor.model_copy(update={"ended": True})
        return self._skip((), last=True)

    @property
    def _at_end(self) -> bool:
        """Whether every partition is at an end record, with all events before it taken."""
        return all(one.at_end and not one.ready for one in self._partitions.values())

    def _pass_ends(self) -> bool:
        """Read on where partitions are continued after their ends; return whether any is."""
        return any([reader.pass_end() for reader in self._partitions.values()])

    def _skip(self, spans: Sequence[PositionRange], *, last: bool) -> Mapping[str, int]:
        """Count the invalid events before the ends of spans, at the end of the input all."""
        every = self._partitions
        readers = every.values() if last else [every[span.partition] for span in spans]
        found = [reader.skip(last=last) for reader in readers if reader.invalid]
        return sum(found, Counter()) if found else {}


def nothing_follows(log: LogReader, schema: FeatureSchema, cursor: ClickCursor) -> bool:
    """Whether the input has ended at a cursor: every partition has, without another valid event."""
    readers = _open(log, schema, cursor)
    for reader in readers.values():
        while reader.fill(1) or reader.pass_end():
            """What is not valid does not count."""
    return all(reader.exhausted for reader in readers.values())


def _open(log: LogReader, schema: FeatureSchema, cursor: ClickCursor) -> dict[int, PartitionReader]:
    """Open the partitions of a log at a cursor, refusing a position in another log."""
    if cursor.identity != log.identity:
        raise LogIdentityError(
            f"the position is in the clicks log {cursor.identity}, this one is {log.identity}: it "
            "was deleted and made again; begin with a new state folder"
        )
    for partition, place in cursor.places.items():
        end = log.end(partition)
        # A row inside a record: that must be there, too.
        if place > (end, 0):
            raise LogLostError(
                f"the clicks log ends at offset {end} of partition {partition}, before offset "
                f"{place.offset}, row {place.row}, up to which it was read at the last checkpoint: "
                "records are gone; restore the log from a copy, or begin with a new state folder"
            )
    readers = {p: PartitionReader(log, p, schema, cursor.places.get(p)) for p in log.partitions}
    if cursor.ended:
        for reader in readers.values():
            reader.skip_to_end()
    return readers
