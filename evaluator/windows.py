"""Tumbling windows of several sizes, fed with the sums of one batch after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from evaluator.calibration import calibration
from evaluator.config import DENSE, EvaluatorConfig
from evaluator.entropy import normalized_entropy
from evaluator.sums import EventSums, ModelSums, Sums
from stream.messages import Interval, ModelScore, Window


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
class WindowsState:
    """All that the windows know, for a checkpoint."""

    so_far: EventSums
    """Since the start of the run."""
    opened: tuple[OpenWindow, ...]
    stretch: Sums | None = None
    """What no window has taken in yet."""


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
    >>> from evaluator.joined import JoinedBatch, Predicted
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
                f"windows of {sizes} events cannot go on from windows of {known}; keep "
                "evaluator.windows as it was, or begin with a new state folder"
            )

    def add(self, sums: Sums) -> tuple[Window, ...]:
        """Take in a batch and return the windows that it closes, the smallest first."""
        so_far, stretch = self.state.so_far + sums.on, self.state.stretch
        stretch = sums if stretch is None else stretch + sums
        self.state = WindowsState(so_far, self.state.opened, stretch)
        left_over = so_far.events % self._stretch_events
        if 0 < left_over < sums.on.events:
            raise ValueError(
                f"windows of {self._config.windows} events may end at {so_far.events - left_over}, "
                f"inside a batch that ends at {so_far.events}; make them multiples of the batch"
            )
        return () if left_over else self._fold()

    def finish(self) -> tuple[Window, ...]:
        """Close what is open, since the input has ended; such windows are partial."""
        self._fold()
        opened = self.state.opened
        unfinished = tuple(self._score(one, one.sums) for one in opened if one.sums is not None)
        emptied = tuple(replace(window, sums=None) for window in opened)
        self.state = replace(self.state, opened=emptied)
        return unfinished

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
                closed.append(self._score(window, total))
                opened.append(OpenWindow(window.size, window.end, so_far))
        self.state = WindowsState(so_far, tuple(opened))
        return tuple(closed)

    def _score(self, window: OpenWindow, sums: Sums) -> Window:
        """Turn a window's sums into its scores."""
        end = window.begin + sums.on.events
        return Window(
            size=window.size,
            number=window.begin // window.size,
            begin=window.begin,
            end=end,
            partial=end < window.end,
            weight=sums.on.weight,
            clicks=sums.on.clicks,
            click_rate=sums.on.click_rate,
            models={name: self._model(window, sums, name) for name in self._config.models},
            relative_ce={
                name: _relative(sums.models.get(name))
                for name in self._config.models
                if name != DENSE
            },
            bayes_ce=None if sums.bayes is None else sums.bayes / sums.on.weight,
            drift=sums.drift,
        )

    def _model(self, window: OpenWindow, sums: Sums, name: str) -> ModelScore | None:
        """Score one model; None where it did not predict the whole window."""
        model = sums.models.get(name)
        if model is None:
            return None
        ce, rate, enough = model.loss / sums.on.weight, sums.on.click_rate, self._config.min_clicks
        has_both, had_both = sums.on.has_both(enough), window.before.has_both(enough)
        training = normalized_entropy(ce, rate, window.before.click_rate) if had_both else None
        return ModelScore(
            versions=model.versions,
            ce=ce,
            ne=normalized_entropy(ce, rate) if has_both else None,
            ne_training=training if has_both else None,
            calibration=calibration(model.predicted, sums.on.clicks),
        )


def _relative(model: ModelSums | None) -> Interval | None:
    return None if model is None or model.relative is None else model.relative.interval()
