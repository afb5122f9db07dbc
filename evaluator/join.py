"""Joining predictions to clicks by position, and refusing those that cannot be honest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluator.config import Agreement
from evaluator.joined import JoinedBatch, Predicted, Truth
from evaluator.position import LogPosition
from evaluator.predictions import PredictionTail
from evaluator.truth import TruthTail
from stream.clicks import ClickCursor, ClickReader, CountedBatch
from stream.lane import Met
from stream.log import LogHome
from stream.messages import Place, PredictionBatch
from stream.order import Stated, open_order
from stream.schema import FeatureSchema
from stream.topics import CLICKS, TRUTH, predictions


@dataclass(frozen=True, slots=True)
class JoinCursor:
    """How far a join has come in each log."""

    clicks: ClickCursor
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
        Where the logs live.
    schema
        Of the clicks.
    agreement
        The batch that all models share, and whether the truth is known.
    cursor
        Where to go on; None begins with the first event.
    met
        Takes every invalid event as soon as it is met; None: nobody does.

    Attributes
    ----------
    missing
        What :meth:`next` waited for when it last returned None.
    """

    def __init__(
        self,
        home: LogHome,
        schema: FeatureSchema,
        agreement: Agreement,
        cursor: JoinCursor | None = None,
        met: Met | None = None,
    ) -> None:
        self.missing: str | None = None
        self._home = home
        self._log = home.reader(CLICKS)
        self._order = open_order(home, self._log)
        order = Stated(self._order) if self._order else None
        at = cursor.clicks if cursor else None
        self._clicks = ClickReader(self._log, schema, agreement.batch_events, at, order)
        if met is not None:
            self._clicks.hand_out(met)
        self._at = self._clicks.cursor
        self._pending: CountedBatch | None = None
        self._known = dict(cursor.predictions) if cursor else {}
        self._tails: dict[str, PredictionTail] = {}
        self._truth: TruthTail | None = None
        if agreement.truth:
            self._truth = TruthTail(home.reader(TRUTH), cursor.truth if cursor else None)

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
        """The places behind the last batch handed out."""
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
        clicks = self._pending
        found: dict[str, PredictionBatch] = {}
        for name in models:
            prediction = self._tail(name).find(clicks.begin)
            if prediction is None:
                self.missing = predictions(name)
                return None
            found[name] = prediction
        truth = self._truth.find(clicks.begin, clicks.end) if self._truth else None
        if self._truth and truth is None:
            self.missing = TRUTH
            return None
        return self._hand_out(clicks, found, truth)

    def drain(self) -> Mapping[str, int]:
        """Count by reason the invalid events after the last batch, once the input has ended."""
        skipped = self._clicks.drain()
        if self.ended:
            self._at = self._clicks.cursor
        return skipped

    def close(self) -> None:
        """Release all logs."""
        self._log.close()
        if self._order:
            self._order.close()
        for tail in self._tails.values():
            tail.close()
        if self._truth:
            self._truth.close()

    def _tail(self, model: str) -> PredictionTail:
        if model not in self._tails:
            log = self._home.reader(predictions(model))
            self._tails[model] = PredictionTail(model, log, self._known.get(model))
        return self._tails[model]

    def _hand_out(
        self, clicks: CountedBatch, found: dict[str, PredictionBatch], truth: Truth | None
    ) -> JoinedBatch:
        """Check a batch and pass it."""
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
            clicks=clicks.batch,
        )


def check(prediction: PredictionBatch, clicks: CountedBatch) -> None:
    """Refuse a prediction that is not an honest one of exactly these events.

    Honest is: for every partition, what the model or any ancestor of it has learned from lies
    before the first event predicted.

    Examples
    --------
    >>> from stream.batch import ClickBatch
    >>> from stream.messages import Span
    >>> one = ClickBatch(*np.zeros((3, 1), np.float32), *np.zeros((2, 1, 0), np.float32))
    >>> spans = (Span(0, Place(120, 0), Place(120, 0), 1),)
    >>> clicks = CountedBatch(0, one, spans, skipped={}, last=False)
    >>> through = {0: Place(120, 0)}
    >>> check(PredictionBatch("dense", 0, 0, spans, through, np.array([0.3])), clicks)
    Traceback (most recent call last):
    ...
    ValueError: prediction of 'dense' for offset 120, row 0 came from a model trained through
        offset 120, row 0: it has seen the click
    """
    _check_events(prediction, clicks)
    for span in clicks.spans:
        through = prediction.trained_through.get(span.partition)
        if through is not None and through >= span.first:
            raise ValueError(
                f"prediction of {prediction.model!r} for {_words(span.first)} came from a model "
                f"trained through {_words(through)}: it has seen the click"
            )
    p = prediction.probability
    # Written so that NaN does not pass.
    if not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(
            f"{prediction.model!r} predicted something that is no probability for the events "
            f"{clicks.begin + 1:,} to {clicks.end:,}; its weights are not finite, or its output is "
            "not a chance of a click"
        )


def _check_events(prediction: PredictionBatch, clicks: CountedBatch) -> None:
    """Refuse a prediction that is not about exactly these events."""
    if prediction.spans != clicks.spans or len(prediction.probability) != len(clicks.batch):
        raise ValueError(
            f"the predictions of {prediction.model!r} from {prediction.begin:,} on are of "
            f"{len(prediction.probability):,} events in {prediction.spans}, the clicks are "
            f"{len(clicks.batch):,} in {clicks.spans}; give all models the same batch_events and "
            "log"
        )


def _words(place: Place) -> str:
    return f"offset {place.offset}, row {place.row}"
