"""What each event of a batch adds to the sums, by model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluator.arrays import ArraySums
from evaluator.config import DENSE, EvaluatorConfig
from evaluator.join import Floats, JoinedBatch
from evaluator.metrics.entropy import losses
from evaluator.metrics.interval import RatioSums
from evaluator.metrics.ranking import BINS, CLICKS, EXPECTED, OTHERS, bins_of, histograms
from stream.batch import ClickBatch
from stream.schema import MISSING, PADDING, FeatureSchema


@dataclass(frozen=True, slots=True)
class EventLosses:
    """One model on the events of one batch; shapes (n,)."""

    loss: Floats
    """Weighted, nats."""
    expected: Floats
    """Weighted probabilities."""
    regret: Floats | None
    """Weighted divergence from the true probabilities, nats; None where these are not known."""
    bin: NDArray[np.int64]
    """Of :mod:`evaluator.metrics.ranking`."""
    histogram: ArraySums
    """Of all events together."""


@dataclass(frozen=True, slots=True)
class BatchLosses:
    """All models on the events of one batch."""

    models: dict[str, EventLosses]
    bayes: Floats | None
    """Shape (n,), weighted loss of the true probabilities, nats; None where these are not known."""


def measure(batch: JoinedBatch) -> BatchLosses:
    """Look at a batch, of at least one event, taking logarithms once for all that needs them.

    Raises as :func:`weighted_losses` does.
    """
    names, true, weight = list(batch.models), batch.bayes, batch.weight
    rows = [one.probability for one in batch.models.values()]
    probability = np.array(rows if true is None else [*rows, true])
    with np.errstate(divide="ignore"):
        chosen, passed = np.log(probability), np.log(1 - probability)
    loss = weight * -np.where(batch.label == 1, chosen, passed)
    if loss[: len(names)].max() == np.inf:
        weighted_losses(batch)
    regret = [None] * len(names) if true is None else _regrets(weight, true, chosen, passed)
    chosen, passed = chosen[: len(names)], passed[: len(names)]
    expected, bins = weight * probability[: len(names)], bins_of(chosen - passed)
    found = histograms(bins, batch.label, weight, expected)
    columns = zip(names, loss, expected, regret, bins, found, strict=False)
    models = {name: EventLosses(*column) for name, *column in columns}
    return BatchLosses(models, None if true is None else loss[-1])


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
                f"{name!r} gave probability 0 or 1 to an event of {batch.begin + 1:,} to "
                f"{batch.end:,} that went the other way, an infinite loss; lower its learning rate"
            )
    return found


def _regrets(weight: Floats, true: Floats, chosen: Floats, passed: Floats) -> Floats:
    """Return weighted divergences from the truth, whose logarithms stand in the last row.

    Shape (models, n); not finite where a model was certain.
    """
    with np.errstate(invalid="ignore"):
        found = true * chosen + (1 - true) * passed
        return np.asarray(weight * (found[-1] - found[:-1]))


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


def _no_cells() -> ArraySums:
    return ArraySums(np.zeros((3, BINS)))


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
    histogram: ArraySums = field(default_factory=_no_cells)
    """Shape (3, bins), of :mod:`evaluator.metrics.ranking`."""

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

        Raises as :func:`evaluator.sums.weighted_losses` does.

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


def _model(batch: JoinedBatch, name: str, models: dict[str, EventLosses]) -> ModelSums:
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


Ints = NDArray[np.int64]

SEGMENT_BINS: Final = 128
"""Of a segment's histogram: eight bins of the whole's in one."""
EVENTS, CLICKED, WEIGHT, CLICK_WEIGHT, BAYES = range(5)
"""The rows of what happened; the last is NaN where the truth is not known."""
LOSS, PREDICTED, A, B, AA, AB, BB, REGRET, HISTOGRAM = range(9)
"""The rows of one model: those of its sums and of their RatioSums, and then its histogram."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Which events of a batch are in which segment."""

    feature: str
    values: tuple[str, ...]
    """Of the segments, the most frequent first; the last segment, the rest, bears none."""
    rows: Ints | None
    """Shape (m,), the events counted; None: all, each once."""
    group: Ints
    """Shape (m,), the segment of each, 0 to ``len(values)``."""


@dataclass(frozen=True, slots=True)
class SegmentSums:
    """Sums over each segment of one segmentation, g of them; those of separate stretches add up.

    A model that did not predict all of the sum is left out of it.
    """

    feature: str
    values: tuple[str, ...]
    """Of all segments but the last, the rest."""
    on: ArraySums
    """Shape (5, g)."""
    models: dict[str, ArraySums]
    """Shape (8 + 3 · SEGMENT_BINS, g) each."""

    @classmethod
    def of(cls, batch: JoinedBatch, found: BatchLosses, member: Membership) -> SegmentSums:
        """Sum up one batch."""
        on = np.stack([_added(one, member) for one in _happened(batch, found.bayes)])
        dense = found.models[DENSE].loss
        models = {
            name: _segment_cells(batch, one, dense, member) for name, one in found.models.items()
        }
        return cls(member.feature, member.values, ArraySums(on), models)

    def __add__(self, other: SegmentSums) -> SegmentSums:
        models = {
            name: cells + other.models[name]
            for name, cells in self.models.items()
            if name in other.models
        }
        return SegmentSums(self.feature, self.values, self.on + other.on, models)


def _happened(batch: JoinedBatch, bayes: Floats | None) -> Sequence[Floats]:
    one = np.ones_like(batch.weight)
    truth = np.full_like(one, np.nan) if bayes is None else bayes
    return one, batch.label, batch.weight, batch.weight * batch.label, truth


def _segment_cells(
    batch: JoinedBatch, one: EventLosses, dense: Floats, member: Membership
) -> ArraySums:
    a = one.loss - dense
    regret = np.full_like(dense, np.nan) if one.regret is None else one.regret
    terms = (one.loss, one.expected, a, dense, a * a, a * dense, dense * dense, regret)
    flat = [_added(term, member) for term in terms]
    return ArraySums(np.concatenate([np.stack(flat), _histogram(batch, one, member)]))


def _added(terms: Floats, member: Membership) -> Floats:
    """Sum up terms by segment, shape (g,)."""
    counted = terms if member.rows is None else terms[member.rows]
    return np.asarray(np.bincount(member.group, counted, len(member.values) + 1), np.float64)


def _histogram(batch: JoinedBatch, one: EventLosses, member: Membership) -> Floats:
    """Sort events by segment into shape (3 · SEGMENT_BINS, g)."""
    rows = slice(None) if member.rows is None else member.rows
    groups = len(member.values) + 1
    place = one.bin[rows] // (BINS // SEGMENT_BINS) * groups + member.group
    row = np.where(batch.label[rows] == 1, CLICKS, OTHERS) * (SEGMENT_BINS * groups)
    cells = np.bincount(place + row, batch.weight[rows], 3 * SEGMENT_BINS * groups)
    expected = np.bincount(place, one.expected[rows], SEGMENT_BINS * groups)
    cells[EXPECTED * SEGMENT_BINS * groups :] = expected
    return np.asarray(cells.reshape(3 * SEGMENT_BINS, groups), np.float64)


@dataclass(frozen=True, slots=True)
class SegmentsState:
    """All that is known about segments, for a checkpoint."""

    events: int = 0
    """Looked at for the choice."""
    seen: tuple[dict[int, int], ...] = ()
    """For each segmentation, how often each value came; forgotten once chosen."""
    chosen: tuple[tuple[int, ...], ...] | None = None
    """For each segmentation the values that have a segment, the most frequent first."""


class Segments:
    """Tells which segment events are in.

    An event with several values of a feature counts under each of them.

    Parameters
    ----------
    schema
        Of the clicks.
    config
        The segmentations.
    state
        Where to go on; None begins with the first event.

    Examples
    --------
    >>> from stream.schema import CategoricalFeature
    >>> schema = FeatureSchema(categorical=(CategoricalFeature(name="site", buckets=9),))
    >>> config = EvaluatorConfig(windows=(3,), segments=("site",), segments_top=1)
    >>> segments = Segments(schema, config)
    >>> clicks = ClickBatch(*np.zeros((3, 3)), np.zeros((3, 0)), np.array([[7], [4], [7]]))
    >>> segments.of(clicks)
    ()
    >>> segments.of(clicks)[0].values, segments.of(clicks)[0].group
    (('7',), array([0, 1, 0]))
    """

    def __init__(
        self, schema: FeatureSchema, config: EvaluatorConfig, state: SegmentsState | None = None
    ) -> None:
        named = [(one,) if isinstance(one, str) else one for one in config.segments]
        self._kinds = [_Segmentation.of(schema, names) for names in named]
        self._top, self._events = config.segments_top, config.look_events
        self._state = state or SegmentsState(seen=tuple({} for _ in named))
        known = len(self._state.chosen or self._state.seen)
        if known != len(named):
            raise ValueError(
                f"{len(named)} segmentations cannot go on from {known}; keep evaluator.segments "
                "as it was, or begin with a new state folder"
            )

    @property
    def state(self) -> SegmentsState:
        """All that it knows, for a checkpoint."""
        return self._state

    def of(self, clicks: ClickBatch) -> tuple[Membership, ...]:
        """Return for each segmentation which event is where; nothing before the choice."""
        placed = [kind.place(clicks) for kind in self._kinds]
        chosen = self._state.chosen
        if chosen is None:
            self._look(len(clicks), [key for _, key in placed])
            return ()
        parts = zip(self._kinds, placed, chosen, strict=True)
        return tuple(kind.member(rows, key, values) for kind, (rows, key), values in parts)

    def _look(self, events: int, keys: Sequence[Ints]) -> None:
        """Count values, and choose once there are enough."""
        for seen, key in zip(self._state.seen, keys, strict=True):
            for value, times in zip(*np.unique_counts(key), strict=True):
                seen[int(value)] = seen.get(int(value), 0) + int(times)
        total = self._state.events + events
        if total < self._events:
            self._state = SegmentsState(total, self._state.seen)
        else:
            chosen = [_most_frequent(seen, self._top) for seen in self._state.seen]
            self._state = SegmentsState(total, chosen=tuple(chosen))


def _most_frequent(seen: dict[int, int], top: int) -> tuple[int, ...]:
    return tuple(sorted(seen, key=lambda value: (-seen[value], value))[:top])


@dataclass(frozen=True, slots=True)
class _Segmentation:
    """One feature, or several that are crossed."""

    names: tuple[str, ...]
    columns: tuple[slice, ...]
    buckets: tuple[int, ...]

    @classmethod
    def of(cls, schema: FeatureSchema, names: tuple[str, ...]) -> _Segmentation:
        """Look features up; raises :class:`ValueError` for one that cannot be segmented by."""
        columns = tuple(schema.columns_of(name) for name in names)
        features = {one.name: one for one in schema.categorical}
        several = [name for name in names if features[name].max_values > 1]
        if len(names) > 1 and several:
            raise ValueError(
                f"feature {several[0]!r} has several values and cannot be crossed; name it in a "
                "segmentation of its own"
            )
        buckets = tuple(features[name].buckets for name in names)
        if math.prod(buckets) >= 2**63:
            raise ValueError(
                f"the segmentation {','.join(names)} has {math.prod(buckets):.1e} values; cross "
                "fewer features"
            )
        return cls(names, columns, buckets)

    def place(self, clicks: ClickBatch) -> tuple[Ints | None, Ints]:
        """Return which events count, None for all, and the value of each."""
        if self.columns[0].stop - self.columns[0].start > 1:
            return _unfolded(clicks.categorical[:, self.columns[0]])
        key = np.zeros(len(clicks), np.int64)
        for column, buckets in zip(self.columns, self.buckets, strict=True):
            key = key * buckets + clicks.categorical[:, column.start]
        return None, key

    def member(self, rows: Ints | None, key: Ints, values: tuple[int, ...]) -> Membership:
        """Find the segment of each value."""
        none = np.iinfo(np.int64).max
        known = np.array([*values, none])
        order = np.argsort(known)
        at = order[np.searchsorted(known, key, sorter=order)]
        group = np.where(known[at] == key, at, len(values))
        words = tuple(self._word(value) for value in values)
        return Membership(",".join(self.names), words, rows, group)

    def _word(self, value: int) -> str:
        """Write a value as its buckets."""
        words = []
        for buckets in reversed(self.buckets):
            value, bucket = divmod(value, buckets)
            words.append("missing" if bucket == MISSING else str(bucket))
        return ",".join(reversed(words))


def _unfolded(columns: NDArray[np.int32]) -> tuple[Ints, Ints]:
    """Return every value of every event once, with the row of the event."""
    new = columns != PADDING
    for later in range(1, columns.shape[1]):
        new[:, later] &= (columns[:, :later] != columns[:, later : later + 1]).all(axis=1)
    rows, at = np.nonzero(new)
    return rows, columns[rows, at].astype(np.int64)
