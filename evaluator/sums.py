"""Sums over events: all that scores are made of, and all that must be kept of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluator.cells import Cells
from evaluator.config import DENSE
from evaluator.interval import RatioSums
from evaluator.joined import Floats, JoinedBatch
from evaluator.measures import Measures, measure
from evaluator.ranking import BINS
from evaluator.segments import Membership, SegmentSums


@dataclass(frozen=True, slots=True)
class EventSums:
    """What happened, whoever predicted it.

    Examples
    --------
    >>> EventSums.of(np.array([1.0, 0.0]), np.array([1.0, 4.0])).click_rate
    0.2
    """

    events: int = 0
    clicked: int = 0
    """Events with a click, each counted once whatever it weighs."""
    weight: float = 0.0
    clicks: float = 0.0
    """Weighted."""

    @classmethod
    def of(cls, label: Floats, weight: Floats) -> EventSums:
        """Sum up events, shapes (n,) both."""
        return cls(
            events=len(label),
            clicked=int(np.count_nonzero(label)),
            weight=float(weight.sum()),
            clicks=float((weight * label).sum()),
        )

    def __add__(self, other: EventSums) -> EventSums:
        return EventSums(
            self.events + other.events,
            self.clicked + other.clicked,
            self.weight + other.weight,
            self.clicks + other.clicks,
        )

    @property
    def click_rate(self) -> float:
        """Weighted share of events with a click; there must be an event."""
        return self.clicks / self.weight

    def has_both(self, enough: int) -> bool:
        """Tell whether there are ``enough`` events of either kind."""
        return min(self.clicked, self.events - self.clicked) >= enough


def _no_cells() -> Cells:
    return Cells(np.zeros((3, BINS)))


@dataclass(frozen=True, slots=True)
class ModelSums:
    """How one model did."""

    versions: tuple[int, ...]
    """The versions that predicted, in order."""
    loss: float
    """Weighted, nats."""
    predicted: float
    """Weighted probabilities: the clicks it expected."""
    relative: RatioSums | None
    """a = its weighted loss less that of dense, b = that of dense; None for dense itself."""
    regret: float | None = None
    """Weighted divergence from the true probabilities, nats; None where that is not known or not
    finite."""
    histogram: Cells = field(default_factory=_no_cells)
    """Shape (3, bins), of :mod:`evaluator.ranking`."""

    def __add__(self, other: ModelSums) -> ModelSums:
        known = self.versions
        relative = regret = None
        if self.relative is not None and other.relative is not None:
            relative = self.relative + other.relative
        if self.regret is not None and other.regret is not None:
            regret = self.regret + other.regret
        return ModelSums(
            known + tuple(version for version in other.versions if version not in known),
            self.loss + other.loss,
            self.predicted + other.predicted,
            relative,
            regret,
            self.histogram + other.histogram,
        )


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over a stretch of events. Those of separate stretches add up, in the stream's order.

    A model that did not predict all of the sum is left out of it; so is the truth.
    """

    on: EventSums
    models: dict[str, ModelSums]
    bayes: float | None
    """Weighted loss of the true probabilities, nats; None where they are not known."""
    drift: tuple[str, ...]
    """The true drifts that touch the stretch; sorted."""
    segments: tuple[SegmentSums, ...] = ()
    """One for each segmentation; none before their values have been chosen, and a sum is then of
    the events since."""

    @classmethod
    def of(cls, batch: JoinedBatch, members: Sequence[Membership] = ()) -> Sums:
        """Sum up one batch, of at least one event.

        Raises as :func:`evaluator.measures.weighted_losses` does.

        Parameters
        ----------
        batch
            The events, and what was predicted.
        members
            For each segmentation, which event is in which segment.
        """
        found = measure(batch)
        return cls(
            on=EventSums.of(batch.label, batch.weight),
            models={name: _model(batch, name, found.models) for name in found.models},
            bayes=None if found.bayes is None else float(found.bayes.sum()),
            drift=batch.drift,
            segments=tuple(SegmentSums.of(batch, found, one) for one in members),
        )

    def __add__(self, other: Sums) -> Sums:
        models = {
            name: sums + other.models[name]
            for name, sums in self.models.items()
            if name in other.models
        }
        known = self.bayes is not None and other.bayes is not None
        bayes = (self.bayes or 0.0) + (other.bayes or 0.0) if known else None
        drift = self.drift
        if drift != other.drift:
            drift = tuple(sorted({*drift, *other.drift}))
        segments = self.segments or other.segments
        if self.segments and other.segments:
            both = zip(self.segments, other.segments, strict=True)
            segments = tuple(one + another for one, another in both)
        return Sums(self.on + other.on, models, bayes, drift, segments)


def _model(batch: JoinedBatch, name: str, models: dict[str, Measures]) -> ModelSums:
    one, dense = models[name], models[DENSE].loss
    regret = None if one.regret is None else float(one.regret.sum())
    return ModelSums(
        versions=(batch.models[name].version,),
        loss=float(one.loss.sum()),
        predicted=float(one.expected.sum()),
        relative=None if name == DENSE else RatioSums.of(one.loss - dense, dense),
        regret=regret if regret is not None and math.isfinite(regret) else None,
        histogram=one.histogram,
    )
