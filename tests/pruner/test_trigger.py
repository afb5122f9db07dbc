from __future__ import annotations

from collections.abc import Sequence

import pytest

from pruner.config import TriggerConfig
from pruner.triggers import Divergence, Fire, Hold, Periodic, Score, Seen, build

SIZE = 50


def seen(percents: Sequence[float], swap: int = 1000, **known: int) -> Seen:
    """Windows of 50 events since the swap, with relative CEs in percent."""
    scores = tuple(
        Score(swap + SIZE * i, swap + SIZE * (i + 1), percent / 100)
        for i, percent in enumerate(percents)
    )
    told = {"first_end": 1000, "last_decided": 900, "last_end": swap, "rebuilds": 0, **known}
    return Seen(scores, **told)


@pytest.mark.parametrize(
    ("percents", "fires"),
    [
        ([0.10], False),
        ([0.50], False),  # the first window is its own level
        ([0.10, 0.30], False),  # exactly at the threshold of 0.2 is not above it
        ([0.10, 0.31], True),
        ([0.50, 0.10, 0.31], True),  # the transient after the swap does not hide the rise
        ([0.50, 0.40, 0.55], False),
        ([0.10, 0.40, 0.20], False),  # it has come down again
        ([-0.10, 0.05, 0.11], True),
    ],
)
def test_divergence_fires_above_the_lowest_window_since_the_swap(
    percents: list[float], fires: bool
) -> None:
    answer = Divergence(threshold=0.002 + 1e-12).decide(seen(percents))
    assert isinstance(answer, Fire) == fires


@pytest.mark.parametrize(
    ("percents", "fires"),
    [
        ([0.1, 0.4], False),
        ([0.1, 0.4, 0.5], True),
        ([0.1, 0.4, 0.2, 0.5], False),
        ([0.1, 0.4, 0.2, 0.5, 0.4], True),
        ([0.4], False),
    ],
)
def test_patience_asks_for_windows_in_a_row(percents: list[float], fires: bool) -> None:
    answer = Divergence(threshold=0.002, patience=2).decide(seen(percents))
    assert isinstance(answer, Fire) == fires


def test_a_cooldown_holds_until_its_count_and_not_longer() -> None:
    trigger = Divergence(threshold=0.002, cooldown_events=150)
    assert trigger.decide(seen([0.1, 0.5])) == Hold(
        "cooling down until 1,150; relative CE +0.500 % stands 0.400 % above its level +0.100 %; "
        "threshold 0.200 %, windows in a row: 1"
    )
    assert isinstance(trigger.decide(seen([0.1, 0.5, 0.5])), Fire)


def test_a_cooldown_counts_from_the_last_rebuild_promoted_or_not() -> None:
    """A rebuild rejected at 1100: the swap stays at 1000, the cooldown begins anew."""
    trigger = Divergence(threshold=0.002, cooldown_events=150)
    assert isinstance(trigger.decide(seen([0.1, 0.5, 0.5], last_end=1100)), Hold)


@pytest.mark.parametrize(("rebuilds", "fires"), [(1, True), (2, False), (3, False)])
@pytest.mark.parametrize("trigger", [Divergence(budget=2), Periodic(50, budget=2)])
def test_a_spent_budget_ends_rebuilding(
    trigger: Divergence | Periodic, rebuilds: int, fires: bool
) -> None:
    answer = trigger.decide(seen([0.1, 0.5], rebuilds=rebuilds))
    assert isinstance(answer, Fire) == fires
    assert fires or answer == Hold("the budget of 2 rebuilds is spent")


def test_the_cause_names_the_figures() -> None:
    assert Divergence(threshold=0.002).decide(seen([0.1, 0.55])) == Fire(
        "relative CE +0.550 % stands 0.450 % above its level +0.100 %; threshold 0.200 %, "
        "windows in a row: 1"
    )


def periodic_fires(trigger: Periodic, ends: Sequence[int], rebuild_events: int) -> list[int]:
    """Ask on one window after the other, none while a rebuild is open; return when it fires."""
    fired: list[int] = []
    decided, end = 900, 1000
    for count in ends:
        if count <= end:
            continue
        told = Seen((Score(count - SIZE, count, 0.0),), 1000, decided, end, len(fired))
        if isinstance(trigger.decide(told), Fire):
            fired.append(count)
            decided, end = count, count + rebuild_events
    return fired


@pytest.mark.parametrize(
    ("phase", "expected"),
    [(0, [1200, 1400, 1600, 1800]), (100, [1100, 1300, 1500, 1700]), (300, [1300, 1500, 1700])],
)
def test_a_clock_fires_every_period_and_a_phase_moves_it(phase: int, expected: list[int]) -> None:
    ends = range(1050, 1850, SIZE)
    assert periodic_fires(Periodic(200, phase), ends, rebuild_events=150) == expected


def test_what_falls_due_while_a_rebuild_is_open_is_made_up_for_once() -> None:
    """Due at 1100, 1200, ...; a rebuild takes 250, so each one skips two and the clock stays."""
    fired = periodic_fires(Periodic(100), range(1050, 2000, SIZE), rebuild_events=250)
    assert fired == [1100, 1400, 1700]


@pytest.mark.parametrize("name", ["divergence", "periodic"])
def test_a_trigger_is_built_from_its_configuration(name: str) -> None:
    config = TriggerConfig.model_validate({"name": name, "budget": 7})
    trigger = build(config)
    assert trigger.name == name
    assert trigger in {
        Divergence(config.threshold, config.patience, config.cooldown_events, 7),
        Periodic(config.every_events, config.phase_events, 7),
    }
