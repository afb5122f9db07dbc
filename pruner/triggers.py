"""When to rebuild: triggers by name, which see only the evaluator's windows.

A trigger of another package is offered as something that is called with its options and returns a
:class:`Trigger`; its attribute ``Options`` is a pydantic model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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
class Divergence:
    r"""Rebuild when the sparse model is clearly worse than it was at its best since the switch.

    The level is the *minimum* relative CE of the windows since the last switch: right after it
    comes a transient that would hide the drift. It fires where the last ``patience`` windows all
    lie more than ``threshold`` above the level.

    Examples
    --------
    >>> relative = [0.004, 0.003, 0.0051]
    >>> scores = tuple(Score(50 * i, 50 * i + 50, r) for i, r in enumerate(relative))
    >>> seen = Seen(scores, first_end=0, last_decided=0, last_end=0, rebuilds=0)
    >>> Divergence(threshold=0.002).decide(seen)
    Fire(cause='relative CE +0.510 % stands 0.210 % above its level +0.300 %;
        threshold 0.200 %, windows in a row: 1')
    """

    threshold: float = 0.002
    """A rise of the relative CE: 0.002 is 0.2 %."""
    patience: int = 1
    """Windows in a row."""
    cooldown_events: int = 0
    """Events after a rebuild's end in which none starts, whatever the verdict was."""
    budget: int | None = None
    """Rebuilds after the first mask, in the whole run; None: as many as it takes."""

    name = "divergence"

    def decide(self, seen: Seen) -> Fire | Hold:
        """Decide by how far the last windows lie above the level."""
        level = min(score.relative_ce for score in seen.scores)
        last = [score.relative_ce - level for score in seen.scores[-self.patience :]]
        rise = (
            f"relative CE {100 * seen.scores[-1].relative_ce:+.3f} % stands {100 * last[-1]:.3f} % "
            f"above its level {100 * level:+.3f} %; threshold {100 * self.threshold:.3f} %, "
            f"windows in a row: {self.patience}"
        )
        if len(last) < self.patience or min(last) <= self.threshold:
            return Hold(rise)
        if seen.count < seen.last_end + self.cooldown_events:
            return Hold(f"cooling down until {seen.last_end + self.cooldown_events:,}; {rise}")
        return _within(self.budget, seen) or Fire(rise)


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
    "divergence": lambda c: Divergence(c.threshold, c.patience, c.cooldown_events, c.budget),
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
