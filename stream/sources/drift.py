"""The kinds of drift of a synthetic stream: composable, and scheduled by count.

A drift changes the :class:`World` that the generator draws its events from. Drifts compose: each
takes the world that the one before it left. All are pure functions of the count, so any block of
the stream can be made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stream import plugins
from stream.plugins import Check, run_checks

__all__ = ["Drift", "World", "build", "check", "known", "world_at"]


@dataclass(frozen=True, slots=True)
class World:
    """What can drift."""

    concept: float = 0.0
    """Where the truth stands on its walk from network to network: at 2.25 it is made of
    cos(π/8) of network 2 and sin(π/8) of network 3."""
    log_odds: float = 0.0
    """Shift of the click rate, in nats of log odds."""
    churned: float = 0.0
    """Items replaced so far, as a share of all items; 1.5 = all once and half of them twice."""


class Drift(Protocol):
    """One drift of the stream; built from its options, such as ``begin`` and ``end``."""

    def apply(self, world: World, count: int) -> World:
        """Return the world of the events from ``count`` on, given the world without this drift."""

    def active(self, begin: int, end: int) -> bool:
        """Tell whether the world moves anywhere in ``begin`` <= count < ``end``."""


class _Options(BaseModel):
    """Options that all built-in drifts share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    begin: int = Field(default=0, ge=0)
    """Count at which the drift begins."""
    end: int | None = Field(default=None, gt=0)
    """Count at which it ends, and what it has changed stays; None = never."""

    @model_validator(mode="after")
    def _ordered(self) -> _Options:
        if self.end is not None and self.end <= self.begin:
            raise ValueError(f"a drift cannot end at {self.end} before it begins at {self.begin}")
        return self

    def elapsed(self, count: int) -> int:
        """Events of this drift before ``count``."""
        last = count if self.end is None else min(count, self.end)
        return max(0, last - self.begin)

    def active(self, begin: int, end: int) -> bool:
        """Tell whether the drift runs anywhere in ``begin`` <= count < ``end``."""
        return self.begin < end and (self.end is None or begin < self.end)


class Gradual(_Options):
    """The truth glides from one network to the next, one every ``period_events``.

    Examples
    --------
    >>> Gradual(begin=1_000, period_events=2_000).apply(World(), 2_000).concept
    0.5
    """

    period_events: int = Field(default=500_000, gt=0)

    def apply(self, world: World, count: int) -> World:
        """Move the concept in proportion to the events elapsed."""
        return replace(world, concept=world.concept + self.elapsed(count) / self.period_events)


class Abrupt(_Options):
    """The truth jumps to the next network at ``begin``, and again ``every_events`` if given.

    Examples
    --------
    >>> jump = Abrupt(begin=1_000)
    >>> jump.apply(World(), 999).concept, jump.apply(World(), 1_000).concept
    (0.0, 1.0)
    """

    every_events: int | None = Field(default=None, gt=0)

    def _jumps(self, count: int) -> int:
        if count < self.begin:
            return 0
        return 1 if self.every_events is None else 1 + self.elapsed(count) // self.every_events

    def apply(self, world: World, count: int) -> World:
        """Add one whole network a jump."""
        return replace(world, concept=world.concept + self._jumps(count))

    def active(self, begin: int, end: int) -> bool:
        """Tell whether a jump falls in ``begin`` <= count < ``end``."""
        return self._jumps(end - 1) > (self._jumps(begin - 1) if begin else 0)


class Recurring(_Options):
    """The truth jumps to the next network and back, once every ``period_events``.

    Examples
    --------
    >>> season = Recurring(begin=0, period_events=100)
    >>> [season.apply(World(), count).concept for count in (0, 49, 50, 99, 100)]
    [1.0, 1.0, 0.0, 0.0, 1.0]
    """

    period_events: int = Field(default=500_000, gt=1)

    def apply(self, world: World, count: int) -> World:
        """Add one network in the first half of each period."""
        runs = self.begin <= count and (self.end is None or count < self.end)
        away = runs and self.elapsed(count) // (self.period_events // 2) % 2 == 0
        return replace(world, concept=world.concept + away)


class Churn(_Options):
    """Items die and new ones take their place: every item once in ``period_events``.

    Examples
    --------
    >>> Churn(begin=0, period_events=1_000).apply(World(), 250).churned
    0.25
    """

    period_events: int = Field(default=2_000_000, gt=0)

    def apply(self, world: World, count: int) -> World:
        """Replace items in proportion to the events elapsed."""
        return replace(world, churned=world.churned + self.elapsed(count) / self.period_events)


class ClickRate(_Options):
    r"""The click rate swings while the interactions stay: log odds + a·sin(2π·elapsed/period).

    Examples
    --------
    >>> ClickRate(begin=0, period_events=400, amplitude=0.5).apply(World(), 100).log_odds
    0.5
    """

    period_events: int = Field(default=1_000_000, gt=0)
    amplitude: float = Field(default=0.5, gt=0)
    """a, in nats of log odds."""

    def apply(self, world: World, count: int) -> World:
        """Shift the log odds."""
        swing = math.sin(2 * math.pi * self.elapsed(count) / self.period_events)
        return replace(world, log_odds=world.log_odds + self.amplitude * swing)


class NoDrift(_Options):
    """The truth stands still: the control beside which every claim about drift is shown."""

    def apply(self, world: World, count: int) -> World:
        """Change nothing."""
        return world

    def active(self, begin: int, end: int) -> bool:
        """Never."""
        return False


BUILT_IN: dict[str, type[Drift]] = {
    "gradual": Gradual,
    "abrupt": Abrupt,
    "recurring": Recurring,
    "churn": Churn,
    "click-rate": ClickRate,
    "none": NoDrift,
}


GROUP = "resprout.drifts"
"""The entry-point group under which other packages offer drifts."""


def known() -> dict[str, str]:
    """Return the kinds of drift, and the package of each.

    >>> known()["gradual"]
    'resprout'
    """
    return plugins.known(GROUP, BUILT_IN)


def build(options: Mapping[str, Any]) -> Drift:
    """Build a drift from its kind and options, built in or from the group ``resprout.drifts``.

    Examples
    --------
    >>> build({"kind": "gradual", "begin": 1_000, "period_events": 4_000})
    Gradual(begin=1000, end=None, period_events=4000)
    >>> build({"kind": "sudden"})
    Traceback (most recent call last):
    ...
    ValueError: unknown drift 'sudden'; known: abrupt, churn, click-rate, gradual, none, recurring
    """
    make: type[Drift] = plugins.find(GROUP, BUILT_IN, options.get("kind"))
    return make(**{key: value for key, value in options.items() if key != "kind"})


def world_at(drifts: Sequence[Drift], count: int) -> World:
    """Return the world of the events from ``count`` on.

    Examples
    --------
    >>> world_at([Gradual(period_events=100), Abrupt(begin=50)], 50).concept
    1.5
    """
    world = World()
    for drift in drifts:
        world = drift.apply(world, count)
    return world


def check(drift: Drift) -> list[Check]:
    """Run all checks on a drift.

    >>> all(one.passed for one in check(Gradual(begin=1_000)))
    True
    """
    return run_checks(CHECKS, drift)


_COUNTS = (*range(0, 20_000, 500), *range(20_000, 3_000_001, 20_000))
"""Where a drift is looked at."""


def finite(drift: Drift) -> str | None:
    """Worlds are finite at every count."""
    for count in _COUNTS:
        world = drift.apply(World(), count)
        if not all(map(math.isfinite, astuple(world))):
            return f"at {count:,} it is {world}"
    return None


def depends_on_the_count_alone(drift: Drift) -> str | None:
    """Equal counts have equal worlds, in whatever order they are asked."""
    forth = [drift.apply(World(), count) for count in _COUNTS]
    back = [drift.apply(World(), count) for count in reversed(_COUNTS)]
    for count, one, other in zip(_COUNTS, forth, reversed(back), strict=True):
        if one != other:
            return f"at {count:,} it is {one}, and asked again {other}"
    return None


def active_where_it_moves(drift: Drift) -> str | None:
    """Where the worlds of two counts differ, it says that it is active in between."""
    for begin, end in pairwise(_COUNTS):
        moves = drift.apply(World(), begin) != drift.apply(World(), end)
        if moves and not drift.active(begin, end + 1):
            return f"from {begin:,} to {end:,} the world moves, and it is not active"
    return None


_CHECKS = (finite, depends_on_the_count_alone, active_where_it_moves)
CHECKS: dict[str, Callable[[Drift], str | None]] = {one.__name__: one for one in _CHECKS}
"""All checks of a drift."""
