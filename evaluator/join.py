"""Joins predictions to clicks: batch by batch, what happened and who predicted what."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

import stream
from evaluator.metrics.metric import Floats
from stream import ClickBatch, LogPosition
from stream.log import LogReader, LogStore, LogTrimmedError, StoredRecord
from stream.messages import Position, PredictionBatch
from stream.topics import CLICKS, TRUTH, predictions


@dataclass(frozen=True, slots=True)
class Predicted:
    """One model's predictions for one batch."""

    version: int
    probability: Floats
    """Shape (n,), from 0 to 1."""


@dataclass(frozen=True, slots=True)
class JoinedBatch:
    """The events number ``begin + 1`` to ``end``: what happened, and who predicted what.

    The first of the models is the root, which the others are compared with.
    """

    begin: int
    label: Floats
    """Shape (n,), 0 or 1."""
    weight: Floats
    """Shape (n,), positive."""
    models: dict[str, Predicted]
    bayes: Floats | None = None
    """Shape (n,), the true chance of a click, where it is known."""
    drift: tuple[str, ...] = ()
    """The true drifts that run here, where they are known; sorted."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Events that are not valid since the batch before, by reason."""
    set_aside: Mapping[tuple[int, Position], list[str]] = field(default_factory=dict)
    """By partition and place, the events that some models could not learn, and these models."""
    clicks: ClickBatch = field(default_factory=lambda: ClickBatch.empty(numeric=0, columns=0))
    """The events as they were read; empty where features are not needed."""

    @property
    def end(self) -> int:
        """Valid events through the end of this batch."""
        return self.begin + len(self.label)


class BatchTruth(NamedTuple):
    """The truth about one batch."""

    probability: Floats
    """Shape (n,), the true chance of a click."""
    drift: tuple[str, ...]
    """The drifts that run there; sorted."""


_CANDIDATE = "candidate-"
_READ_BACK = 256
"""Records read at first in search of the original of a repeat."""


class PredictionFollower:
    """Follows one model's predictions, batch by batch.

    A learner that was restarted publishes again what it had published since its checkpoint. The
    first of each batch counts; a repeat is compared with it, which raises an alarm if it differs.

    Parameters
    ----------
    model
        Whose predictions to follow. A candidate shares its log: those of earlier candidates are
        passed over, and one of a later candidate says that there are no more of this one.
    log
        Its log, read by nobody else through this reader.
    position
        Where to continue; None begins with the oldest record.

    Attributes
    ----------
    conflicts
        Repeats so far that differed from the first.
    """

    def __init__(self, model: str, log: LogReader, position: LogPosition | None = None) -> None:
        self.model = model
        self.conflicts = 0
        self._log = log
        self._offset = self._next = stream.resume(log, predictions(model), position)
        self._unread: deque[StoredRecord] = deque()
        self._found: PredictionBatch | None = None
        self._earlier: stream.Deduplicator | None = None

    @property
    def position(self) -> LogPosition:
        """The position after the last batch taken."""
        return LogPosition(self._log.identity, self._offset)

    def find(self, begin: int) -> PredictionBatch | None:
        """Return the prediction of the batch after ``begin`` events; None if not there yet.

        It is the same one until :meth:`take` passes it.
        """
        while self._found is None:
            if not self._unread:
                self._unread.extend(self._log.read(0, self._next))
                if not self._unread:
                    return None
                self._next = self._unread[-1].next_offset
            stored = self._unread[0]
            batch = stream.predictions_from_bytes(stored.record.value)
            if self._is_later(batch.model):
                return None
            if batch.model == self.model and batch.begin == begin:
                self._found, self._earlier = batch, None
                continue
            if batch.model == self.model:
                self._compare(batch, stored, begin)
            self.take()
        return self._found

    def take(self) -> None:
        """Pass the record that was found last."""
        self._offset = self._unread.popleft().next_offset
        self._found = None

    def sync(self) -> None:
        """Return once all that has been read survives a crash of the machine."""
        self._log.sync()

    def close(self) -> None:
        """Release the log."""
        self._log.close()

    def _is_later(self, model: str) -> bool:
        """Tell whether a record is of a later candidate; it must be of this model or candidates."""
        if model == self.model:
            return False
        if not (model.startswith(_CANDIDATE) and self.model.startswith(_CANDIDATE)):
            raise ValueError(
                f"the log {predictions(self.model)} holds a prediction of {model!r}; "
                "let each model write its own log"
            )
        return int(model.removeprefix(_CANDIDATE)) > int(self.model.removeprefix(_CANDIDATE))

    def _compare(self, batch: PredictionBatch, stored: StoredRecord, begin: int) -> None:
        """Compare a repeat with the first; refuse what has left something out."""
        if batch.begin > begin:
            raise ValueError(
                f"the predictions of {self.model!r} continue at {batch.begin:,}, those from "
                f"{begin:,} on are missing; begin with new logs"
            )
        self._earlier = self._earlier or self._read_back(batch.begin, stored.offset)
        before = self._earlier.conflicts
        self._earlier.accept(self._key(batch), stored.record.value)
        self.conflicts += self._earlier.conflicts - before

    def _key(self, batch: PredictionBatch) -> str:
        return f"{predictions(self.model)}/{batch.model}/{batch.begin}"

    def _read_back(self, begin: int, offset: int) -> stream.Deduplicator:
        """Gather the records before ``offset``, back to one of the batch after ``begin`` events."""
        records = _READ_BACK
        while True:
            oldest = self._log.begin(0)
            at = start = max(oldest, offset - records)
            earlier, begins = stream.Deduplicator(), set()
            try:
                while at < offset:
                    for stored in self._log.read(0, at, min(_READ_BACK, offset - at)):
                        batch = stream.predictions_from_bytes(stored.record.value)
                        earlier.accept(self._key(batch), stored.record.value)
                        begins.add((batch.model, batch.begin))
                        at = stored.next_offset
            except LogTrimmedError:
                # What somebody has trimmed in this moment is no repeat of anything.
                continue
            if start == oldest or (self.model, begin) in begins:
                return earlier
            records *= 4


class TruthFollower:
    """Follows the true probabilities, whatever the sizes of the records.

    Parameters
    ----------
    log
        The log ``truth``, read by nobody else through this reader.
    position
        Where to continue; None begins with the oldest record.
    """

    def __init__(self, log: LogReader, position: LogPosition | None = None) -> None:
        self._log = log
        self._next = stream.resume(log, TRUTH, position)
        self._held: deque[tuple[int, stream.TruthBatch]] = deque()

    @property
    def position(self) -> LogPosition:
        """The place of the first record that has not been used up."""
        return LogPosition(self._log.identity, self._held[0][0] if self._held else self._next)

    def find(self, begin: int, end: int) -> BatchTruth | None:
        """Return the truth about the events number ``begin + 1`` to ``end``; None if not there yet.

        Ranges must be asked for in order.
        """
        while not self._held or self._held[-1][1].end < end:
            records = self._log.read(0, self._next, 4)
            if not records:
                return None
            self._held.extend((r.offset, stream.truth_from_bytes(r.record.value)) for r in records)
            self._next = records[-1].next_offset
        while self._held[0][1].end <= begin:
            self._held.popleft()
        parts = [batch for _, batch in self._held if batch.begin < end]
        every = [part.probability for part in parts]
        probability = every[0] if len(every) == 1 else np.concatenate(every)
        first = begin - parts[0].begin
        if first < 0 or parts[-1].end - parts[0].begin != len(probability):
            raise ValueError(
                f"the truth about the events {begin + 1:,} to {end:,} has a hole; make the stream "
                "anew"
            )
        spans = [span for part in parts for span in part.drift if span.begin < end]
        # An abrupt drift takes a moment, and ends where it begins.
        drift = sorted({one.drift for one in spans if begin < one.end or begin <= one.begin})
        return BatchTruth(probability[first : first + end - begin], tuple(drift))

    def sync(self) -> None:
        """Return once all that has been read survives a crash of the machine."""
        self._log.sync()

    def close(self) -> None:
        """Release the log."""
        self._log.close()


@dataclass(frozen=True, slots=True)
class JoinCursor:
    """How far a join is in each log."""

    clicks: stream.ClickCursor
    predictions: dict[str, LogPosition] = field(default_factory=dict)
    """By model; one that is not named is read from the beginning of its log."""
    truth: LogPosition | None = None


class Join:
    """Goes through the clicks batch by batch, waiting until every model asked for has predicted.

    It reads no further ahead than a batch and a few records, and hands no batch out in part, so its
    cursor is all that a checkpoint needs. It has readers of its own; one owner uses it.

    Parameters
    ----------
    home
        Where the logs are.
    spec
        The clicks, the batch that all models share, and whether the truth is known.
    cursor
        Where to continue; None begins with the first event.
    on_invalid
        Called with every invalid event as soon as it is found; None: nobody is.

    Attributes
    ----------
    missing
        What :meth:`next` waited for when it last returned None.
    """

    def __init__(
        self,
        home: LogStore,
        spec: stream.RunSpec,
        cursor: JoinCursor | None = None,
        on_invalid: stream.OnInvalid | None = None,
    ) -> None:
        self.missing: stream.Waiting | None = None
        self._home, self._schema = home, spec.schema
        self._log = home.reader(CLICKS)
        self._order = stream.open_order(home, self._log)
        order = stream.Recorded(self._order) if self._order else None
        at = cursor.clicks if cursor else None
        self._clicks = stream.ClickReader(self._log, spec.schema, spec.batch_events, at, order)
        if on_invalid is not None:
            self._clicks.on_invalid(on_invalid)
        self._at = self._clicks.cursor
        self._pending: stream.CountedBatch | None = None
        self._known = dict(cursor.predictions) if cursor else {}
        self._tails: dict[str, PredictionFollower] = {}
        place = cursor.truth if cursor else None
        self._truth = TruthFollower(home.reader(TRUTH), place) if spec.has_truth else None

    @property
    def count(self) -> int:
        """Events handed out since the start of the run."""
        return self._at.count

    @property
    def ended(self) -> bool:
        """The input has ended and every batch was handed out; known once :meth:`next` found it."""
        return self._pending is None and self._clicks.ended

    @property
    def cursor(self) -> JoinCursor:
        """The places after the last batch handed out."""
        read = {name: tail.position for name, tail in self._tails.items()}
        truth = self._truth.position if self._truth else None
        return JoinCursor(self._at, {**self._known, **read}, truth)

    @property
    def conflicts(self) -> int:
        """Repeated predictions that differed from the first."""
        return sum(tail.conflicts for tail in self._tails.values())

    def next(self, models: Sequence[str]) -> JoinedBatch | None:
        """Return the next batch once all of ``models`` have predicted it; None before.

        Raises
        ------
        ValueError
            If a prediction is not about exactly this batch, is no probability, or comes from a
            model that had learned from the batch.
        """
        self._pending = self._pending or self._clicks.next()
        if self._pending is None:
            if self._order:
                self._clicks.look_ahead()
            self.missing = self._clicks.waits_for
            return None
        clicks, found = self._pending, self._find(models, self._pending.begin)
        if found is None:
            return None
        truth = self._truth.find(clicks.begin, clicks.end) if self._truth else None
        if self._truth and truth is None:
            self.missing = stream.Waiting(TRUTH)
            return None
        for prediction in found.values():
            check(prediction, clicks)
        for name in found:
            self._tails[name].take()
        self._pending = None
        self._at = self._clicks.cursor
        return JoinedBatch(
            begin=clicks.begin,
            label=clicks.batch.label.astype(np.float64),
            weight=clicks.batch.weight.astype(np.float64),
            models={name: Predicted(p.version, p.probability) for name, p in found.items()},
            bayes=truth.probability if truth else None,
            drift=truth.drift if truth else (),
            skipped=clicks.skipped,
            set_aside=_set_aside(found),
            clicks=clicks.batch,
        )

    def _find(self, models: Sequence[str], begin: int) -> dict[str, PredictionBatch] | None:
        """Find the predictions of the batch after ``begin`` events; None: one is missing."""
        found = {}
        for name in models:
            if name not in self._tails:
                log = self._home.reader(predictions(name))
                self._tails[name] = PredictionFollower(name, log, self._known.get(name))
            prediction = self._tails[name].find(begin)
            if prediction is None:
                self.missing = stream.Waiting(predictions(name))
                return None
            found[name] = prediction
        return found

    def describe(self, batch: JoinedBatch) -> list[stream.Invalid]:
        """Read the events of a batch again that some models could not learn."""
        found = []
        for (partition, place), models in sorted(batch.set_aside.items()):
            [stored] = self._log.read(partition, place.offset, 1)
            found.append(stream.not_learned(stored, place.row, self._schema, models))
        return found

    def drain(self) -> Mapping[str, int]:
        """Count by reason the invalid events after the last batch, once the input has ended."""
        skipped = self._clicks.drain()
        if self.ended:
            self._at = self._clicks.cursor
        return skipped

    def sync(self) -> None:
        """Return once all that has been read survives a crash of the machine."""
        for part in self._parts:
            part.sync()

    def close(self) -> None:
        """Release all logs."""
        for part in self._parts:
            part.close()

    @property
    def _parts(self) -> list[LogReader | TruthFollower | PredictionFollower]:
        parts = (self._log, self._order, self._truth, *self._tails.values())
        return [part for part in parts if part is not None]


def _set_aside(found: Mapping[str, PredictionBatch]) -> dict[tuple[int, Position], list[str]]:
    """Gather the events of a batch that models could not learn, and which models each."""
    gathered: dict[tuple[int, Position], list[str]] = {}
    for name, prediction in found.items():
        for place in prediction.set_aside:
            gathered.setdefault(place, []).append(name)
    return gathered


def check(prediction: PredictionBatch, clicks: stream.CountedBatch) -> None:
    """Refuse a prediction that is not an honest one of exactly these events.

    Honest is: for every partition, what the model or any ancestor of it has learned from lies
    before the first event predicted.

    Examples
    --------
    >>> from stream.batch import ClickBatch
    >>> from stream.messages import Position, PositionRange
    >>> one = ClickBatch(*np.zeros((3, 1), np.float32), *np.zeros((2, 1, 0), np.float32))
    >>> spans = (PositionRange(0, Position(120, 0), Position(120, 0), 1),)
    >>> clicks = stream.CountedBatch(0, one, spans, skipped={}, last=False)
    >>> through = {0: Position(120, 0)}
    >>> check(PredictionBatch("dense", 0, 0, spans, through, np.array([0.3])), clicks)
    Traceback (most recent call last):
    ...
    ValueError: prediction of 'dense' for offset 120, row 0 came from a model trained through
        offset 120, row 0: it has seen the click
    """
    if prediction.spans != clicks.spans or len(prediction.probability) != len(clicks.batch):
        raise ValueError(
            f"the predictions of {prediction.model!r} from {prediction.begin:,} on are of "
            f"{len(prediction.probability):,} events in {prediction.spans}, the clicks are "
            f"{len(clicks.batch):,} in {clicks.spans}; give all models the same batch_events and "
            "log"
        )
    for span in clicks.spans:
        through = prediction.trained_through.get(span.partition)
        if through is not None and through >= span.first:
            raise ValueError(
                f"prediction of {prediction.model!r} for offset {span.first.offset}, row "
                f"{span.first.row} came from a model trained through offset {through.offset}, row "
                f"{through.row}: it has seen the click"
            )
    p = prediction.probability
    # Written so that NaN does not pass.
    if not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(
            f"{prediction.model!r} predicted something that is no probability for the events "
            f"{clicks.begin + 1:,} to {clicks.end:,}; its weights are not finite, or its output is "
            "not a chance of a click"
        )
