"""Sums over events: all that scores are made of, and all that must be kept of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.config import DENSE
from evaluator.entropy import losses
from evaluator.interval import RatioSums
from evaluator.joined import Floats, JoinedBatch


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

    def __add__(self, other: ModelSums) -> ModelSums:
        known = self.versions
        relative = None
        if self.relative is not None and other.relative is not None:
            relative = self.relative + other.relative
        return ModelSums(
            known + tuple(version for version in other.versions if version not in known),
            self.loss + other.loss,
            self.predicted + other.predicted,
            relative,
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

    @classmethod
    def of(cls, batch: JoinedBatch) -> Sums:
        """Sum up one batch, of at least one event; raises as :func:`weighted_losses` does."""
        loss = weighted_losses(batch)
        return cls(
            on=EventSums.of(batch.label, batch.weight),
            models={name: _model(batch, name, loss) for name in loss},
            bayes=_bayes(batch),
            drift=batch.drift,
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
        return Sums(self.on + other.on, models, bayes, drift)


def weighted_losses(batch: JoinedBatch) -> dict[str, Floats]:
    """Return each model's losses times the weights, shape (n,) each, in nats.

    Raises
    ------
    ValueError
        If a model was certain and wrong: no mean holds an infinite loss.
    """
    found = {}
    for name, one in batch.models.items():
        found[name] = batch.weight * losses(batch.label, one.probability)
        if found[name].max() == np.inf:
            raise ValueError(
                f"{name!r} gave probability 0 or 1 to an event of {batch.begin + 1} to "
                f"{batch.end} that went the other way, an infinite loss; lower its learning rate"
            )
    return found


def _model(batch: JoinedBatch, name: str, loss: dict[str, Floats]) -> ModelSums:
    one, dense = batch.models[name], loss[DENSE]
    return ModelSums(
        versions=(one.version,),
        loss=float(loss[name].sum()),
        predicted=float((batch.weight * one.probability).sum()),
        relative=None if name == DENSE else RatioSums.of(loss[name] - dense, dense),
    )


def _bayes(batch: JoinedBatch) -> float | None:
    if batch.bayes is None:
        return None
    return float((batch.weight * losses(batch.label, batch.bayes)).sum())
