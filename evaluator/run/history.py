"""The history of a run: what its messages say, gathered as they come."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluator.metrics.metric import EventSums, Floats
from evaluator.metrics.normalized_entropy import normalized_entropy
from stream import MODELS, Deduplicator, ModelSpec, find_model, messages, model_of, read_all
from stream.log import LogStore
from stream.messages import (
    Alarm,
    AnyMessage,
    Decision,
    Interval,
    MaskChange,
    Progress,
    Stability,
    Verdict,
    Window,
)
from stream.topics import DEAD_LETTERS, LEDGER, MASK_CHANGES, WINDOWS

M = TypeVar("M", bound=messages.Message)
_LOGS: Final = (LEDGER, MASK_CHANGES, WINDOWS, DEAD_LETTERS)
"""Those that hold all that is to know about a run."""
_OPTIONAL: Final = (MASK_CHANGES,)
"""Those of them that not every run has."""
PSI: Final = "psi"
"""The column of the largest population stability index of a feature."""
OF_EVENTS: Final = ("weight", "clicks", "click_rate", "bayes_ce")
"""The columns that are not of a model."""
EDGES: Final = ("error", "low", "high")
"""What may follow the name of a metric's column: a bound of its error, or its interval."""
_SOON_MS: Final = 10_000
"""Workers report the time every few seconds; between reports further apart it is not known."""


def downsample(columns: Sequence[Floats], points: int) -> NDArray[np.intp]:
    """Choose which rows of some columns to draw.

    The rows are cut into buckets, and of each bucket those stay in which any column has its least
    value, its greatest or its first gap; the first and the last row stay too. So what is drawn
    reaches as high and as low as what is not, and no line bridges what is not known.

    Parameters
    ----------
    columns
        Of equal length n; NaN is a gap.
    points
        How many rows may stay, but never fewer than two and three a column.

    Returns
    -------
    Ascending row numbers, all n where these are no more than ``points``.

    Examples
    --------
    >>> spike = np.zeros(1000)
    >>> spike[501] = 9
    >>> chosen = downsample([spike], points=10)
    >>> len(chosen) <= 10, 501 in chosen
    (True, True)
    """
    n = len(columns[0]) if columns else 0
    if n <= points:
        return np.arange(n)
    # Besides the two at the ends, three of a bucket and a column: least, greatest, and a gap.
    buckets = max((points - 2) // (3 * len(columns)), 1)
    chosen = {0, n - 1}
    for rows in np.array_split(np.arange(n), buckets):
        for column in columns:
            values = column[rows]
            gaps = np.isnan(values)
            if not gaps.all():
                chosen |= {int(rows[np.nanargmin(values)]), int(rows[np.nanargmax(values)])}
            if gaps.any():
                chosen.add(int(rows[gaps.argmax()]))
    return np.array(sorted(chosen), np.intp)


@dataclass(frozen=True, slots=True)
class Lines:
    """Some columns over the same x, downsampled."""

    at: list[int]
    """The count at which each window ends, or another x."""
    columns: dict[str, list[float | None]]
    rows: int
    """How many there were before."""

    @classmethod
    def of(cls, at: NDArray[np.int64], columns: Mapping[str, Floats], points: int) -> Lines:
        """Downsample columns to so many points."""
        chosen = downsample(list(columns.values()), points) if columns else np.arange(len(at))
        # JSON cannot write NaN.
        plain = {
            name: [None if np.isnan(value) else value for value in column[chosen].tolist()]
            for name, column in columns.items()
        }
        return cls(at[chosen].tolist(), plain, len(at))


@dataclass(frozen=True, slots=True)
class Band:
    """A range of true drift."""

    begin: int
    end: int
    drift: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """What the served model lost to the root on a range of events."""

    relative: float
    """CE(served) / CE(root) − 1."""
    nats: float
    """The same in all: the weighted sum of CE(served) − CE(root) over the events."""


@dataclass(frozen=True, slots=True)
class SimpleScores:
    """Simple models and all others on the same events, some of a range."""

    begin: int
    end: int
    events: int
    """Those scored."""
    click_rate: float
    ces: dict[str, float]
    """By model and baseline, nats per event."""
    relative: dict[str, dict[str, Interval]]
    """By baseline and model CE(model) / CE(baseline) − 1."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A range of windows that were compared with the same line."""

    begin: int
    end: int
    value: float
    """Of the relative cross entropy: the level of the served model, and the rise beyond it that is
    large enough for a rebuild."""


class WindowRow(NamedTuple):
    """One window, as figures."""

    begin: int
    end: int
    partial: bool
    drift: tuple[str, ...]
    figures: Mapping[str, float]
    """By column; without those that are not known."""


def figures(scores: messages.Scores | messages.Segment) -> dict[str, float]:
    """Return every figure by the name of its column; what is not known is left out.

    A column is named after the model and the metric, as in ``sparse.relative_ce``; its error and
    the bounds of its interval follow, as in ``sparse.relative_ce.low``.
    """
    found: dict[str, float | None] = {name: getattr(scores, name) for name in OF_EVENTS}
    for model, score in ((name, one) for name, one in scores.models.items() if one):
        for metric, value in score.metrics.items():
            bounds = score.errors.get(metric), *score.intervals.get(metric, (None, None))
            edges = zip(EDGES, bounds, strict=True)
            found[f"{model}.{metric}"] = value
            found |= {f"{model}.{metric}.{edge}": bound for edge, bound in edges}
    return {name: value for name, value in found.items() if value is not None}


class WindowTable:
    """The windows of one size: eight bytes a figure.

    Attributes
    ----------
    newest
        The last whole window.
    bands
        Ranges of true drift.
    begins, all_ends
        The counts at which windows begin and end, the partial one too.
    """

    def __init__(self) -> None:
        self.newest: Window | None = None
        self.bands: list[Band] = []
        self.begins, self.all_ends = array("q"), array("q")
        self._whole = 0
        self._columns: dict[str, array[float]] = {}

    def __len__(self) -> int:
        """Count the whole windows."""
        return self._whole

    def __contains__(self, name: str) -> bool:
        """Tell whether any window has a figure of that name."""
        return name in self._columns

    def add(self, window: Window) -> None:
        """Append a window; a figure that it lacks is NaN. Only the last one may be partial.

        Where the input was continued, another one takes the place of the partial one.
        """
        if self.is_partial:
            self._drop_partial()
        known = figures(window)
        for name in known:
            if name not in self._columns:
                self._columns[name] = array("d", [np.nan]) * len(self.all_ends)
        for name, values in self._columns.items():
            values.append(known.get(name, np.nan))
        self.begins.append(window.begin)
        self.all_ends.append(window.end)
        if not window.partial:
            self._whole, self.newest = self._whole + 1, window
        last = self.bands[-1] if self.bands else None
        if last and (last.end, last.drift) == (window.begin, window.drift):
            self.bands[-1] = replace(last, end=window.end)
        elif window.drift:
            self.bands.append(Band(window.begin, window.end, window.drift))

    def _drop_partial(self) -> None:
        begin, end = self.begins.pop(), self.all_ends.pop()
        for values in self._columns.values():
            values.pop()
        last = self.bands[-1] if self.bands else None
        if last and last.end == end:
            self.bands[-1:] = [replace(last, end=begin)] if last.begin < begin else []

    def amend(self, end: int, name: str, value: float) -> None:
        """Add one more figure to the newest window, if that is the one which ends there."""
        if self.all_ends and self.all_ends[-1] == end:
            blank = array("d", [np.nan]) * len(self.all_ends)
            self._columns.setdefault(name, blank)[-1] = value

    @property
    def is_partial(self) -> bool:
        """Whether the last window is partial."""
        return len(self.all_ends) > self._whole

    @property
    def begin(self) -> int:
        """Events before the first window."""
        return self.begins[0] if self.begins else 0

    @property
    def ends(self) -> NDArray[np.int64]:
        """The count at which each whole window ends."""
        return np.array(self.all_ends[: self._whole], np.int64)

    def column(self, name: str) -> Floats:
        """Return one figure of every whole window; NaN where it is not known."""
        return self.values(name)[: self._whole]

    def values(self, name: str) -> Floats:
        """Return one figure of every window, the partial one last; NaN where it is not known."""
        known = self._columns.get(name)
        return np.full(len(self.begins), np.nan) if known is None else np.array(known, np.float64)

    def lines(self, columns: Sequence[str], between: tuple[int, int], points: int) -> Lines:
        """Return columns of the whole windows that end in ``(begin, end]``, downsampled.

        Parameters
        ----------
        columns
            Such as ``dense.ne``; one that no window has a figure for is all gaps. Of none, all
            that there are.
        between
            ``begin`` and ``end``, counts of events.
        points
            As of :func:`downsample`.
        """
        begin, end = np.searchsorted(self.ends, between, side="right")
        names = columns or list(self._columns)
        chosen = {name: self.values(name)[begin:end] for name in names}
        return Lines.of(self.ends[begin:end], chosen, points)

    def rows(self) -> Iterator[WindowRow]:
        """Yield all windows in order, the partial one last."""
        for at, (begin, end) in enumerate(zip(self.begins, self.all_ends, strict=True)):
            known = {n: v[at] for n, v in self._columns.items() if not np.isnan(v[at])}
            drift = next((b.drift for b in self.bands if b.begin <= begin < b.end), ())
            yield WindowRow(begin, end, at >= self._whole, drift, known)

    def last_through(self, name: str, count: int) -> float | None:
        """Return a figure of the last whole window that ends at or before a count."""
        values = self.column(name)[: np.searchsorted(self.ends, count, "right")]
        return float(values[-1]) if len(values) and not np.isnan(values[-1]) else None

    def first_from(self, name: str, count: int) -> float | None:
        """Return a figure of the first whole window that begins at or after a count."""
        values = self.column(name)[bisect_left(self.begins, count) :]
        return float(values[0]) if len(values) and not np.isnan(values[0]) else None


class WorkerRates:
    """What one worker has reported of its progress.

    Parameters
    ----------
    first
        Its first report.

    Examples
    --------
    >>> first = Progress(
    ...     worker="dense", count=0, events=0, wall_seconds=0, waiting_for=None, time_ms=0
    ... )
    >>> rates = WorkerRates(first)
    >>> rates.add(first.model_copy(update={"events": 500, "wall_seconds": 2, "time_ms": 2_000}))
    >>> rates.lines(points=10).columns["events_per_second"]
    [None, 250.0]
    """

    COLUMNS: Final = ("count", "events_per_second", "lag_events", "lag_seconds")

    def __init__(self, first: Progress) -> None:
        self.last = first
        self._time = array("q")
        self._columns = {name: array("d") for name in self.COLUMNS}
        self.add(first)

    def add(self, report: Progress) -> None:
        """Append a report; its rate is since the last one, where the worker was not restarted."""
        before, rate = self.last, None
        passed, events = report.time_ms - before.time_ms, report.events - before.events
        if report.wall_seconds > before.wall_seconds and events >= 0 and passed > 0:
            rate = 1_000 * events / passed
        values = (report.count, rate, report.lag_events, report.lag_seconds)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(np.nan if value is None else value)
        self._time.append(report.time_ms)
        self.last = report

    def lines(self, points: int) -> Lines:
        """Return all columns over Unix time in milliseconds, downsampled."""
        columns = {name: np.array(values, np.float64) for name, values in self._columns.items()}
        return Lines.of(np.array(self._time, np.int64), columns, points)


class Grafts:
    """How the mask of the served model changed between its versions: 16 bytes a graft.

    Attributes
    ----------
    counts
        The events after which each took place, ascending.
    moved
        The share of the kept weights, over all layers, that each replaced.

    Examples
    --------
    >>> grafts = Grafts()
    >>> for count, entered in ((100, 1), (200, 3)):
    ...     change = MaskChange(
    ...         model="sparse",
    ...         count=count,
    ...         source_count=count,
    ...         mask="af",
    ...         kept={"top": 40, "bottom": 10},
    ...         entered={"top": entered, "bottom": 0},
    ...     )
    ...     grafts.add(change)
    >>> len(grafts), list(grafts.moved), grafts.mean(), grafts.between(100, 200).mean()
    (2, [0.02, 0.06], 0.04, 0.06)
    """

    def __init__(self, counts: Iterable[int] = (), moved: Iterable[float] = ()) -> None:
        self.counts, self.moved = array("q", counts), array("d", moved)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def last(self) -> int | None:
        """The count of the last one; None without one."""
        return self.counts[-1] if self.counts else None

    def add(self, change: MaskChange) -> None:
        """Append one."""
        self.counts.append(change.count)
        self.moved.append(change.moved)

    def mean(self) -> float:
        """Return the share that one moved on average; 0 without one."""
        return sum(self.moved) / max(len(self), 1)

    def between(self, begin: int, end: int) -> Grafts:
        """Return those in ``(begin, end]``.

        A graft at the count after which a version begins is one of the version before.
        """
        rows = slice(bisect_right(self.counts, begin), bisect_right(self.counts, end))
        return Grafts(self.counts[rows], self.moved[rows])


class Event(NamedTuple):
    """A message that reports something that happened, and when it was copied."""

    message: Decision | Verdict | Alarm
    time_ms: int | None = None
    """Unix time, to a few seconds; None where nobody reported the time soon before and soon
    after."""


@dataclass(frozen=True, slots=True)
class InvalidEvents:
    """The invalid events of one reason."""

    first: messages.DeadLetter
    count: int = 1


@dataclass(frozen=True, slots=True)
class FeatureShift:
    """The population stability index of one feature over the windows."""

    largest: float
    largest_end: int
    """The end of the window in which it was largest."""
    last: float


def _pooled(parts: Sequence[Interval], losses: Sequence[float]) -> Interval:
    """Put the ratios of several ranges together, and their intervals where all have one.

    >>> _pooled([Interval(mean=0.1, low=0.0, high=0.2)] * 4, [1.0] * 4)
    Interval(mean=0.1, low=0.05, high=0.15)
    """
    total = sum(losses)
    mean = sum(one.mean * loss for one, loss in zip(parts, losses, strict=True)) / total
    squares = 0.0
    for one, loss in zip(parts, losses, strict=True):
        if one.low is None or one.high is None:
            return Interval(mean=mean, low=None, high=None)
        squares += (loss * (one.high - one.low) / 2) ** 2
    half = np.sqrt(squares).item() / total
    return Interval(mean=mean, low=mean - half, high=mean + half)


@dataclass(frozen=True, slots=True)
class RangeScores:
    """The scores of all models over the same range of whole windows."""

    begin: int
    end: int
    click_rate: float
    """Weighted share of the events with a click."""
    models: dict[str, dict[str, float | None]]
    """By model ``ce``, ``ne`` and ``relative_ce``, without those that did not predict all. Where
    all events are of one kind, cross entropies near 0 are not compared."""
    bayes_ce: float | None
    """CE of the true probabilities, where they are known."""


class RunHistory:
    """Gathers the messages of a run, each key once, in the order of their logs.

    Plot, report, page, tables and the Python API look at it. What grows with the run is figures,
    not messages: some hundred bytes a window.

    Parameters
    ----------
    models
        The models that there can be.
    keeps_messages
        Whether all messages are kept too, for the Python API.

    Attributes
    ----------
    specs
        The models that there can be.
    events
        The count up to which anything is known.
    windows
        How many have closed, of all sizes.
    tables
        Windows by size.
    lifetimes
        The newest, by where they begin.
    baselines
        How simple models did on some of the events, range by range.
    workers
        The progress of each worker.
    happened
        Verdicts, alarms, and the decisions by which anything changed.
    grafts
        How the mask of the served model changed between its versions.
    letters
        How many events did not validate, neighbouring ranges in one.
    invalid
        The invalid events by reason, where the log of dead letters is read.
    shifts
        How far each feature was from the window that it is compared with.
    messages
        All of them, each once, where they are kept.

    Examples
    --------
    >>> history = RunHistory()
    >>> alarm = Alarm(
    ...     detector="click_rate",
    ...     feature=None,
    ...     count=500,
    ...     since=400,
    ...     statistic=2,
    ...     threshold=1,
    ...     reason="it fell",
    ... )
    >>> history.take(alarm), history.take(alarm), len(history.happened)
    (True, False, 1)
    """

    def __init__(
        self, models: Sequence[ModelSpec] = MODELS, *, keeps_messages: bool = False
    ) -> None:
        self.events = self.windows = 0
        self.tables: dict[int, WindowTable] = {}
        self.lifetimes: dict[int, messages.Lifetime] = {}
        self.baselines: list[messages.Baselines] = []
        self.workers: dict[str, WorkerRates] = {}
        self.happened: list[Event] = []
        self.grafts = Grafts()
        self.letters: list[messages.DeadLetters] = []
        self.invalid: dict[str, InvalidEvents] = {}
        self.shifts: dict[str, FeatureShift] = {}
        self.messages: list[AnyMessage] = []
        self.specs, self._keeps_messages = tuple(models), keeps_messages
        self._names: tuple[str, ...] = ()
        self._first = Deduplicator()
        self._time_ms: int | None = None
        self._timed = 0

    @classmethod
    def of(
        cls,
        messages: Iterable[AnyMessage],
        models: Sequence[ModelSpec] = MODELS,
        *,
        keeps_messages: bool = False,
    ) -> RunHistory:
        """Gather messages that are all there."""
        history = cls(models, keeps_messages=keeps_messages)
        for message in messages:
            history.take(message)
        return history

    @classmethod
    def read(
        cls, logs: LogStore, models: Sequence[ModelSpec] = MODELS, *, keeps_messages: bool = False
    ) -> RunHistory:
        """Gather what the logs of a run hold, without what belongs to the wall clock.

        The ledger comes first, and so do the changes of the mask: what the evaluator copied from
        them is a repeat.
        """
        history = cls(models, keeps_messages=keeps_messages)
        for name in _LOGS:
            if name in _OPTIONAL and not logs.exists(name):
                continue
            with closing(logs.reader(name)) as reader:
                for stored in read_all(reader):
                    message = messages.parse(stored.record.value)
                    if not isinstance(message, Progress):
                        history.take(message, stored.record.value)
        return history

    @property
    def is_finished(self) -> bool:
        """The input has ended and everything about it is written, as far as the workers say."""
        done = {name: rates.last.done for name, rates in self.workers.items()}
        # The evaluator is done once the input has ended, and all of it is scored and decided.
        return done.get("evaluator", False) or (bool(done) and all(done.values()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the windows of which there is a whole one."""
        return tuple(sorted(size for size, table in self.tables.items() if len(table)))

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The models that windows name, the root first."""
        return tuple(find_model(name, self.specs) for name in self._names)

    @property
    def root(self) -> ModelSpec:
        """The model that the others are compared with."""
        return find_model(model_of("root", self.specs), self.specs)

    @property
    def served(self) -> ModelSpec:
        """The model that a candidate must be better than."""
        return find_model(model_of("served", self.specs), self.specs)

    @property
    def bands(self) -> list[Band]:
        """Ranges of true drift, by the smallest windows."""
        return self.tables[min(self.tables)].bands if self.tables else []

    @property
    def verdicts(self) -> list[Verdict]:
        """How the rebuilds ended, in order."""
        return [event.message for event in self.happened if isinstance(event.message, Verdict)]

    @property
    def rollbacks(self) -> list[Decision]:
        """The decisions to roll back, in order."""
        decisions = (e.message for e in self.happened if isinstance(e.message, Decision))
        return [one for one in decisions if one.rollback is not None]

    @property
    def start(self) -> int | None:
        """The count after which the first mask serves; None if it never did."""
        return next((one.count for one in self.promoted), None)

    @property
    def promoted(self) -> list[Verdict]:
        """The rebuilds whose masks took over, in order."""
        return [one for one in self.verdicts if one.verdict == "promoted"]

    @property
    def versions(self) -> list[tuple[int, int]]:
        """The count after which each version of the served model begins, and its number, in order.

        Without those whose beginning the input did not come to.
        """
        begun = [(one.count, one.version) for one in self.promoted]
        backs = [one.rollback for one in self.rollbacks]
        begun += [(one.count, one.version) for one in backs if one and one.count <= self.events]
        return sorted((count, version) for count, version in begun if version is not None)

    def superseded(self, verdict: Verdict) -> bool:
        """Tell whether a rebuild was open at a rollback: nothing happened at its end."""
        decided = verdict.rebuild.decided
        return any(decided < one.count <= verdict.count for one in self.rollbacks)

    def gap(self, begin: int, end: int) -> Gap | None:
        """Sum up what the served model lost to the root, over the smallest windows in a range.

        Parameters
        ----------
        begin, end
            Counts; a window that reaches beyond either is left out.

        Returns
        -------
        None where no window of the range has both models.
        """
        table = self.tables[min(self.tables)] if self.tables else WindowTable()
        rows = slice(bisect_left(table.begins, begin), bisect_right(table.all_ends, end))
        weight = table.values("weight")[rows]
        root, served = (
            weight * table.values(f"{model.name}.ce")[rows] for model in (self.root, self.served)
        )
        known = ~np.isnan(root + served)
        lost, there = float((served - root)[known].sum()), float(root[known].sum())
        return Gap(lost / there, lost) if there else None

    def simple(self, begin: int) -> SimpleScores | None:
        r"""Compare all models with the simple ones, over what begins at or after a count.

        With r the ratio of one range and b the baseline's loss there, those of several ranges are
        put together as

        .. math:: \frac{\sum b r}{\sum b}, \qquad
            \operatorname{var} = \frac{\sum b^2 \operatorname{var} r}{(\sum b)^2}

        Returns
        -------
        None where there is nothing to compare. Models that lack a part are left out.
        """
        parts = [one for one in self.baselines if one.begin >= begin]
        if not parts:
            return None
        weight = sum(one.weight for one in parts)
        ces, relative = {}, {}
        for name in parts[0].models:
            if all(name in one.models for one in parts):
                ces[name] = sum(one.weight * one.models[name] for one in parts) / weight
        models = tuple(ces)
        for name in parts[0].baselines:
            losses = [one.weight * one.baselines[name].ce for one in parts]
            ces[name] = sum(losses) / weight
            relative[name] = {
                model: _pooled([one.baselines[name].relative[model] for one in parts], losses)
                for model in models
            }
        events, clicks = sum(one.events for one in parts), sum(one.clicks for one in parts)
        first, last = parts[0], parts[-1]
        where = first.begin, last.end, events, clicks / weight
        return SimpleScores(*where, ces, relative)

    def thresholds(self, size: int, rise: float) -> list[Threshold]:
        """Return the lines above which the served model counts as having fallen behind.

        The level is the least relative cross entropy of the windows since the last switch. The
        trigger ``divergence`` takes the mean of several windows for it where one is too noisy, and
        asks that the rise exceeds the noise, too: so it may start a rebuild where windows are above
        the line, and none where they all are below.

        Parameters
        ----------
        size
            Of the windows that are decided on, events.
        rise
            ``trigger.threshold``.
        """
        table = self.tables.get(size, WindowTable())
        column = table.column(f"{self.served.name}.relative_ce").tolist()
        switches = sorted(
            [one.count for one in self.promoted]
            + [one.rollback.count for one in self.rollbacks if one.rollback]
        )
        found: list[Threshold] = []
        since, level = -1, np.inf
        for begin, end, value in zip(table.begins, table.ends.tolist(), column, strict=False):
            now = bisect_right(switches, begin)
            if not now or np.isnan(value):
                continue
            level = min(level, value) if now == since else value
            last = found[-1] if found else None
            if now == since and last and last.value == level + rise:
                found[-1] = replace(last, end=end)
            else:
                found.append(Threshold(begin, end, level + rise))
            since = now
        return found

    def take(self, message: AnyMessage, value: bytes | None = None) -> bool:
        """Take a message in; a repeat is passed over, and gives False.

        Parameters
        ----------
        message
            The next one of its log.
        value
            Its bytes, where they are known.
        """
        if isinstance(message, Progress):
            self._report(message)
            return True
        if not self._first.accept(message.key, messages.dump(message) if value is None else value):
            return False
        if self._keeps_messages:
            self.messages.append(message)
        self._take(message)
        return True

    def of_kind(self, kind: type[M]) -> tuple[M, ...]:
        """Return all messages of one kind, in order, where they are kept."""
        return tuple(one for one in self.messages if isinstance(one, kind))

    def complete(self, last: Progress) -> None:
        """Take in the last report of a worker, where the log lacks it.

        The evaluator cannot copy the reports of those who end after it.
        """
        known = self.workers.get(last.worker)
        if known is None or known.last != last:
            self._report(last)

    def scores(self, begin: int, min_clicks: int = 10) -> RangeScores | None:
        """Score all models over the smallest windows that begin at or after a count.

        Parameters
        ----------
        begin
            The count.
        min_clicks
            A normalised entropy stays empty with fewer clicks than this, or fewer other events.

        Returns
        -------
        None without a window.
        """
        table = self.tables[min(self.tables)] if self.tables else WindowTable()
        first = bisect_left(table.begins, begin)
        if first == len(table.begins):
            return None
        begin, end = table.begins[first], table.all_ends[-1]
        weights = table.values("weight")[first:]
        weight, clicks = float(weights.sum()), float(table.values("clicks")[first:].sum())
        # Where events differ in weight, the number clicked is estimated by the rate.
        on = EventSums(end - begin, round((end - begin) * clicks / weight), weight, clicks)

        def mean(column: str) -> float | None:
            total = float((weights * table.values(column)[first:]).sum()) / weight
            return None if np.isnan(total) else total

        root = mean(f"{self._names[0]}.ce")
        models: dict[str, dict[str, float | None]] = {}
        for name in self._names:
            if (ce := mean(f"{name}.ce")) is None:
                continue
            known = not np.isnan(table.values(f"{name}.ne")[first:]).all()
            is_defined = known or on.has_both(min_clicks)
            ne = normalized_entropy(ce, on.click_rate) if is_defined else None
            models[name] = {"ce": ce, "ne": ne}
            if name != self._names[0]:
                is_comparable = root and 0 < on.click_rate < 1
                models[name]["relative_ce"] = ce / root - 1 if root and is_comparable else None
        return RangeScores(begin, end, on.click_rate, models, mean("bayes_ce"))

    def whole_and_last_half(
        self, min_clicks: int = 10
    ) -> tuple[RangeScores | None, RangeScores | None]:
        """Score all models since the first mask took over, and over the last half of these events.

        Without a first mask that is since the first event.
        """
        whole = self.scores(self.start or 0, min_clicks)
        if whole is None:
            return None, None
        return whole, self.scores((whole.begin + whole.end + 1) // 2, min_clicks)

    def _take(self, message: AnyMessage) -> None:
        match message:
            case Window():
                self.events, self._names = max(self.events, message.end), tuple(message.models)
                table = self.tables.setdefault(message.size, WindowTable())
                self.windows += 1 - table.is_partial
                table.add(message)
            case messages.Lifetime() | messages.Baselines():
                self._keep_scores(message)
            case Stability():
                self._shift(message)
            case Verdict() | Alarm():
                self.happened.append(Event(message))
            case Decision() if message.rebuild or message.rollback or message.declined:
                self.happened.append(Event(message))
            case MaskChange() if message.model == self.served.name:
                self.grafts.add(message)
            case messages.DeadLetters() | messages.DeadLetter():
                self._skip(message)

    def _keep_scores(self, message: messages.Lifetime | messages.Baselines) -> None:
        """Keep the newest lifetime since each beginning, and every comparison."""
        if isinstance(message, messages.Lifetime):
            self.lifetimes[message.begin] = message
        else:
            self.baselines.append(message)

    def _report(self, progress: Progress) -> None:
        """Take in a report, whose time is also that of what has happened since the last one."""
        if self._time_ms is not None and abs(progress.time_ms - self._time_ms) <= _SOON_MS:
            new = self.happened[self._timed :]
            self.happened[self._timed :] = [e._replace(time_ms=progress.time_ms) for e in new]
        self._timed, self._time_ms = len(self.happened), progress.time_ms
        if progress.worker in self.workers:
            self.workers[progress.worker].add(progress)
        else:
            self.workers[progress.worker] = WorkerRates(progress)

    def _shift(self, message: Stability) -> None:
        """Keep the largest index of each feature, and of each window."""
        table = self.tables.get(message.end - message.begin)
        if table is not None and message.psi:
            table.amend(message.end, PSI, max(message.psi.values()))
        for feature, psi in message.psi.items():
            known = self.shifts.get(feature, FeatureShift(psi, 0, psi))
            largest, end = max((psi, message.end), (known.largest, known.largest_end))
            self.shifts[feature] = FeatureShift(largest, end, psi)

    def _skip(self, message: messages.DeadLetters | messages.DeadLetter) -> None:
        """Count invalid events, together with those of a range that ends where this one begins."""
        if isinstance(message, messages.DeadLetter):
            known = self.invalid.get(message.reason, InvalidEvents(message, 0))
            self.invalid[message.reason] = replace(known, count=known.count + 1)
            return
        if self.letters and self.letters[-1].count == message.begin:
            last = self.letters.pop()
            reasons = dict(Counter(last.reasons) + Counter(message.reasons))
            message = messages.DeadLetters(begin=last.begin, count=message.count, reasons=reasons)
        self.letters.append(message)
