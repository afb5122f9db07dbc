"""Turning sums into scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from evaluator.arrays import ArraySums
from evaluator.config import DENSE, EvaluatorConfig
from evaluator.drift import Alarms, AlarmsState
from evaluator.join import Floats, JoinedBatch
from evaluator.metrics.calibration import calibration, expected_calibration_error
from evaluator.metrics.entropy import normalized_entropy
from evaluator.metrics.interval import RatioSums
from evaluator.metrics.ranking import pr_auc, roc_auc
from evaluator.sums import (
    BAYES,
    CLICK_WEIGHT,
    CLICKED,
    EVENTS,
    HISTOGRAM,
    SEGMENT_BINS,
    WEIGHT,
    EventSums,
    ModelSums,
    Segments,
    SegmentsState,
    SegmentSums,
    Sums,
)
from stream.messages import (
    Alarm,
    DeadLetters,
    Interval,
    Lifetime,
    ModelScore,
    Segment,
    Stability,
    Window,
)
from stream.schema import FeatureSchema


def scores(config: EvaluatorConfig, sums: Sums, before: EventSums) -> dict[str, Any]:
    """Return what a window and a lifetime have in common, but for where they lie.

    Parameters
    ----------
    config
        The models, and how few clicks are too few.
    sums
        Of at least one event.
    before
        All events before these.
    """
    return {
        "weight": sums.on.weight,
        "clicks": sums.on.clicks,
        "click_rate": sums.on.click_rate,
        "models": {
            name: model_score(config, sums.on, sums.models.get(name), before)
            for name in config.models
        },
        "relative_ce": _relatives(config, sums.models),
        "bayes_ce": None if sums.bayes is None else sums.bayes / sums.on.weight,
        "drift": sums.drift,
        "segments": tuple(
            segment for one in sums.segments for segment in _segments(config, one, sums.models)
        ),
    }


def model_score(
    config: EvaluatorConfig, on: EventSums, model: ModelSums | None, before: EventSums
) -> ModelScore | None:
    """Score one model; None where it did not predict everything."""
    if model is None:
        return None
    ce, rate = model.loss / on.weight, on.click_rate
    has_both, had_both = on.has_both(config.min_clicks), before.has_both(config.min_clicks)
    training = normalized_entropy(ce, rate, before.click_rate) if had_both else None
    return ModelScore(
        versions=model.versions,
        ce=ce,
        ne=normalized_entropy(ce, rate) if has_both else None,
        ne_training=training if has_both else None,
        calibration=calibration(model.predicted, on.clicks),
        predicted_clicks=model.predicted,
        regret=None if model.regret is None else model.regret / on.weight,
        **(_ranking(model.histogram, on.clicked) if has_both else {}),
    )


def _ranking(found: ArraySums, clicked: int) -> dict[str, float | None]:
    """Return what the order of the predictions says."""
    roc, pr = roc_auc(found), pr_auc(found, clicked)
    areas = {"roc_auc": roc, "pr_auc": pr}
    told = {name: area.value for name, area in areas.items() if area}
    errors = {f"{name}_error": area.error for name, area in areas.items() if area}
    return {"ece": expected_calibration_error(found), **told, **errors}


def _relatives(config: EvaluatorConfig, models: dict[str, ModelSums]) -> dict[str, Interval | None]:
    others = [name for name in config.models if name != DENSE]
    return {name: _relative(models.get(name)) for name in others}


def _relative(model: ModelSums | None) -> Interval | None:
    """Return the relative CE; None also where dense has no loss at all."""
    if model is None or model.relative is None or not model.relative.b:
        return None
    return model.relative.interval()


def _segments(
    config: EvaluatorConfig, sums: SegmentSums, whole: dict[str, ModelSums]
) -> Iterator[Segment]:
    """Score each segment of one segmentation, the rest last."""
    for at, value in enumerate((*sums.values, "rest")):
        happened = sums.on.values[:, at]
        on = EventSums(
            int(happened[EVENTS]),
            int(happened[CLICKED]),
            float(happened[WEIGHT]),
            float(happened[CLICK_WEIGHT]),
        )
        bayes = float(happened[BAYES])
        models = {
            name: _segment_model(cells.values[:, at], on, whole[name], name == DENSE)
            for name, cells in sums.models.items()
            if name in whole and on.events
        }
        yield Segment(
            feature=sums.feature,
            value=value,
            events=on.events,
            weight=on.weight,
            clicks=on.clicks,
            click_rate=on.click_rate if on.events else None,
            models={
                name: model_score(config, on, models.get(name), EventSums())
                for name in config.models
            },
            relative_ce=_relatives(config, models),
            bayes_ce=bayes / on.weight if on.events and math.isfinite(bayes) else None,
        )


def _segment_model(cells: Floats, on: EventSums, whole: ModelSums, is_dense: bool) -> ModelSums:
    """Take one model's sums over one segment out of a column of cells."""
    loss, predicted, *terms, regret = (float(value) for value in cells[:HISTOGRAM])
    return ModelSums(
        versions=whole.versions,
        loss=loss,
        predicted=predicted,
        relative=None if is_dense else RatioSums(on.events, *terms),
        regret=regret if math.isfinite(regret) else None,
        histogram=ArraySums(cells[HISTOGRAM:].reshape(3, SEGMENT_BINS)),
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
    stretch: Sums | None = None
    """What no window has taken in yet."""
    lives: tuple[CumulativeWindow, ...] = ()
    """Since the first event, and since more models have begun."""


class TumblingWindows:
    """Windows of several sizes over the same events, each beginning where the last one ended.

    Batches are added up over the stretch that all sizes are multiples of, and only then taken into
    each window.

    Parameters
    ----------
    config
        Sizes, models and how few clicks are too few.
    state
        Where to go on; None begins with the first event.

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
    >>> [window.models["dense"].ne for window in windows.add(Sums.of(batch))]
    [1.0]
    """

    def __init__(self, config: EvaluatorConfig, state: WindowsState | None = None) -> None:
        sizes = tuple(sorted(config.windows))
        nothing = EventSums()
        self._config = config
        self._stretch_events = math.gcd(*sizes)
        self.state = state or WindowsState(
            nothing, tuple(OpenWindow(size, 0, nothing) for size in sizes)
        )
        known = tuple(window.size for window in self.state.opened)
        if known != sizes:
            raise ValueError(
                f"windows of {_listed(sizes)} events cannot go on from windows of "
                f"{_listed(known)}; keep evaluator.windows as it was, or begin with a new state "
                "folder"
            )

    def add(self, sums: Sums) -> tuple[Window, ...]:
        """Take in a batch and return the windows that it closes, the smallest first."""
        so_far, stretch = self.state.so_far + sums.on, self.state.stretch
        stretch = sums if stretch is None else stretch + sums
        self.state = replace(self.state, so_far=so_far, stretch=stretch)
        left_over = so_far.events % self._stretch_events
        if 0 < left_over < sums.on.events:
            raise ValueError(
                f"windows of {_listed(self._config.windows)} events may end at "
                f"{so_far.events - left_over:,}, inside a batch that ends at {so_far.events:,}; "
                "make them multiples of the batch"
            )
        return () if left_over else self._fold()

    def finish(self) -> tuple[Window, ...]:
        """Close what is open, since the input has ended; such windows are partial."""
        self._fold()
        opened = self.state.opened
        unfinished = tuple(self._window(one, one.sums) for one in opened if one.sums is not None)
        emptied = tuple(replace(window, sums=None) for window in opened)
        self.state = replace(self.state, opened=emptied)
        return unfinished

    def lifetimes(self, closed: Sequence[Window]) -> tuple[Lifetime, ...]:
        """Return the scores so far, if windows of more than the smallest size have just closed.

        Where there is one size alone, these tell.
        """
        sizes = [window.size for window in self.state.opened]
        if all(window.size != sizes[:2][-1] for window in closed):
            return ()
        return tuple(
            Lifetime(
                begin=life.begin,
                end=life.begin + life.sums.on.events,
                **scores(self._config, life.sums, life.before),
            )
            for life in self.state.lives
        )

    def _fold(self) -> tuple[Window, ...]:
        """Take the stretch into all windows, and return those that it closes."""
        stretch, so_far = self.state.stretch, self.state.so_far
        if stretch is None:
            return ()
        opened, closed = [], []
        for window in self.state.opened:
            total = stretch if window.sums is None else window.sums + stretch
            if so_far.events < window.end:
                opened.append(replace(window, sums=total))
            else:
                closed.append(self._window(window, total))
                opened.append(OpenWindow(window.size, window.end, so_far))
        lives = _live_on(self.state.lives, stretch, so_far.events - stretch.on.events)
        self.state = WindowsState(so_far, tuple(opened), lives=lives)
        return tuple(closed)

    def _window(self, window: OpenWindow, sums: Sums) -> Window:
        """Turn a window's sums into its scores."""
        end = window.begin + sums.on.events
        return Window(
            size=window.size,
            number=window.begin // window.size,
            begin=window.begin,
            end=end,
            partial=end < window.end,
            **scores(self._config, sums, window.before),
        )


def _listed(sizes: Sequence[int]) -> str:
    return " and ".join(f"{size:,}" for size in sizes)


def _live_on(
    lives: Sequence[CumulativeWindow], stretch: Sums, begin: int
) -> tuple[CumulativeWindow, ...]:
    """Take a stretch into all lives; where models have begun with it, so does another life.

    Examples
    --------
    >>> import numpy as np
    >>> from evaluator.join import JoinedBatch, Predicted
    >>> dense, both = (
    ...     Sums.of(JoinedBatch(0, np.array([1.0]), np.ones(1), dict.fromkeys(models, half)))
    ...     for half in [Predicted(1, np.array([0.5]))]
    ...     for models in (["dense"], ["dense", "sparse"])
    ... )
    >>> lives = _live_on(_live_on(_live_on((), dense, 0), both, 1), both, 2)
    >>> [(life.begin, life.sums.on.events, list(life.sums.models)) for life in lives]
    [(0, 3, ['dense']), (1, 2, ['dense', 'sparse'])]
    """
    grown = tuple(replace(life, sums=life.sums + stretch) for life in lives)
    if grown and stretch.models.keys() <= grown[-1].sums.models.keys():
        return grown
    before = lives[0].sums.on if lives else EventSums()
    return (*grown, CumulativeWindow(begin, before, stretch))


@dataclass(frozen=True, slots=True)
class SkippedState:
    """What has not been told yet, for a checkpoint."""

    begin: int = 0
    """The count when something was told last, or could have been."""
    reasons: dict[str, int] = field(default_factory=dict)


class Skipped:
    """Counts the invalid events between two windows' ends.

    Parameters
    ----------
    state
        Where to go on.

    Examples
    --------
    >>> skipped = Skipped(SkippedState())
    >>> skipped.add({"label": 1})
    >>> [(one.begin, one.count, one.reasons) for one in skipped.tell(500)], skipped.tell(1_000)
    ([(0, 500, {'label': 1})], ())
    """

    def __init__(self, state: SkippedState) -> None:
        self._begin = state.begin
        self._reasons = Counter(state.reasons)

    @property
    def state(self) -> SkippedState:
        """All that it knows; equal histories give equal states."""
        return SkippedState(self._begin, dict(sorted(self._reasons.items())))

    def add(self, skipped: Mapping[str, int]) -> None:
        """Count invalid events, so many of each reason."""
        self._reasons.update(skipped)

    def tell(self, count: int) -> tuple[DeadLetters, ...]:
        """Tell at a count what was found since the last time; nothing where nothing was."""
        state, self._begin = self.state, count
        self._reasons.clear()
        if not state.reasons:
            return ()
        return (DeadLetters(begin=state.begin, count=count, reasons=state.reasons),)


@dataclass(frozen=True, slots=True)
class Told:
    """Messages, each in the log ``windows`` once."""

    windows: tuple[Window, ...] = ()
    """Just closed, the smallest first."""
    lifetimes: tuple[Lifetime, ...] = ()
    stability: tuple[Stability, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    dead_letters: tuple[DeadLetters, ...] = ()

    @property
    def messages(self) -> tuple[Window | Lifetime | Stability | Alarm | DeadLetters, ...]:
        """All of them, in the order in which they are written."""
        told = self.windows + self.lifetimes + self.stability + self.alarms
        return told + self.dead_letters


@dataclass(frozen=True, slots=True)
class ScoringState:
    """All that scoring knows, for a checkpoint."""

    windows: WindowsState | None = None
    segments: SegmentsState | None = None
    alarms: AlarmsState = field(default_factory=AlarmsState)
    skipped: SkippedState = field(default_factory=SkippedState)


class Scoring:
    """Takes in one batch after the other, and tells what follows from it.

    Parameters
    ----------
    config
        What is scored, and what counts as drift.
    schema
        Of the clicks.
    state
        Where to go on.
    """

    def __init__(self, config: EvaluatorConfig, schema: FeatureSchema, state: ScoringState) -> None:
        self._segments = Segments(schema, config, state.segments)
        self._windows = TumblingWindows(config, state.windows)
        self._alarms = Alarms(config, schema, state.alarms)
        self._skipped = Skipped(state.skipped)

    @property
    def state(self) -> ScoringState:
        """All that it knows, for a checkpoint."""
        alarms, skipped = self._alarms.state, self._skipped.state
        return ScoringState(self._windows.state, self._segments.state, alarms, skipped)

    def add(self, batch: JoinedBatch) -> tuple[Sums, Told]:
        """Take in a batch; return its sums, and what there is to tell."""
        sums = Sums.of(batch, self._segments.of(batch.clicks))
        self._alarms.look(batch.clicks)
        self._skipped.add(batch.skipped)
        return sums, self._tell(self._windows.add(sums))

    def finish(self, skipped: Mapping[str, int] = MappingProxyType({})) -> Told:
        """Close what is open, since the input has ended, with invalid events at its very end."""
        self._skipped.add(skipped)
        closed = self._windows.finish()
        if not closed:
            return Told(dead_letters=self._skipped.tell(self._windows.state.so_far.events))
        return self._tell(closed)

    def _tell(self, closed: tuple[Window, ...]) -> Told:
        if not closed:
            return Told()
        stability, alarms = self._alarms.listen(closed)
        letters = self._skipped.tell(closed[0].end)
        return Told(closed, self._windows.lifetimes(closed), stability, alarms, letters)
