"""Tumbling windows of several sizes, fed with the sums of one batch after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evaluator.config import EvaluatorConfig
from evaluator.scores import scores
from evaluator.sums import EventSums, Sums
from stream.messages import Lifetime, Window


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
class Life:
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
    lives: tuple[Life, ...] = ()
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


def _live_on(lives: Sequence[Life], stretch: Sums, begin: int) -> tuple[Life, ...]:
    """Take a stretch into all lives; where models have begun with it, so does another life.

    Examples
    --------
    >>> import numpy as np
    >>> from evaluator.joined import JoinedBatch, Predicted
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
    return (*grown, Life(begin, before, stretch))
