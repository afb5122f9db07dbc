from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import sqrt

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import stats

from pruner.config import TriggerConfig
from pruner.triggers import Divergence, Fire, Hold, Periodic, Score, Seen, build, greatest_rise

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
        Divergence(config.threshold, config.patience, config.cooldown_events, 7, config.confidence),
        Periodic(config.every_events, config.phase_events, 7),
    }


THRESHOLD = 0.003


def noisy(means: NDArray[np.float64], error: float, rng: np.random.Generator) -> Seen:
    """Windows around true relative CEs, with normal noise of a known standard error."""
    return told(means + error * rng.standard_normal(len(means)), np.full(len(means), error))


def told(values: NDArray[np.float64], errors: NDArray[np.float64]) -> Seen:
    """Windows since a swap at 1000, with their standard errors."""
    scores = tuple(
        Score(1000 + SIZE * i, 1000 + SIZE * (i + 1), float(value), float(error))
        for i, (value, error) in enumerate(zip(values, errors, strict=True))
    )
    return Seen(scores, first_end=1000, last_decided=900, last_end=1000, rebuilds=0)


def fired_at(trigger: Divergence, seen: Seen) -> int | None:
    """Decide on one window after the other; return the number of the one that starts a rebuild."""
    for k in range(1, len(seen.scores) + 1):
        so_far = Seen(seen.scores[:k], seen.first_end, seen.last_decided, seen.last_end, 0)
        if isinstance(trigger.decide(so_far), Fire):
            return k
    return None


def alarms(trigger: Divergence, runs: Sequence[Seen]) -> int:
    return sum(fired_at(trigger, seen) is not None for seen in runs)


def test_noise_alone_starts_a_rebuild_no_more_often_than_its_confidence_says() -> None:
    """The threshold is far below the noise, so that the confidence alone holds it back.

    At a confidence of a half as many as half of the runs may fire; a margin that were not
    corrected for the many windows and pairs would let nearly all of them.
    """
    rng = np.random.default_rng(11)
    runs = [noisy(np.full(30, 0.01), 0.002, rng) for _ in range(100)]
    for confidence in (0.5, 0.95):
        trigger = Divergence(threshold=0.0002, confidence=confidence)
        assert alarms(trigger, runs) <= stats.binom.ppf(0.999, len(runs), 1 - confidence)
    assert alarms(Divergence(threshold=0.0002), runs) == len(runs)
    assert alarms(Divergence(threshold=0.0002, confidence=0.01), runs) > 0


def test_what_only_falls_starts_no_rebuild() -> None:
    """Right after the swap comes a transient, from which the sparse model recovers."""
    rng = np.random.default_rng(12)
    means = 0.002 + 0.02 * np.exp(-np.arange(30) / 4)
    runs = [noisy(means, 0.001, rng) for _ in range(60)]
    limit = stats.binom.ppf(0.999, len(runs), 0.05)
    assert alarms(Divergence(threshold=0.0001, confidence=0.95), runs) <= limit


@pytest.mark.parametrize("click_rate", [0.2, 0.02, 0.005])
def test_false_alarms_are_as_rare_with_the_noise_of_clicks(click_rate: float) -> None:
    """Two models of equal standing predict clicks: noise as it is, skewed and of unknown size."""
    rng = np.random.default_rng(13)
    windows, events, runs = 16, 10_000, 30

    def losses(probability: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.where(clicked, np.log(probability), np.log1p(-probability))

    seen = []
    for _ in range(runs):
        values, errors = [], []
        for _ in range(windows):
            odds = np.log(click_rate / (1 - click_rate)) + rng.standard_normal(events)
            clicked = rng.random(events) < 1 / (1 + np.exp(-odds))
            dense, sparse = (
                1 / (1 + np.exp(-odds - 0.2 * rng.standard_normal(events))) for _ in range(2)
            )
            root = losses(dense)
            ratio = losses(sparse).mean() / root.mean()
            values.append(ratio - 1)
            spread = (losses(sparse) - ratio * root).std(ddof=1)
            errors.append(spread / sqrt(events) / root.mean())
        seen.append(told(np.array(values), np.array(errors)))
    limit = stats.binom.ppf(0.999, runs, 0.05)
    assert alarms(Divergence(threshold=1e-6, confidence=0.95), seen) <= limit
    assert alarms(Divergence(threshold=1e-6), seen) == runs


@pytest.mark.parametrize(
    ("rise", "error", "within"),
    [
        (0.006, 0.0005, 1),  # twelve standard errors of a window: at once
        (0.006, 0.0015, 4),  # four: windows are pooled
        (0.006, 0.0030, 32),  # two
    ],
)
def test_a_rise_is_found_as_soon_as_pooled_windows_tell_it_from_noise(
    rise: float, error: float, within: int
) -> None:
    rng = np.random.default_rng(14)
    before = max(8, within)
    means = np.full(before + within, 0.001)
    means[before:] += rise
    trigger = Divergence(threshold=THRESHOLD, confidence=0.95)
    ends = [fired_at(trigger, noisy(means, error, rng)) for _ in range(40)]
    assert sum(end is not None and end > before for end in ends) >= 38


def test_a_rise_that_is_certain_but_below_the_threshold_starts_nothing() -> None:
    rng = np.random.default_rng(15)
    means = np.repeat([0.001, 0.001 + 0.5 * THRESHOLD], 20)
    seen = noisy(means, 0.0001, rng)
    assert fired_at(Divergence(threshold=THRESHOLD, confidence=0.95), seen) is None
    assert fired_at(Divergence(threshold=0.4 * THRESHOLD, confidence=0.95), seen) == 21


def brute_force(seen: Seen, threshold: float, confidence: float) -> bool:
    """Look at every pair of stretches, one by one."""
    values = [score.relative_ce for score in seen.scores]
    errors = [score.error or 0.0 for score in seen.scores]
    k, found = len(values), []
    for n, m in product([1, 2, 4, 8, 16], repeat=2):
        for begin in range(k - n - m + 1):
            last, earlier = range(k - n, k), range(begin, begin + m)
            rise = sum(values[i] for i in last) / n - sum(values[i] for i in earlier) / m
            variance = sum(errors[i] ** 2 for i in last) / n**2
            variance += sum(errors[i] ** 2 for i in earlier) / m**2
            found.append((rise, sqrt(variance)))
    if not found:
        return False
    z = stats.norm.isf((1 - confidence) / (k * (k - 1)) / len(found))
    return any(rise >= threshold and rise > z * error for rise, error in found)


def test_the_decision_is_that_of_a_search_over_all_pairs() -> None:
    rng = np.random.default_rng(16)
    trigger, answers = Divergence(threshold=THRESHOLD, confidence=0.9), []
    for _ in range(300):
        k = int(rng.integers(1, 20))
        values = 0.002 * rng.standard_normal(k) + 0.001 * np.arange(k)
        seen = told(values, 0.002 * rng.random(k))
        answers.append(isinstance(trigger.decide(seen), Fire))
        assert answers[-1] == brute_force(seen, THRESHOLD, 0.9)
    assert 50 < sum(answers) < 250


def test_with_a_confidence_patience_is_the_fewest_windows_that_are_pooled() -> None:
    seen = told(np.array([0.0, 0.0, 0.0, 0.01]), np.full(4, 0.0001))
    rise = greatest_rise(seen.scores, THRESHOLD, 0.95, patience=2)
    assert rise is not None
    assert rise.last_windows == 2
    assert rise.last == pytest.approx(0.005)
    assert greatest_rise(seen.scores, THRESHOLD, 0.95, patience=4) is None


def test_the_cause_names_rise_and_margin() -> None:
    seen = told(np.array([0.001, 0.001, 0.0055]), np.full(3, 0.0001))
    z = stats.norm.isf(0.05 / 6 / 4)
    margin = 100 * z * sqrt(0.0001**2 + 0.0001**2 / 2)
    assert Divergence(threshold=0.003, confidence=0.95).decide(seen) == Fire(
        f"relative CE +0.550 % stands 0.450 % ± {margin:.3f} % above its level +0.100 %; threshold "
        "0.300 %, confidence 95 %, windows pooled: 1 and 2"
    )


def test_a_single_window_or_one_without_an_error_decides_nothing() -> None:
    trigger = Divergence(threshold=0.002, confidence=0.95)
    assert trigger.decide(told(np.array([0.5]), np.array([0.1]))) == Hold(
        "windows since the switch: 1, too few to compare"
    )
    assert trigger.decide(seen([0.1, 0.5])) == Hold(
        "a window without a standard error cannot be told from noise"
    )


@pytest.mark.parametrize("confidence", [-0.1, 1.0, 95])
def test_a_confidence_is_a_chance_below_one(confidence: float) -> None:
    with pytest.raises(ValidationError, match="confidence"):
        TriggerConfig(confidence=confidence)
