"""When to rebuild: triggers by name, which see only the evaluator's windows.

A trigger of another package is offered as something that is called with its options and returns a
:class:`Trigger`; its attribute ``Options`` is a pydantic model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtri

from pruner.config import TriggerConfig
from pruner.criterion import NoOptions
from stream import plugins

__all__ = ["GROUP", "TRIGGERS", "Fire", "Hold", "Score", "Seen", "Trigger", "build"]

GROUP = "resprout.triggers"
"""The entry-point group under which other packages offer triggers."""


@dataclass(frozen=True, slots=True)
class Score:
    """How much worse than the dense model the sparse one was on one window."""

    begin: int
    end: int
    relative_ce: float
    """CE(sparse) / CE(dense) − 1 on the same events."""
    error: float | None = None
    """Its standard error, of the paired difference; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a trigger may look at."""

    scores: tuple[Score, ...]
    """The windows that began at the last switch or later, oldest first; the last one is to be
    decided on.
    """
    first_end: int
    """The end of the rebuild that made the first mask."""
    last_decided: int
    """The window end at which the last rebuild was decided."""
    last_end: int
    """The end of the last rebuild, promoted or not."""
    rebuilds: int
    """Rebuilds decided so far, without those for the first mask."""

    @property
    def count(self) -> int:
        """The end of the window to decide on."""
        return self.scores[-1].end


@dataclass(frozen=True, slots=True)
class Fire:
    """Rebuild now."""

    cause: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Do not rebuild now."""

    why_not: str


class Trigger(Protocol):
    """Decides on one window after the other; a pure function of what it sees."""

    @property
    def name(self) -> str:
        """The name used in the configuration; the reason of the rebuilds that it starts."""

    def decide(self, seen: Seen) -> Fire | Hold:
        """Return whether to rebuild now, with the reason."""


@dataclass(frozen=True, slots=True)
class Rise:
    """How far the last windows stand above earlier ones."""

    last: float
    """Mean relative CE of the last windows."""
    last_windows: int
    level: float
    """Mean relative CE of the earlier windows."""
    level_windows: int
    margin: float
    """Half the width of the interval of :attr:`size`, at the confidence that was asked for."""

    @property
    def size(self) -> float:
        """The rise of the relative CE."""
        return self.last - self.level


def greatest_rise(
    scores: Sequence[Score], threshold: float, confidence: float, patience: int = 1
) -> Rise | None:
    r"""Compare the last windows with earlier ones, and return the rise that is clearest.

    Compared are the mean of the last n windows, n = ``patience`` times 1, 2, 4, ..., and the mean
    of any m windows in a row before them, m = 1, 2, 4, ...: windows are pooled as far as it takes
    to tell a rise from noise. With the standard errors :math:`s_i` of the windows, a rise is the
    difference of two means, and its margin is

    .. math:: z_k \sqrt{\frac{1}{n^2} \sum_{last} s_i^2 + \frac{1}{m^2} \sum_{earlier} s_i^2},
        \qquad z_k = \Phi^{-1}\!\left(1 - \frac{1 - c}{(k - 1)\, k\, M_k}\right)

    where k is the number of windows, :math:`M_k` the number of pairs compared at this one, and c
    the confidence. Where the relative CE does not rise, the chance that a rise ever exceeds its
    margin, at whichever of all windows k = 2, 3, ..., is at most 1 − c: the k-th look spends
    (1 − c) / ((k − 1) k) of it, which adds up to 1 − c (alpha spending, Lan and DeMets 1983), and
    divides that among its pairs (Bonferroni, as ADWIN does with the cuts of its window, Bifet and
    Gavaldà 2007). The errors of windows may depend on the past, as those of models that learn do;
    means of windows are taken to be normal.

    Parameters
    ----------
    scores
        The windows since the switch, oldest first; all of the same size, with errors.
    threshold
        A rise that matters. Only where none is as large, a smaller one is returned.
    confidence
        c, above 0 and below 1.
    patience
        The fewest windows that the last mean is of.

    Returns
    -------
    The rise that exceeds its margin by most among those of at least the threshold; where there is
    none, the largest; None where there are too few windows to compare.

    Examples
    --------
    >>> scores = [
    ...     Score(50 * i, 50 * i + 50, r, 0.0001) for i, r in enumerate([0.003, 0.003, 0.006])
    ... ]
    >>> rise = greatest_rise(scores, threshold=0.002, confidence=0.95)
    >>> rise.last_windows, rise.level_windows, round(rise.size, 6), round(rise.margin, 6)
    (1, 2, 0.003, 0.000351)
    """
    k = len(scores)
    pairs = [(n, m) for n in _lengths(patience, k - 1) for m in _lengths(1, k - n)]
    if not pairs:
        return None
    compared = sum(k - n - m + 1 for n, m in pairs)
    z = -float(ndtri((1 - confidence) / ((k - 1) * k * compared)))
    sums = np.cumsum([0.0, *(one.relative_ce for one in scores)])
    squares = np.cumsum([0.0, *((one.error or 0.0) ** 2 for one in scores)])
    found: list[tuple[bool, float, Rise]] = []
    for n, m in pairs:
        last, end = float(sums[k] - sums[k - n]) / n, k - n + 1
        levels = (sums[m:end] - sums[: end - m]) / m
        spread = (squares[k] - squares[k - n]) / n**2
        margins = z * np.sqrt(spread + (squares[m:end] - squares[: end - m]) / m**2)
        matters = last - levels >= threshold
        merit = np.where(matters, last - levels - margins, last - levels)
        at = int(np.where(matters == matters.any(), merit, -np.inf).argmax())
        rise = Rise(last, n, float(levels[at]), m, float(margins[at]))
        found.append((bool(matters.any()), float(merit[at]), rise))
    return max(found, key=lambda one: one[:2])[2]


def _lengths(first: int, most: int) -> Iterator[int]:
    """Yield ``first`` times 1, 2, 4, ..., up to ``most``."""
    while first <= most:
        yield first
        first *= 2


@dataclass(frozen=True, slots=True)
class Divergence:
    """Rebuild when the sparse model is clearly worse than it was at its best since the switch.

    The level is the *lowest* relative CE since the switch: right after it comes a transient that
    would hide the drift. With a ``confidence``, level and rise are of windows that are pooled until
    they can tell (:func:`greatest_rise`), and it fires where the rise is at least ``threshold`` and
    exceeds its margin of error, which accounts for all windows that are looked at. Without, each
    window is its own level, and it fires where the last ``patience`` windows all lie more than
    ``threshold`` above it, however noisy they are.

    Examples
    --------
    >>> relative = [0.004, 0.003, 0.0051]
    >>> scores = tuple(Score(50 * i, 50 * i + 50, r, 0.001) for i, r in enumerate(relative))
    >>> seen = Seen(scores, first_end=0, last_decided=0, last_end=0, rebuilds=0)
    >>> Divergence(threshold=0.002).decide(seen)
    Fire(cause='relative CE +0.510 % stands 0.210 % above its level +0.300 %;
        threshold 0.200 %, windows in a row: 1')
    >>> Divergence(threshold=0.002, confidence=0.95).decide(seen)
    Hold(why_not='relative CE +0.510 % stands 0.210 % ± 0.405 % above its level +0.300 %;
        threshold 0.200 %, confidence 95 %, windows pooled: 1 and 1')
    """

    threshold: float = 0.002
    """A rise of the relative CE: 0.002 is 0.2 %."""
    patience: int = 1
    """The fewest windows that the rise lasts: pooled with a confidence, else each by itself."""
    cooldown_events: int = 0
    """Events after a rebuild's end in which none starts, whatever the verdict was."""
    budget: int | None = None
    """Rebuilds after the first mask, in the whole run; None: as many as it takes."""
    confidence: float = 0.0
    """That there is no false alarm between two switches; 0: the threshold alone decides."""

    name = "divergence"

    def decide(self, seen: Seen) -> Fire | Hold:
        """Decide by how far the last windows lie above the level."""
        has_risen, rise = self._pooled(seen) if self.confidence else self._each(seen)
        if not has_risen:
            return Hold(rise)
        if seen.count < seen.last_end + self.cooldown_events:
            return Hold(f"cooling down until {seen.last_end + self.cooldown_events:,}; {rise}")
        return _within(self.budget, seen) or Fire(rise)

    def _each(self, seen: Seen) -> tuple[bool, str]:
        """Compare every window by itself with the threshold."""
        level = min(score.relative_ce for score in seen.scores)
        last = [score.relative_ce - level for score in seen.scores[-self.patience :]]
        rise = (
            f"relative CE {100 * seen.scores[-1].relative_ce:+.3f} % stands {100 * last[-1]:.3f} % "
            f"above its level {100 * level:+.3f} %; threshold {100 * self.threshold:.3f} %, "
            f"windows in a row: {self.patience}"
        )
        return len(last) == self.patience and min(last) > self.threshold, rise

    def _pooled(self, seen: Seen) -> tuple[bool, str]:
        """Compare pooled windows with the threshold and with their noise."""
        if any(score.error is None for score in seen.scores):
            return False, "a window without a standard error cannot be told from noise"
        rise = greatest_rise(seen.scores, self.threshold, self.confidence, self.patience)
        if rise is None:
            return False, f"windows since the switch: {len(seen.scores)}, too few to compare"
        text = (
            f"relative CE {100 * rise.last:+.3f} % stands {100 * rise.size:.3f} % ± "
            f"{100 * rise.margin:.3f} % above its level {100 * rise.level:+.3f} %; threshold "
            f"{100 * self.threshold:.3f} %, confidence {100 * self.confidence:g} %, windows "
            f"pooled: {rise.last_windows} and {rise.level_windows}"
        )
        return self.threshold <= rise.size > rise.margin, text


@dataclass(frozen=True, slots=True)
class Periodic:
    """Rebuild by the clock of events.

    It is due at ``first_end + phase_events + k * every_events`` for k = 1, 2, ... (and for k = 0
    where there is a phase), and fires on the first window that ends there or later. Where it was
    due one or more times while a rebuild was open, it fires once, right after that rebuild.

    Examples
    --------
    >>> periodic = Periodic(every_events=200)
    >>> at = lambda end: Seen((Score(end - 50, end, 0.0),), 1000, 900, 1000, rebuilds=0)
    >>> periodic.decide(at(1150))
    Hold(why_not='next due at 1200')
    >>> periodic.decide(at(1200))
    Fire(cause='due at 1200')
    """

    every_events: int
    phase_events: int = 0
    budget: int | None = None
    """Rebuilds after the first mask, in the whole run; None: as many as it takes."""

    name = "periodic"

    def decide(self, seen: Seen) -> Fire | Hold:
        """Decide by the count of the window."""
        clock = seen.first_end + self.phase_events
        elapsed = max(seen.last_decided, seen.first_end) - clock
        due = clock + max(0, elapsed // self.every_events + 1) * self.every_events
        if seen.count < due:
            return Hold(f"next due at {due}")
        return _within(self.budget, seen) or Fire(f"due at {due}")


def _within(budget: int | None, seen: Seen) -> Hold | None:
    if budget is not None and seen.rebuilds >= budget:
        return Hold(f"the budget of {budget} rebuilds is spent")
    return None


TRIGGERS: dict[str, Callable[[TriggerConfig], Trigger]] = {
    "divergence": lambda c: Divergence(
        c.threshold, c.patience, c.cooldown_events, c.budget, c.confidence
    ),
    "periodic": lambda c: Periodic(c.every_events, c.phase_events, c.budget),
}


def build(config: TriggerConfig) -> Trigger:
    """Make the trigger that is configured.

    >>> build(TriggerConfig(name="periodic", every_events=200_000))
    Periodic(every_events=200000, phase_events=0, budget=None)
    >>> build(TriggerConfig(name="period"))
    Traceback (most recent call last):
    ...
    ValueError: unknown trigger 'period'; known: divergence, periodic
    """
    offered = plugins.find(GROUP, TRIGGERS, config.name)
    if config.name not in TRIGGERS:
        made: Trigger = offered(getattr(offered, "Options", NoOptions)(**config.options))
        return made
    if config.options:
        raise ValueError(
            f"trigger.options are for triggers of other packages; {config.name!r} has settings of "
            "its own, such as trigger.budget"
        )
    built: Trigger = offered(config)
    return built
