"""Drift alarms: what the windows of one size, and the clicks in them, say has changed.

Detectors are fed one figure a window, in order, so an alarm follows from the clicks and the
predictions alone. What a detector knows is the figures that it was fed since it was made: a
checkpoint holds these, and a restarted evaluator feeds them to it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, stdtrit

from evaluator.config import EvaluatorConfig
from evaluator.metrics.metric import ArraySums, Ints
from evaluator.metrics.relative_ce import CONFIDENCE
from stream import ClickBatch, FeatureSchema, RunSpec, find_model
from stream.messages import Alarm, DetectorName, Stability, Window

MAX_FIGURES: Final = 1_000
"""With more, a detector is made anew with the last half of them."""
_SHORTEST: Final = 5
"""Figures that ADWIN wants on either side of a change."""
_GRACE: Final = 10
"""Figures before any change is looked for."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was found in a series."""

    at: int
    """Figures before it began."""
    before: float
    """Mean of these."""
    after: float
    """Mean of those since."""
    statistic: float
    threshold: float

    @property
    def rose(self) -> bool:
        """Tell whether the figures are larger since."""
        return self.after > self.before


class Adwin:
    r"""River's ADWIN: looks for a cut such that the means before and after it differ.

    They do where they are further apart than

    .. math:: \sqrt{2 m v \delta'} + \tfrac{2}{3} m \delta', \qquad
        m = \frac{1}{n_0 - 4} + \frac{1}{n_1 - 4}, \quad \delta' = \ln \frac{2 \ln n}{\delta}

    with n₀ figures before and n₁ after, at least 5 each, v the variance of all n. The second term
    wants figures that spread by about 1, so they are divided by their scatter: that of the first
    ten, by the mean distance of neighbours, which a slope does not widen.

    Parameters
    ----------
    delta
        Chance of a false alarm.

    Examples
    --------
    >>> adwin, values = Adwin(delta=0.002), [1.0, 1.2, 0.9, 1.1] * 5 + [2.0, 2.2, 1.9, 2.1] * 5
    >>> found = [adwin.update(value) for value in values]
    >>> found.index(True)
    33
    >>> change = adwin.change(values[:34])
    >>> change.at, change.before, change.after
    (20, 1.05, 2.05)

    References
    ----------
    Bifet and Gavaldà, Learning from time-changing data with adaptive windowing, SDM 2007.
    """

    def __init__(self, delta: float) -> None:
        self._delta = delta
        # River takes seconds to load, and only an evaluator needs it.
        from river.drift import ADWIN

        make: Callable[..., Any] = ADWIN
        self._adwin = make(delta=delta, clock=1, min_window_length=_SHORTEST, grace_period=_GRACE)
        self._first: list[float] = []
        self._scatter: float | None = None

    def update(self, value: float) -> bool:
        """Take in a figure, and tell whether there has been a change."""
        if self._scatter is None:
            self._first.append(value)
            if len(self._first) == _GRACE:
                self._scatter = _scatter(self._first)
                for one in self._first:
                    self._adwin.update(one / self._scatter)
            return False
        self._adwin.update(value / self._scatter)
        return bool(self._adwin.drift_detected)

    def change(self, values: Sequence[float]) -> Change:
        """Let the change begin where the means differ most, measured by their standard errors.

        The statistic is of the cut that ADWIN likes best, which leaves at least 5 on either side.
        """
        scaled = np.array(values) / _scatter(values[:_GRACE])
        n, sums = len(scaled), np.cumsum(scaled)
        before = np.arange(1, n)
        after = n - before
        apart = np.abs((sums[-1] - sums[:-1]) / after - sums[:-1] / before)
        at = int((apart / np.sqrt(1 / before + 1 / after)).argmax()) + 1
        cuts = slice(_SHORTEST - 1, n - _SHORTEST)
        inverse = 1 / (before[cuts] - _SHORTEST + 1) + 1 / (after[cuts] - _SHORTEST + 1)
        log = math.log(2 * math.log(n) / self._delta)
        least = np.sqrt(2 * inverse * scaled.var() * log) + 2 / 3 * inverse * log
        best = int((apart[cuts] - least).argmax())
        return Change(at, *_means(values, at), float(apart[cuts][best]), float(least[best]))


class PageHinkley:
    r"""River's test of Page and Hinkley: finds when rises above the mean so far have added up.

    .. math:: S_t = \sum_{i \le t} (x_i - \bar x_i - \alpha), \qquad
        S_t - \min_{i \le t} S_i > \lambda

    with :math:`\bar x_i` the mean of the first i figures, all in units of ``error``. On figures
    that scatter independently, by 1, α = 0.5 and λ = 10 give 7 false alarms in a million.

    Parameters
    ----------
    error
        Standard error of one figure.
    tolerance
        α.
    threshold
        λ.

    Examples
    --------
    >>> test, values = PageHinkley(0.1, 0.5, 10.0), [0.5, 0.6, 0.4] * 5 + [0.9, 1.0, 0.8] * 5
    >>> found = [test.update(value) for value in values]
    >>> found.index(True), test.change(values[:19])
    (18, Change(at=15, before=0.5, after=0.9, statistic=11.7, threshold=10.0))

    References
    ----------
    Page, Continuous inspection schemes, Biometrika 1954.
    """

    def __init__(self, error: float, tolerance: float, threshold: float) -> None:
        from river.drift import PageHinkley as RiverPageHinkley

        self._error, self._tolerance, self._threshold = error, tolerance, threshold
        self._test: Any = RiverPageHinkley(
            min_instances=_GRACE, delta=tolerance, threshold=threshold, alpha=1.0, mode="up"
        )

    def update(self, value: float) -> bool:
        """Take in a figure, and tell whether they have risen."""
        self._test.update(value / self._error)
        return bool(self._test.drift_detected)

    def change(self, values: Sequence[float]) -> Change:
        """Let the change begin where the rises began to add up."""
        scaled = np.array(values) / self._error
        means = np.cumsum(scaled) / np.arange(1, len(scaled) + 1)
        sums = np.cumsum(scaled - means - self._tolerance)
        at = int(sums.argmin()) + 1
        return Change(at, *_means(values, at), float(sums[-1] - sums.min()), self._threshold)


Detector = Adwin | PageHinkley
"""Looks at one figure after the other."""


def _scatter(values: Sequence[float]) -> float:
    """Return the standard deviation of single figures; 1 where they are all the same."""
    # The mean distance of two normal figures is 2 / √π standard deviations.
    return float(np.abs(np.diff(values)).mean()) / 1.128 or 1.0


def _means(values: Sequence[float], at: int) -> tuple[float, float]:
    """Return the means before and after a cut."""
    return float(np.mean(values[:at])), float(np.mean(values[at:]))


FREQUENT: Final = 19
"""Buckets of a category in a group of their own."""
TENTHS: Final = 10
FALSE_ALARM: Final = 1e-6
"""How often chance alone lifts the index of one feature in one window over the threshold."""
SAMPLE: Final = 1_000
"""About so many events of a window are compared, evenly spaced: chance then leaves the index of 20
groups below 0.13, and comparing them costs next to nothing."""


def population_stability(reference: Ints, current: Ints) -> float:
    r"""Return the population stability index of two samples that were sorted into groups.

    .. math:: \sum_g (q_g - p_g) \ln \frac{q_g}{p_g}, \qquad
        p_g = \frac{c_g + 1/2}{\sum_h c_h + G/2}

    with q likewise of the current counts; the half counts keep it finite. By the custom of credit
    scoring 0.1 is a moderate change and 0.25 a major one: of a normal feature, a shift of its mean
    by 0.32 and by 0.5 standard deviations.

    Parameters
    ----------
    reference, current
        Shape (groups,), counts.

    Returns
    -------
    Nats, 0 or more; the same if both are exchanged.

    Examples
    --------
    >>> population_stability(np.array([500, 500]), np.array([500, 500]))
    0.0
    >>> population_stability(np.array([500, 500]), np.array([700, 300]))
    0.169
    """
    before, now, half = reference.tolist(), current.tolist(), len(reference) / 2
    n, m = sum(before) + half, sum(now) + half
    shares = [((b + 0.5) / n, (c + 0.5) / m) for b, c in zip(before, now, strict=True)]
    return float(sum((q - p) * math.log(q / p) for p, q in shares))


def chance(reference: int, current: int, groups: int) -> float:
    r"""Return what the index exceeds by chance once in a million samples of one distribution.

    It is :math:`(1 / n + 1 / m) \chi^2_{G - 1}` for samples of n and m events in G groups.

    Examples
    --------
    >>> chance(10_000, 10_000, 20)
    0.0127

    References
    ----------
    Yurdakul, Statistical properties of population stability index, Western Michigan University
    2018.
    """
    return float(chdtri(max(groups - 1, 1), FALSE_ALARM)) * (1 / reference + 1 / current)


@dataclass(frozen=True, slots=True)
class Shift:
    """How far one feature is from what it was."""

    feature: str
    psi: float
    threshold: float
    """Above it the feature has drifted: the one asked for, or more in small windows."""
    begin: int
    end: int
    """The window that it is compared with."""

    @property
    def has_drifted(self) -> bool:
        """Tell whether that is too far."""
        return self.psi > self.threshold


@dataclass(frozen=True, slots=True)
class Reference:
    """One feature in the window that later ones are compared with."""

    groups: ArraySums
    """Of numbers the upper bounds, of categories the buckets of all groups but the last;
    ascending."""
    counts: ArraySums
    """Shape (groups,)."""
    end: int


@dataclass(frozen=True, slots=True)
class StabilityState:
    """All that is known, for a checkpoint."""

    references: tuple[Reference | None, ...]
    """By feature; None until a window has ended since the start, or since it drifted."""
    numeric: ArraySums
    """Shape (n, numeric features), the sample of the open window."""
    categorical: ArraySums
    """Shape (n, categorical columns)."""
    events: int = 0
    """In the open window."""


class InputComparison:
    """Compares the features of each window with those of an earlier one, by their stability index.

    Values are counted in groups that are chosen from the window to compare with: numbers by its
    tenths, categories by its most frequent buckets, the rest together. A feature that has drifted
    is compared from then on with what it has become.

    Parameters
    ----------
    schema
        Of the clicks. Every value of a feature with several counts, and so do empty places.
    window_events
        The size of the windows.
    threshold
        The index above which a feature has drifted.
    state
        Where to continue; None begins with the first event.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        window_events: int,
        threshold: float,
        state: StabilityState | None = None,
    ) -> None:
        self._names, self._first_category = schema.names, schema.numeric_count
        self._columns = [slice(at, at + 1) for at in range(schema.numeric_count)]
        self._columns += [schema.columns_of(feature.name) for feature in schema.categorical]
        self._step, self._threshold = max(window_events // SAMPLE, 1), threshold
        none = ClickBatch.empty(schema.numeric_count, schema.column_count)
        self._empty = (none.numeric, none.categorical)
        self._references: list[Reference | None] = [None] * len(self._names)
        self._events, self._sample = 0, [self._empty]
        if state is not None:
            self._references, self._events = list(state.references), state.events
            self._sample = [(state.numeric.values, state.categorical.values)]

    @property
    def state(self) -> StabilityState:
        """All that it knows, for a checkpoint."""
        numeric, categorical = self._sampled()
        parts = ArraySums(numeric), ArraySums(categorical)
        return StabilityState(tuple(self._references), *parts, self._events)

    def add(self, clicks: ClickBatch) -> None:
        """Take in a batch."""
        rows = slice(-self._events % self._step, None, self._step)
        self._sample.append((clicks.numeric[rows].copy(), clicks.categorical[rows].copy()))
        self._events += len(clicks)

    def close(self, end: int) -> tuple[Shift, ...]:
        """End a window; return every feature's distance from what it was, if that is known."""
        found = []
        parts = self._sampled()
        events = len(parts[0])
        for at, feature in enumerate(self._names):
            is_number, known = at < self._first_category, self._references[at]
            values = parts[not is_number][:, self._columns[at]].ravel()
            if known is None:
                groups = _groups(values, is_number)
                counts = _count(values, groups, is_number)
                self._references[at] = Reference(ArraySums(groups), ArraySums(counts), end)
                continue
            counts = _count(values, known.groups.values, is_number)
            psi = population_stability(known.counts.values, counts)
            least = max(self._threshold, chance(events, events, len(counts)))
            found.append(Shift(feature, psi, least, known.end - self._events, known.end))
            if found[-1].has_drifted:
                self._references[at] = None
        self._events, self._sample = 0, [self._empty]
        return tuple(found)

    def _sampled(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        numeric, categorical = zip(*self._sample, strict=True)
        return np.concatenate(numeric), np.concatenate(categorical)


def _groups(values: NDArray[Any], is_number: bool) -> NDArray[Any]:
    """Return what values are sorted by, ascending.

    Of numbers that is the upper bounds of the tenths, and one below all values; of categories the
    most frequent buckets, of those as frequent the lower ones.
    """
    if is_number:
        tenths = np.quantile(values, np.arange(1, TENTHS) / TENTHS, method="inverted_cdf")
        return np.unique([np.nextafter(values.min(), values.dtype.type(-np.inf)), *tenths])
    bucket, times = np.unique_counts(values)
    return np.sort(bucket[np.lexsort((bucket, -times))[:FREQUENT]])


def _count(values: NDArray[Any], groups: NDArray[Any], is_number: bool) -> Ints:
    """Count the values in each group, shape (groups + 1,)."""
    place = np.searchsorted(groups, values)
    if not is_number:
        place[groups.take(place, mode="clip") != values] = len(groups)
    return np.bincount(place, minlength=len(groups) + 1)


@dataclass(frozen=True, slots=True)
class SeriesState:
    """The figures that a detector was fed since it was made."""

    ends: tuple[int, ...] = ()
    """Of the windows that they are of."""
    values: tuple[float, ...] = ()
    error: float | None = None
    """Standard error of one figure, where the detector needs it."""
    version: int | None = None
    """The version that the figures are of, where each has a series of its own."""


_NEW: Final = SeriesState()


@dataclass(frozen=True, slots=True)
class AlarmsState:
    """All that alarms know, for a checkpoint."""

    series: dict[DetectorName, SeriesState] = field(default_factory=dict)
    stability: StabilityState | None = None


class Series:
    """Figures, one a window, and the detector that they are fed to.

    After a change it continues with the figures since; with a new version it begins anew.

    Parameters
    ----------
    make
        Makes a new detector, given the standard error of one figure.
    state
        What it begins with.
    """

    state: SeriesState

    def __init__(self, make: Callable[[float | None], Detector], state: SeriesState) -> None:
        self._make = make
        self._begin(state)

    def add(self, end: int, value: float, begins: SeriesState) -> tuple[int, Change] | None:
        """Take in the figure of a window.

        Parameters
        ----------
        end
            Of the window.
        value
            The figure.
        begins
            A series that would begin with it: of which standard error and version.

        Returns
        -------
        None, or the end of the last window before a change, and the change.
        """
        if not self.state.values or begins.version != self.state.version:
            self._begin(begins)
        ends, values = (*self.state.ends, end), (*self.state.values, value)
        self.state = replace(self.state, ends=ends, values=values)
        found, dropped = None, MAX_FIGURES // 2 if len(values) > MAX_FIGURES else 0
        if self._detector.update(value):
            change = self._detector.change(values)
            found, dropped = (ends[change.at - 1], change), change.at
        if dropped:
            # The last figure says how much the others scatter.
            ends, values = ends[dropped:], values[dropped:]
            self._begin(replace(self.state, ends=ends, values=values, error=begins.error))
        return found

    def _begin(self, state: SeriesState) -> None:
        """Make a detector that knows what the state says."""
        self.state, self._detector = state, self._make(state.error)
        for value in state.values:
            self._detector.update(value)


class Alarms:
    """Looks at the windows of one size, and at the clicks in them.

    - ``dense_loss``: the normalised entropy of the root has risen, by ADWIN; it learns, so a fall
      is not an alarm. A swing of the click rate alone does not move it.
    - ``relative_loss``: the relative CE of the served model has risen since its version took over,
      by the test of Page and Hinkley.
    - ``click_rate``: it has risen or fallen, by ADWIN.
    - ``input``: a feature is distributed otherwise than it was, by its population stability index.

    Parameters
    ----------
    config
        Which detectors there are, and how sensitive they are.
    spec
        The features of the clicks, and the roles of the models.
    state
        Where to continue; None begins with the first event.
    """

    def __init__(
        self, config: EvaluatorConfig, spec: RunSpec, state: AlarmsState | None = None
    ) -> None:
        alarms, self._size, self._spec = config.alarms, config.alarm_events, spec
        state = state or AlarmsState()

        def adwin(_: float | None) -> Detector:
            return Adwin(alarms.adwin_delta)

        def page_hinkley(error: float | None) -> Detector:
            tolerance, threshold = alarms.page_hinkley_tolerance, alarms.page_hinkley_threshold
            return PageHinkley(error or 1.0, tolerance, threshold)

        root, served = (find_model(one, spec.models).label for one in (spec.root, spec.served))
        self._texts: dict[DetectorName, str] = {
            "dense_loss": f"normalised entropy of {root}",
            "relative_loss": f"CE of {served} against {root}",
            "click_rate": "click rate",
        }
        self._series: dict[DetectorName, Series] = {}
        for name in self._texts:
            if name in alarms.detectors:
                make = page_hinkley if name == "relative_loss" else adwin
                self._series[name] = Series(make, state.series.get(name, SeriesState()))
        self._input: InputComparison | None = None
        if "input" in alarms.detectors:
            threshold = alarms.psi_threshold
            self._input = InputComparison(spec.schema, self._size, threshold, state.stability)

    @property
    def state(self) -> AlarmsState:
        """All that it knows, for a checkpoint."""
        series = {name: one.state for name, one in self._series.items()}
        return AlarmsState(series, self._input.state if self._input else None)

    def add(self, clicks: ClickBatch) -> None:
        """Take in the features of a batch, before the windows that it closes."""
        if self._input is not None:
            self._input.add(clicks)

    def close(self, closed: Sequence[Window]) -> tuple[tuple[Stability, ...], tuple[Alarm, ...]]:
        """Take in the windows that were closed; return the stability of the input, and alarms."""
        stability: list[Stability] = []
        alarms: list[Alarm] = []
        for window in closed:
            if window.size != self._size or window.partial:
                continue
            alarms += self._changes(window)
            shifts = self._input.close(window.end) if self._input else ()
            if shifts:
                psi = {shift.feature: shift.psi for shift in shifts}
                stability.append(Stability(begin=window.begin, end=window.end, psi=psi))
            alarms += [_input_alarm(window, shift) for shift in shifts if shift.has_drifted]
        return tuple(stability), tuple(alarms)

    def _changes(self, window: Window) -> Iterator[Alarm]:
        """Feed the detectors, and yield their alarms.

        A window that a swap falls into says nothing of the relative CE.
        """
        root, served = self._spec.root, self._spec.served
        entropy = window.metric(root, "ne")
        if entropy is not None:
            yield from self._feed("dense_loss", window.end, entropy)
        score, relative = window.models.get(served), window.interval(served, "relative_ce")
        if score and len(score.versions) == 1 and relative and relative.high is not None:
            half_width = float(stdtrit(window.size - 1, (1 + CONFIDENCE) / 2))
            error = (relative.high - relative.mean) / half_width
            if error:
                begins = SeriesState(error=error, version=score.versions[0])
                yield from self._feed("relative_loss", window.end, relative.mean, begins)
        yield from self._feed("click_rate", window.end, window.click_rate)

    def _feed(
        self, name: DetectorName, end: int, value: float, begins: SeriesState = _NEW
    ) -> Iterator[Alarm]:
        """Give the figure of a window to a detector, if it is there; yield the alarm it raises."""
        found = self._series[name].add(end, value, begins) if name in self._series else None
        if found is None or not (found[1].rose or name == "click_rate"):
            return
        since, change = found
        verb = "rose" if change.rose else "fell"
        how, test = ("+.3%", "Page-Hinkley") if name == "relative_loss" else (".4f", "ADWIN")
        before, after = (f"{one:{how}}".replace("%", " %") for one in (change.before, change.after))
        yield Alarm(
            detector=name,
            feature=None,
            count=end,
            since=since,
            statistic=change.statistic,
            threshold=change.threshold,
            reason=f"{self._texts[name]} {verb} from {before} to {after} after {since:,} events; "
            f"{test}: {change.statistic:.2f} over {change.threshold:.2f}",
        )


def _input_alarm(window: Window, shift: Shift) -> Alarm:
    return Alarm(
        detector="input",
        feature=shift.feature,
        count=window.end,
        since=window.begin,
        statistic=shift.psi,
        threshold=shift.threshold,
        reason=f"{shift.feature} is not distributed as in the events {shift.begin + 1:,} to "
        f"{shift.end:,}; population stability index: {shift.psi:.3f} over {shift.threshold:.3f}",
    )
