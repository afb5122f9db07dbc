"""Drift alarms: what the windows of one size say has changed, each with its reason in words.

Detectors are fed one figure a window, in order, so an alarm follows from the clicks and the
predictions alone. What a detector knows is the figures that it was fed since it was begun: a
checkpoint holds these, and a restarted evaluator feeds them to it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from scipy.special import stdtrit

from evaluator.config import DENSE, INCUMBENT, AlarmsConfig, EvaluatorConfig
from evaluator.detectors import Adwin, Change, Detector, PageHinkley
from evaluator.metrics.interval import CONFIDENCE
from evaluator.stability import InputWatch, Shift, StabilityState
from stream.batch import ClickBatch
from stream.messages import Alarm, DetectorName, Stability, Window
from stream.schema import FeatureSchema

MOST_FIGURES: Final = 1_000
"""With more, a detector is begun anew with the last half of them."""


@dataclass(frozen=True, slots=True)
class SeriesState:
    """The figures that a detector was fed since it was begun."""

    ends: tuple[int, ...] = ()
    """Of the windows that they are of."""
    values: tuple[float, ...] = ()
    error: float | None = None
    """Standard error of one figure, where the detector asks for it."""
    version: int | None = None
    """The version that the figures are of, where each has a series of its own."""


@dataclass(frozen=True, slots=True)
class AlarmsState:
    """All that alarms know, for a checkpoint."""

    series: dict[DetectorName, SeriesState] = field(default_factory=dict)
    stability: StabilityState | None = None


class Figure(NamedTuple):
    """What one window says."""

    value: float
    error: float | None = None
    """Its standard error, where the detector asks for it."""
    version: int | None = None
    """The version that it is of, where each has a series of its own."""


Make = Callable[[float | None], Detector]
"""Makes a new detector, given the standard error of one figure."""


class Series:
    """Figures, one a window, and the detector that they are fed to.

    Behind a change it goes on with the figures since; with a new version it begins anew.

    Parameters
    ----------
    make
        Makes the detectors.
    state
        What it begins with.
    """

    state: SeriesState

    def __init__(self, make: Make, state: SeriesState) -> None:
        self._make = make
        self.state, self._detector = state, self._begun(state)

    def add(self, end: int, figure: Figure) -> tuple[int, Change] | None:
        """Take in the figure of the window ending at ``end``.

        Returns
        -------
        None, or the end of the last window before a change, and the change.
        """
        if not self.state.values or figure.version != self.state.version:
            self._go_on(SeriesState(error=figure.error, version=figure.version))
        ends, values = (*self.state.ends, end), (*self.state.values, figure.value)
        self.state = replace(self.state, ends=ends, values=values)
        if self._detector.update(figure.value):
            change = self._detector.change(values)
            self._cut(change.at, figure)
            return ends[change.at - 1], change
        if len(values) > MOST_FIGURES:
            self._cut(MOST_FIGURES // 2, figure)
        return None

    def _cut(self, at: int, last: Figure) -> None:
        """Begin anew without the first figures, the last one saying how much they scatter."""
        old = self.state
        ends, values = old.ends[at:], old.values[at:]
        self._go_on(replace(old, ends=ends, values=values, error=last.error))

    def _go_on(self, state: SeriesState) -> None:
        self.state, self._detector = state, self._begun(state)

    def _begun(self, state: SeriesState) -> Detector:
        """Make a detector that knows what the state says."""
        detector = self._make(state.error)
        for value in state.values:
            detector.update(value)
        return detector


class Alarms:
    """Listens to the windows of one size, and to the clicks in them.

    - ``dense_loss``: the normalised entropy of the dense model has risen, by ADWIN; it learns, so
      that it falls is no alarm. A swing of the click rate alone does not move it.
    - ``relative_loss``: the relative CE of the sparse model has risen since its version took over,
      by the test of Page and Hinkley.
    - ``click_rate``: it has risen or fallen, by ADWIN.
    - ``input``: a feature is distributed otherwise than it was, by its population stability index.

    Parameters
    ----------
    config
        Which listen, and how closely.
    schema
        Of the clicks.
    state
        Where to go on; None begins with the first event.
    """

    def __init__(
        self, config: EvaluatorConfig, schema: FeatureSchema, state: AlarmsState | None = None
    ) -> None:
        self._config, self._size = config.alarms, config.alarm_events
        state = state or AlarmsState()
        self._series = {
            name: Series(make, state.series.get(name, SeriesState()))
            for name, make in _makers(self._config).items()
            if name in self._config.detectors
        }
        self._input: InputWatch | None = None
        if "input" in self._config.detectors:
            threshold = self._config.psi_threshold
            self._input = InputWatch(schema, self._size, threshold, state.stability)

    @property
    def state(self) -> AlarmsState:
        """All that it knows, for a checkpoint."""
        series = {name: one.state for name, one in self._series.items()}
        return AlarmsState(series, self._input.state if self._input else None)

    def look(self, clicks: ClickBatch) -> None:
        """Take in the features of a batch, before the windows that it closes."""
        if self._input is not None:
            self._input.add(clicks)

    def listen(self, closed: Sequence[Window]) -> tuple[tuple[Stability, ...], tuple[Alarm, ...]]:
        """Take in the windows that were closed; return the stability of the input, and alarms."""
        stability: list[Stability] = []
        alarms: list[Alarm] = []
        for window in closed:
            if window.size != self._size or window.partial:
                continue
            alarms += self._heard(window)
            shifts = self._input.close(window.end) if self._input else ()
            if shifts:
                psi = {shift.feature: shift.psi for shift in shifts}
                stability.append(Stability(begin=window.begin, end=window.end, psi=psi))
            alarms += [_drifted(window, shift) for shift in shifts if shift.has_drifted]
        return tuple(stability), tuple(alarms)

    def _heard(self, window: Window) -> Iterator[Alarm]:
        """Feed every detector its figure, and yield what it has found."""
        for name, series in self._series.items():
            figure = _FIGURES[name](window)
            found = series.add(window.end, figure) if figure else None
            if found and (found[1].rose or name == "click_rate"):
                yield _changed(window, name, *found)


def _makers(config: AlarmsConfig) -> dict[DetectorName, Make]:
    """Say how the detector of each series is made."""

    def page_hinkley(error: float | None) -> Detector:
        tolerance, threshold = config.page_hinkley_tolerance, config.page_hinkley_threshold
        return PageHinkley(error or 1.0, tolerance, threshold)

    def adwin(error: float | None) -> Detector:
        return Adwin(config.adwin_delta)

    return {"dense_loss": adwin, "relative_loss": page_hinkley, "click_rate": adwin}


def _dense_loss(window: Window) -> Figure | None:
    score = window.models.get(DENSE)
    return None if score is None or score.ne is None else Figure(score.ne)


def _relative_loss(window: Window) -> Figure | None:
    """Return the relative CE; None also for a window that a swap falls into."""
    score, relative = window.models.get(INCUMBENT), window.relative_ce.get(INCUMBENT)
    if score is None or relative is None or relative.high is None or len(score.versions) > 1:
        return None
    reach = float(stdtrit(window.size - 1, (1 + CONFIDENCE) / 2))
    error = (relative.high - relative.mean) / reach
    return Figure(relative.mean, error, score.versions[0]) if error else None


def _click_rate(window: Window) -> Figure | None:
    return Figure(window.click_rate)


_FIGURES: Final[dict[DetectorName, Callable[[Window], Figure | None]]] = {
    "dense_loss": _dense_loss,
    "relative_loss": _relative_loss,
    "click_rate": _click_rate,
}
_WORDS: Final[dict[DetectorName, tuple[str, str, float, str]]] = {
    "dense_loss": ("normalised entropy of dense", ".4f", 1, "ADWIN"),
    "relative_loss": ("CE of sparse against dense", "+.3f", 100, "Page-Hinkley"),
    "click_rate": ("click rate", ".4f", 1, "ADWIN"),
}
"""What each figure is called, how it is written, in which unit, and who listens."""


def _changed(window: Window, name: DetectorName, since: int, change: Change) -> Alarm:
    what, how, unit, test = _WORDS[name]
    sign = " %" if unit > 1 else ""
    verb = "rose" if change.rose else "fell"
    return Alarm(
        detector=name,
        feature=None,
        count=window.end,
        since=since,
        statistic=change.statistic,
        threshold=change.threshold,
        reason=(
            f"{what} {verb} from {change.before * unit:{how}}{sign} to "
            f"{change.after * unit:{how}}{sign} behind {since:,} events; {test}: "
            f"{change.statistic:.2f} over {change.threshold:.2f}"
        ),
    )


def _drifted(window: Window, shift: Shift) -> Alarm:
    return Alarm(
        detector="input",
        feature=shift.feature,
        count=window.end,
        since=window.begin,
        statistic=shift.psi,
        threshold=shift.threshold,
        reason=(
            f"{shift.feature} is not distributed as in the events {shift.begin + 1:,} to "
            f"{shift.end:,}; population stability index: {shift.psi:.3f} over "
            f"{shift.threshold:.3f}"
        ),
    )
