"""Windows: what each event of a batch adds to the sums, and what the sums of a window say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import numpy as np

from evaluator.baselines import BaselinesState, SimpleModels
from evaluator.config import EvaluatorConfig
from evaluator.drift import Alarms, AlarmsState
from evaluator.join import JoinedBatch
from evaluator.metrics import METRICS, Bounded, Metric, PerEvent, ScoredEvents, installed, metric
from evaluator.metrics.cross_entropy import refuse_infinite
from evaluator.metrics.metric import BINS, ArraySums, EventSums, Floats, Ints
from stream import MISSING, PADDING, ClickBatch, FeatureSchema, RunSpec, messages
from stream.messages import Alarm, Baselines, DeadLetters, Lifetime, Stability, Window

SEGMENT_BINS: Final = 128
"""Of the histogram of a segment: eight bins of the whole's in one."""
TERMS: Final = metric.terms_of(METRICS)
"""Those of the built-in metrics."""
REST: Final = "rest"
"""The segment of all values that have none of their own."""


def per_event(batch: JoinedBatch) -> PerEvent:
    """Compute the values of every event, for all models at once.

    Parameters
    ----------
    batch
        At least one event. Its first model is the root.

    Raises
    ------
    ValueError
        If a model was certain and wrong.
    """
    models, truth = batch.models, batch.bayes
    rows = [one.probability for one in models.values()]
    probability = np.array(rows if truth is None else [*rows, truth])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_click, log_other = np.log(probability), np.log(1 - probability)
        loss = batch.weight * -np.where(batch.label == 1, log_click, log_other)
        entropy = None
        if truth is not None:
            entropy = -(truth * log_click[-1] + (1 - truth) * log_other[-1])
    n = len(rows)
    for name, row in zip(models, loss[:n], strict=True):
        refuse_infinite(name, row, batch.begin)
    return PerEvent(
        label=batch.label,
        weight=batch.weight,
        probability=probability[:n],
        log_click=log_click[:n],
        log_other=log_other[:n],
        loss=loss[:n],
        difference=loss[:n] - loss[0],
        expected=batch.weight * probability[:n],
        truth=truth,
        truth_loss=None if truth is None else loss[-1],
        truth_entropy=entropy,
    )


S = TypeVar("S", float, ArraySums, "ModelSums")


def _common(one: Mapping[str, S], other: Mapping[str, S]) -> dict[str, S]:
    """Add up what both hold; what is not known of one part is not known of the whole."""
    return {name: value + other[name] for name, value in one.items() if name in other}


@dataclass(frozen=True, slots=True)
class ModelSums:
    """How one model did."""

    versions: tuple[int, ...]
    """The versions that predicted, in order."""
    terms: dict[str, float]
    """The sums of the metrics' terms, by name; without those that are not known of all events, or
    not finite."""
    histogram: ArraySums = field(default_factory=lambda: ArraySums(np.zeros((3, BINS))))
    """Shape (3, BINS)."""

    def __add__(self, other: ModelSums) -> ModelSums:
        versions = tuple(dict.fromkeys(self.versions + other.versions))
        terms = _common(self.terms, other.terms)
        return ModelSums(versions, terms, self.histogram + other.histogram)


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over a range of events. Those of separate ranges add up, in the stream's order.

    A model that did not predict all of the sum is left out of it; so is the truth.
    """

    on: EventSums
    models: dict[str, ModelSums]
    """By name, the root first."""
    bayes: float | None
    """Weighted loss of the true probabilities, nats; None where they are not known."""
    drift: tuple[str, ...]
    """The true drifts that touch the range; sorted."""
    segments: tuple[SegmentSums, ...] = ()
    """One for each segmentation; none before their values have been chosen, and a sum is then of
    the events since."""

    @classmethod
    def of(
        cls,
        batch: JoinedBatch,
        members: Sequence[Membership] = (),
        terms: Mapping[str, metric.Term] = TERMS,
    ) -> Sums:
        """Sum up one batch.

        Parameters
        ----------
        batch
            The events, and what was predicted; at least one event.
        members
            For each segmentation, which event is in which segment.
        terms
            What is summed up of each event, by name.

        Raises
        ------
        ValueError
            If a model was certain and wrong.
        """
        events = per_event(batch)
        bins = metric.bins_of(events.log_click - events.log_other)
        cells = metric.histograms(bins, batch.label, batch.weight, events.expected)
        known = ((name, term(events)) for name, term in terms.items())
        values = {name: one for name, one in known if one is not None}
        # A term is either of each model or the same for all of them.
        totals = [(name, np.add.reduce(one, -1).tolist()) for name, one in values.items()]
        models = {}
        for at, (name, predicted) in enumerate(batch.models.items()):
            sums = {t: v[at] if isinstance(v, list) else v for t, v in totals}
            finite = {term: value for term, value in sums.items() if math.isfinite(value)}
            models[name] = ModelSums((predicted.version,), finite, ArraySums(cells[at]))
        bayes = None if events.truth_loss is None else float(events.truth_loss.sum())
        segments = tuple(one.sums(batch, events, values, bins) for one in members)
        return cls(EventSums.of(batch.label, batch.weight), models, bayes, batch.drift, segments)

    def __add__(self, other: Sums) -> Sums:
        known = self.bayes is not None and other.bayes is not None
        bayes = (self.bayes or 0.0) + (other.bayes or 0.0) if known else None
        drift = tuple(sorted({*self.drift, *other.drift}))
        segments = self.segments or other.segments
        if self.segments and other.segments:
            both = zip(self.segments, other.segments, strict=True)
            segments = tuple(one + another for one, another in both)
        models = _common(self.models, other.models)
        return Sums(self.on + other.on, models, bayes, drift, segments)


@dataclass(frozen=True, slots=True)
class Membership:
    """Which events of a batch are in which segment."""

    feature: str
    values: tuple[str, ...]
    """Of the segments, the most frequent first; the last segment, the rest, has none."""
    rows: Ints | slice
    """Shape (m,), the events counted; a slice: all, each once."""
    group: Ints
    """Shape (m,), the segment of each, 0 to ``len(values)``."""

    def sums(
        self, batch: JoinedBatch, events: PerEvent, terms: Mapping[str, Floats], bins: Ints
    ) -> SegmentSums:
        """Sum up one batch by segment."""
        rows, groups, weight = self.rows, len(self.values) + 1, batch.weight

        def add_up(values: Floats) -> ArraySums:
            return ArraySums(np.bincount(self.group, values[rows], groups))

        size = SEGMENT_BINS * groups
        row = np.where(batch.label[rows] == 1, metric.CLICKS, metric.OTHERS) * size
        shared = {name: add_up(one) for name, one in terms.items() if one.ndim == 1}
        own = {name: one for name, one in terms.items() if one.ndim > 1}
        models = {}
        for at, model in enumerate(batch.models):
            place = bins[at][rows] // (BINS // SEGMENT_BINS) * groups + self.group
            cells = np.bincount(place + row, weight[rows], 3 * size)
            cells[metric.EXPECTED * size :] = np.bincount(place, events.expected[at][rows], size)
            models[model] = shared | {name: add_up(one[at]) for name, one in own.items()}
            models[model][_HISTOGRAM] = ArraySums(cells.reshape(3, SEGMENT_BINS, groups))
        happened = {"events": np.ones_like(weight), "clicked": batch.label}
        happened |= {"weight": weight, "clicks": weight * batch.label}
        if events.truth_loss is not None:
            happened["bayes"] = events.truth_loss
        on = {name: add_up(one) for name, one in happened.items()}
        return SegmentSums(self.feature, self.values, on, models)


_HISTOGRAM: Final = "histogram"
"""Its name among the sums of a model in segments."""


@dataclass(frozen=True, slots=True)
class SegmentSums:
    """Sums over each segment of one segmentation, g of them; those of separate ranges add up.

    A model that did not predict all of the sum is left out of it.
    """

    feature: str
    values: tuple[str, ...]
    """Of all segments but the last, the rest."""
    on: dict[str, ArraySums]
    """Events, clicked, weight, clicks, and bayes where the truth is known; shape (g,) each."""
    models: dict[str, dict[str, ArraySums]]
    """By model the sums of the metrics' terms, shape (g,) each, and the histogram, shape
    (3, SEGMENT_BINS, g)."""

    def __add__(self, other: SegmentSums) -> SegmentSums:
        models = {
            name: _common(sums, other.models[name])
            for name, sums in self.models.items()
            if name in other.models
        }
        return SegmentSums(self.feature, self.values, _common(self.on, other.on), models)


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
    """Finds the segment of each event.

    An event with several values of a feature counts under each of them.

    Parameters
    ----------
    schema
        Of the clicks.
    config
        The segmentations.
    state
        Where to continue; None begins with the first event.

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
        self._kinds = [_Segmentation(schema, names) for names in named]
        self._top, self._events = config.segments_top, config.counted_events
        self.state = state or SegmentsState(seen=tuple({} for _ in named))
        known = len(self.state.chosen or self.state.seen)
        if known != len(named):
            raise ValueError(
                f"{len(named)} segmentations cannot continue from {known}; keep evaluator.segments "
                "as it was, or begin with a new state folder"
            )

    def of(self, clicks: ClickBatch) -> tuple[Membership, ...]:
        """Return for each segmentation which event is where.

        Until the most frequent values are chosen they are counted, and nothing is returned.
        """
        placed = [kind.place(clicks) for kind in self._kinds]
        chosen = self.state.chosen
        if chosen is not None:
            parts = zip(self._kinds, placed, chosen, strict=True)
            return tuple(kind.member(rows, key, values) for kind, (rows, key), values in parts)
        for seen, (_, key) in zip(self.state.seen, placed, strict=True):
            for value, times in zip(*np.unique_counts(key), strict=True):
                seen[int(value)] = seen.get(int(value), 0) + int(times)
        self.state = replace(self.state, events=self.state.events + len(clicks))
        if self.state.events >= self._events:
            ranked = [sorted(seen, key=lambda v: (-seen[v], v)) for seen in self.state.seen]
            most = tuple(tuple(one[: self._top]) for one in ranked)
            self.state = SegmentsState(self.state.events, chosen=most)
        return ()


class _Segmentation:
    """One feature, or several that are crossed.

    Raises :class:`ValueError` for a feature that cannot be segmented by.
    """

    def __init__(self, schema: FeatureSchema, names: tuple[str, ...]) -> None:
        self._feature = ",".join(names)
        self._columns = [schema.columns_of(name) for name in names]
        features = [one for name in names for one in schema.categorical if one.name == name]
        several = [one.name for one in features if one.max_values > 1]
        if len(names) > 1 and several:
            raise ValueError(
                f"feature {several[0]!r} has several values and cannot be crossed; name it in a "
                "segmentation of its own"
            )
        self._buckets = tuple(one.buckets for one in features)
        if math.prod(self._buckets) >= 2**63:
            raise ValueError(
                f"the segmentation {self._feature} has {math.prod(self._buckets):.1e} values; "
                "cross fewer features"
            )

    def place(self, clicks: ClickBatch) -> tuple[Ints | slice, Ints]:
        """Return which events count, and the value of each.

        Of a feature with several values each counts once an event.
        """
        columns = clicks.categorical[:, self._columns[0]]
        if columns.shape[1] == 1:
            parts = [clicks.categorical[:, column.start] for column in self._columns]
            return slice(None), np.ravel_multi_index(parts, self._buckets)
        new = columns != PADDING
        for later in range(1, columns.shape[1]):
            new[:, later] &= (columns[:, :later] != columns[:, later : later + 1]).all(axis=1)
        rows, at = np.nonzero(new)
        return rows, columns[rows, at].astype(np.int64)

    def member(self, rows: Ints | slice, key: Ints, values: tuple[int, ...]) -> Membership:
        """Find the segment of each value, which is written as its buckets."""
        known = np.array([*values, np.iinfo(np.int64).max])
        order = np.argsort(known)
        at = order[np.searchsorted(known, key, sorter=order)]
        group = np.where(known[at] == key, at, len(values))
        texts = []
        for value in values:
            buckets = np.unravel_index(value, self._buckets)
            texts.append(",".join("missing" if b == MISSING else str(b) for b in buckets))
        return Membership(self._feature, tuple(texts), rows, group)


@dataclass(frozen=True, slots=True)
class Scorer:
    """Turns sums into scores.

    Parameters
    ----------
    config
        The models, and how few clicks are too few.
    metrics
        What is computed.
    """

    config: EvaluatorConfig
    metrics: Sequence[Metric] = METRICS

    def score(self, sums: Sums, before: EventSums) -> dict[str, Any]:
        """Return what a window and a lifetime have in common, except where they are.

        Parameters
        ----------
        sums
            Of at least one event.
        before
            All events before these.
        """
        on = sums.on
        rate = before.click_rate if before.has_both(self.config.min_clicks) else None
        scored = {
            name: ScoredEvents(on, one.terms, one.histogram.values, rate)
            for name, one in sums.models.items()
        }
        return {
            "weight": on.weight,
            "clicks": on.clicks,
            "click_rate": on.click_rate,
            "models": self._models(scored, sums.models),
            "bayes_ce": None if sums.bayes is None else sums.bayes / on.weight,
            "drift": sums.drift,
            "segments": tuple(s for one in sums.segments for s in self._segments(one, sums.models)),
        }

    def _models(
        self, scored: Mapping[str, ScoredEvents], sums: Mapping[str, ModelSums]
    ) -> dict[str, messages.ModelScore | None]:
        """Score every model; None for one that did not predict everything."""
        found: dict[str, messages.ModelScore | None] = dict.fromkeys(self.config.models)
        for name in scored.keys() & found.keys():
            values: dict[str, Any] = {}
            errors, intervals = {}, {}
            for one in self.metrics:
                if one.compares and name == self.config.models[0]:
                    continue
                value = one.compute(scored[name], self.config.min_clicks)
                if isinstance(value, Bounded):
                    value, errors[one.name] = value
                elif isinstance(value, messages.Interval):
                    if value.low is not None and value.high is not None:
                        intervals[one.name] = value.low, value.high
                    value = value.mean
                values[one.name] = value
            found[name] = messages.ModelScore(
                versions=sums[name].versions, metrics=values, errors=errors, intervals=intervals
            )
        return found

    def _segments(
        self, sums: SegmentSums, whole: Mapping[str, ModelSums]
    ) -> Iterator[messages.Segment]:
        """Score each segment of one segmentation, the rest last."""
        for at, value in enumerate((*sums.values, REST)):
            on = {name: float(one.values[at]) for name, one in sums.on.items()}
            bayes = on.pop("bayes", math.nan)
            happened = EventSums(int(on["events"]), int(on["clicked"]), on["weight"], on["clicks"])
            scored = {}
            for name, one in sums.models.items():
                if name in whole and happened.events:
                    terms = {t: float(v.values[at]) for t, v in one.items() if t != _HISTOGRAM}
                    finite = {term: value for term, value in terms.items() if math.isfinite(value)}
                    cells = one[_HISTOGRAM].values[:, :, at]
                    scored[name] = ScoredEvents(happened, finite, cells)
            known = happened.events and math.isfinite(bayes)
            yield messages.Segment(
                feature=sums.feature,
                value=value,
                events=happened.events,
                weight=happened.weight,
                clicks=happened.clicks,
                click_rate=happened.click_rate if happened.events else None,
                models=self._models(scored, whole),
                bayes_ce=bayes / happened.weight if known else None,
            )


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """A window that has not ended."""

    size: int
    begin: int
    before: EventSums
    """All events before it."""
    sums: Sums | None = None
    """None while it is empty."""

    @property
    def end(self) -> int:
        """The count at which it closes."""
        return self.begin + self.size


@dataclass(frozen=True, slots=True)
class CumulativeWindow:
    """All events since a count."""

    begin: int
    before: EventSums
    """All events before it."""
    sums: Sums


@dataclass(frozen=True, slots=True)
class WindowsState:
    """All that the windows know, for a checkpoint."""

    so_far: EventSums
    """Since the start of the run."""
    opened: tuple[OpenWindow, ...]
    pending: Sums | None = None
    """What no window has taken in yet."""
    cumulative: tuple[CumulativeWindow, ...] = ()
    """Since the first event, and since more models have begun."""
    finished: int | None = None
    """The count at which the input ended last; None where it has not."""


class TumblingWindows:
    """Windows of several sizes over the same events, each beginning where the last one ended.

    Batches are added up over the range that all sizes are multiples of, and only then taken into
    each window.

    Parameters
    ----------
    config
        Sizes, models and how few clicks are too few.
    state
        Where to continue; None begins with the first event.
    metrics
        What is computed when a window closes.

    Attributes
    ----------
    state
        All that it knows, for a checkpoint.

    Examples
    --------
    >>> import numpy as np
    >>> from evaluator.join import JoinedBatch, Predicted
    >>> windows = TumblingWindows(EvaluatorConfig(windows=(4,), models=("dense",), min_clicks=1))
    >>> rate = {"dense": Predicted(version=0, probability=np.array([0.25, 0.25, 0.25, 0.25]))}
    >>> batch = JoinedBatch(0, np.array([0.0, 1.0, 0.0, 0.0]), np.ones(4), rate)
    >>> [window.metric("dense", "ne") for window in windows.add(Sums.of(batch))]
    [1.0]
    """

    def __init__(
        self,
        config: EvaluatorConfig,
        state: WindowsState | None = None,
        metrics: Sequence[Metric] = METRICS,
    ) -> None:
        sizes = tuple(sorted(config.windows))
        nothing = EventSums()
        self._config, self._scorer = config, Scorer(config, metrics)
        self._step_events = math.gcd(*sizes)
        self.state = state or WindowsState(
            nothing, tuple(OpenWindow(size, 0, nothing) for size in sizes)
        )
        known = tuple(window.size for window in self.state.opened)
        if known != sizes:
            raise ValueError(
                f"windows of {_listed(sizes)} events cannot continue from windows of "
                f"{_listed(known)}; keep evaluator.windows as it was, or begin with a new state "
                "folder"
            )

    def add(self, sums: Sums) -> tuple[Window, ...]:
        """Take in a batch and return the windows that it closes, the smallest first."""
        so_far, pending = self.state.so_far + sums.on, self.state.pending
        pending = sums if pending is None else pending + sums
        self.state = replace(self.state, so_far=so_far, pending=pending)
        left_over = so_far.events % self._step_events
        if 0 < left_over < sums.on.events:
            raise ValueError(
                f"windows of {_listed(self._config.windows)} events may end at "
                f"{so_far.events - left_over:,}, inside a batch that ends at {so_far.events:,}; "
                "make them multiples of the batch"
            )
        return () if left_over else self._take_pending()

    def finish(self) -> tuple[Window, ...]:
        """Score what is open, once, since the input has ended; such windows are partial.

        They stay open, for the input may be continued: then each closes with all of its events.
        """
        self._take_pending()
        state = self.state
        if state.finished == state.so_far.events:
            return ()
        self.state = replace(state, finished=state.so_far.events)
        return tuple(self._close(one, one.sums) for one in state.opened if one.sums is not None)

    def lifetimes(self, closed: Sequence[Window]) -> tuple[Lifetime, ...]:
        """Return the scores so far, if windows of more than the smallest size have just closed.

        Where there is one size alone, its windows suffice.
        """
        sizes = [window.size for window in self.state.opened]
        if all(window.size != sizes[:2][-1] for window in closed):
            return ()
        found = []
        for one in self.state.cumulative:
            scores = self._scorer.score(one.sums, one.before)
            end = one.begin + one.sums.on.events
            found.append(Lifetime(begin=one.begin, end=end, **scores))
        return tuple(found)

    def _take_pending(self) -> tuple[Window, ...]:
        """Take what is pending into all windows, and return those that it closes."""
        pending, so_far = self.state.pending, self.state.so_far
        if pending is None:
            return ()
        opened, closed = [], []
        for window in self.state.opened:
            total = pending if window.sums is None else window.sums + pending
            if so_far.events < window.end:
                opened.append(replace(window, sums=total))
            else:
                closed.append(self._close(window, total))
                opened.append(OpenWindow(window.size, window.end, so_far))
        begin = so_far.events - pending.on.events
        cumulative = _cumulate(self.state.cumulative, pending, begin)
        self.state = replace(
            self.state, so_far=so_far, opened=tuple(opened), pending=None, cumulative=cumulative
        )
        return tuple(closed)

    def _close(self, window: OpenWindow, sums: Sums) -> Window:
        """Turn a window's sums into its scores."""
        begin, size, end = window.begin, window.size, window.begin + sums.on.events
        scores = self._scorer.score(sums, window.before)
        place = {"size": size, "number": begin // size, "begin": begin, "end": end}
        return Window(**place, partial=end < window.end, **scores)


def _listed(sizes: Sequence[int]) -> str:
    return " and ".join(f"{size:,}" for size in sizes)


def _cumulate(
    windows: Sequence[CumulativeWindow], sums: Sums, begin: int
) -> tuple[CumulativeWindow, ...]:
    """Take sums into all cumulative windows; where models have begun with them, so does another.

    Examples
    --------
    >>> import numpy as np
    >>> from evaluator.join import JoinedBatch, Predicted
    >>> dense, both = (
    ...     Sums.of(JoinedBatch(0, np.array([1.0]), np.ones(1), dict.fromkeys(models, half)))
    ...     for half in [Predicted(1, np.array([0.5]))]
    ...     for models in (["dense"], ["dense", "sparse"])
    ... )
    >>> windows = _cumulate(_cumulate(_cumulate((), dense, 0), both, 1), both, 2)
    >>> [(one.begin, one.sums.on.events, list(one.sums.models)) for one in windows]
    [(0, 3, ['dense']), (1, 2, ['dense', 'sparse'])]
    """
    grown = tuple(replace(one, sums=one.sums + sums) for one in windows)
    if grown and sums.models.keys() <= grown[-1].sums.models.keys():
        return grown
    before = windows[0].sums.on if windows else EventSums()
    return (*grown, CumulativeWindow(begin, before, sums))


ScoringMessage = Window | Lifetime | Baselines | Stability | Alarm | DeadLetters
"""What follows from a batch, in the order in which it is written."""


@dataclass(frozen=True, slots=True)
class ScoringState:
    """All that scoring knows, for a checkpoint."""

    windows: WindowsState | None = None
    segments: SegmentsState | None = None
    alarms: AlarmsState = field(default_factory=AlarmsState)
    invalid: dict[str, int] = field(default_factory=dict)
    """The invalid events since a window closed, by reason."""
    invalid_since: int = 0
    """The count when a window closed last."""
    baselines: BaselinesState = field(default_factory=BaselinesState)


class Scoring:
    """Takes in one batch after the other, and returns what follows from it.

    Parameters
    ----------
    config
        What is scored, and what counts as drift.
    spec
        The features of the clicks, and the roles of the models.
    state
        Where to continue.
    """

    def __init__(
        self, config: EvaluatorConfig, spec: RunSpec, state: ScoringState | None = None
    ) -> None:
        state = state or ScoringState()
        metrics = installed()
        self._terms = metric.terms_of(metrics)
        self._segments = Segments(spec.schema, config, state.segments)
        self._windows = TumblingWindows(config, state.windows, metrics)
        self._alarms = Alarms(config, spec, state.alarms)
        self._simple = SimpleModels(config, spec.schema, state.baselines)
        self._invalid, self._invalid_since = Counter(state.invalid), state.invalid_since

    @property
    def state(self) -> ScoringState:
        """All that it knows, for a checkpoint; equal histories give equal states."""
        parts = self._windows.state, self._segments.state, self._alarms.state
        invalid = dict(sorted(self._invalid.items()))
        return ScoringState(*parts, invalid, self._invalid_since, self._simple.state)

    def add(self, batch: JoinedBatch) -> tuple[Sums, tuple[ScoringMessage, ...]]:
        """Take in a batch; return its sums, and what there is to write."""
        sums = Sums.of(batch, self._segments.of(batch.clicks), self._terms)
        self._alarms.add(batch.clicks)
        self._simple.add(batch)
        self._invalid.update(batch.skipped)
        return sums, self._close(self._windows.add(sums))

    def finish(self, skipped: Mapping[str, int] | None = None) -> tuple[ScoringMessage, ...]:
        """Close what is open, since the input has ended, with invalid events at its very end."""
        self._invalid.update(skipped or {})
        closed = self._windows.finish()
        return self._close(closed) or self._count_invalid(self._windows.state.so_far.events)

    def _close(self, closed: tuple[Window, ...]) -> tuple[ScoringMessage, ...]:
        """Return what follows from windows that have just closed, with them."""
        if not closed:
            return ()
        stability, alarms = self._alarms.close(closed)
        lifetimes, invalid = self._windows.lifetimes(closed), self._count_invalid(closed[0].end)
        baselines = self._simple.close(closed)
        return (*closed, *lifetimes, *baselines, *stability, *alarms, *invalid)

    def _count_invalid(self, count: int) -> tuple[DeadLetters, ...]:
        """Return how many invalid events there were since the last window, and begin anew."""
        begin, self._invalid_since = self._invalid_since, count
        reasons = dict(sorted(self._invalid.items()))
        self._invalid.clear()
        return (DeadLetters(begin=begin, count=count, reasons=reasons),) if reasons else ()
