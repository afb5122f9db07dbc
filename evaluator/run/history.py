"""What there is to tell about a run, taken from its messages alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluator.config import DENSE
from stream.messages import Alarm, Decision, Message, Rollback, Verdict, Window

Floats = NDArray[np.float64]

MOST_WINDOWS = 120
"""The smallest windows are told of that are no more than this."""


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of true drift."""

    begin: int
    end: int
    drift: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunStory:
    """A run: its windows of one size, its rebuilds, its true drifts."""

    windows: tuple[Window, ...]
    """Whole ones, in order."""
    finest: tuple[Window, ...]
    """Those of the smallest size, the partial one too, in order: all events once."""
    verdicts: tuple[Verdict, ...]
    """Without those on rebuilds that a rollback overruled: nothing happened at their E."""
    bands: tuple[Band, ...]
    rollbacks: tuple[Rollback, ...] = ()
    """In order; the last may lie beyond the end."""
    alarms: tuple[int, ...] = ()
    """The counts at which there was any, in order."""

    @property
    def end(self) -> int:
        """The count at which the last window ends."""
        return self.windows[-1].end

    @property
    def start(self) -> int | None:
        """The count behind which the first mask served; None if it never did."""
        starts = (v.count for v in self.verdicts if v.verdict == "promoted")
        return next(starts, None)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that were scored at all, dense first."""
        names = self.windows[-1].models
        return tuple(n for n in names if any(w.models.get(n) for w in self.windows))

    @property
    def last_half(self) -> tuple[Window, ...]:
        """The finest windows of the second half of the events behind the first mask."""
        if self.start is None:
            return ()
        middle = (self.start + self.finest[-1].end + 1) // 2
        return tuple(window for window in self.finest if window.begin >= middle)

    def entropy(self, model: str) -> Floats:
        """Return a model's normalised entropy a window, shape (n,); NaN where there is none."""
        scores = [window.models.get(model) for window in self.windows]
        return np.array([np.nan if s is None or s.ne is None else s.ne for s in scores])

    def relative(self, model: str) -> Floats:
        """Return CE(model) / CE(dense) − 1 a window, shape (n,); NaN where there is none."""
        found = [window.relative_ce.get(model) for window in self.windows]
        return np.array([np.nan if one is None else one.mean for one in found])


def tell(messages: Iterable[Message], size: int | None = None) -> RunStory:
    """Put a run together from its messages, in any order; others than needed are passed over.

    Parameters
    ----------
    messages
        Windows, the ledger's decisions and verdicts, and alarms.
    size
        Of the windows to tell of; None takes the smallest of which there are not too many.
    """
    found = list(messages)
    every = sorted(
        {one.key: one for one in found if isinstance(one, Window)}.values(),
        key=lambda window: (window.size, window.number),
    )
    whole = [window for window in every if not window.partial]
    sizes = sorted({window.size for window in whole})
    few = [s for s in sizes if sum(window.size == s for window in whole) <= MOST_WINDOWS]
    size = size or (few or sizes or [0])[0]
    told = tuple(window for window in whole if window.size == size)
    if not told:
        known = ", ".join(f"{s:,}" for s in sizes) or "none"
        raise ValueError(f"no whole window of {size:,} events to tell of; sizes there are: {known}")
    finest = tuple(window for window in every if window.size == sizes[0])
    back = _rolled_back(found)
    rollbacks = tuple(one.rollback for one in back if one.rollback)
    alarms = tuple(sorted({one.count for one in found if isinstance(one, Alarm)}))
    return RunStory(told, finest, _verdicts(found, back), _bands(finest), rollbacks, alarms)


def _rolled_back(messages: Iterable[Message]) -> list[Decision]:
    """Return the decisions to roll back, in order."""
    found = {one.count: one for one in messages if isinstance(one, Decision) and one.rollback}
    return [found[count] for count in sorted(found)]


def _verdicts(messages: Iterable[Message], back: Sequence[Decision]) -> tuple[Verdict, ...]:
    """Return the verdicts in order, but those on rebuilds that were open at a rollback."""
    found = {one.key: one for one in messages if isinstance(one, Verdict)}
    whole = (
        verdict
        for verdict in found.values()
        if not any(verdict.rebuild.decided < one.count <= verdict.count for one in back)
    )
    return tuple(sorted(whole, key=lambda verdict: verdict.count))


def _bands(windows: Sequence[Window]) -> tuple[Band, ...]:
    """Join neighbouring windows with the same drifts."""
    found: list[Band] = []
    for window in windows:
        drift_on(found, window)
    return tuple(found)


def drift_on(bands: list[Band], window: Window) -> None:
    """Let a window make the last band longer, or begin one; without drift it does neither."""
    if not window.drift:
        return
    last = bands[-1] if bands else None
    if last and (last.end, last.drift) == (window.begin, window.drift):
        bands[-1] = Band(last.begin, window.end, window.drift)
    else:
        bands.append(Band(window.begin, window.end, window.drift))


def relative_ce(windows: Sequence[Window], model: str) -> float | None:
    """Return CE(model) / CE(dense) − 1 over windows of one size together; None if one lacks it."""
    total = {model: 0.0, DENSE: 0.0}
    for window in windows:
        for name in total:
            score = window.models.get(name)
            if score is None:
                return None
            total[name] += window.weight * score.ce
    return total[model] / total[DENSE] - 1 if windows else None
