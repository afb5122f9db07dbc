from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.drift import Adwin, Change, Detector, PageHinkley


def adwin() -> Detector:
    return Adwin(delta=0.002)


def page_hinkley(error: float = 1.0) -> Detector:
    return PageHinkley(error, tolerance=0.5, threshold=10.0)


def fed(detector: Detector, values: list[float]) -> Change | None:
    """Feed values up to the first change."""
    for at, value in enumerate(values):
        if detector.update(value):
            return detector.change(values[: at + 1])
    return None


def shifted(before: int, behind: int, by: float, seed: int = 0) -> list[float]:
    rng = np.random.default_rng(seed)
    found: list[float] = rng.standard_normal(before + behind).tolist()
    return found[:before] + [value + by for value in found[before:]]


@settings(deadline=None)
@given(st.integers(10, 80), st.floats(-8, 8), st.integers(0, 1_000))
def test_whatever_adwin_takes_for_a_change_exceeds_its_own_bound(
    before: int, by: float, seed: int
) -> None:
    change = fed(adwin(), shifted(before, 60, by, seed))
    if change is not None:
        assert change.statistic > change.threshold > 0


@settings(deadline=None)
@given(st.integers(10, 80), st.floats(0, 8), st.integers(0, 1_000))
def test_whatever_page_hinkley_takes_for_a_change_exceeds_its_threshold(
    before: int, by: float, seed: int
) -> None:
    change = fed(page_hinkley(), shifted(before, 60, by, seed))
    if change is not None:
        assert change.statistic > change.threshold == 10
        assert change.rose


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("by", [4.0, -4.0])
def test_adwin_finds_a_shift_up_or_down_and_where_it_began(by: float, seed: int) -> None:
    change = fed(adwin(), shifted(60, 40, by, seed))
    assert change is not None
    assert abs(change.at - 60) <= 1
    assert change.rose == (by > 0)
    assert change.after - change.before == pytest.approx(by, abs=1.2)


@pytest.mark.parametrize("seed", range(5))
def test_page_hinkley_finds_a_shift_up_and_where_it_began(seed: int) -> None:
    change = fed(page_hinkley(), shifted(60, 40, 3.0, seed))
    assert change is not None
    assert abs(change.at - 60) <= 3
    assert change.after - change.before == pytest.approx(3, abs=1.2)


def test_page_hinkley_lets_a_fall_pass() -> None:
    assert fed(page_hinkley(), shifted(60, 60, -3.0)) is None


@pytest.mark.parametrize("unit", [1e-4, 1e3])
def test_the_unit_of_the_figures_does_not_matter(unit: float) -> None:
    values = shifted(40, 40, 3.0)
    scaled = [unit * value for value in values]
    for one, other in ((adwin(), adwin()), (page_hinkley(), page_hinkley(error=unit))):
        plain, told = fed(one, values), fed(other, scaled)
        assert plain is not None
        assert told is not None
        assert told.at == plain.at
        assert told.before == pytest.approx(plain.before * unit)
        assert told.statistic == pytest.approx(plain.statistic)


def test_figures_that_stand_still_are_no_change() -> None:
    assert fed(adwin(), [0.2] * 100) is None
    assert fed(page_hinkley(), [0.2] * 100) is None


def test_nothing_is_looked_for_in_fewer_than_ten_figures() -> None:
    assert fed(adwin(), [0.0] * 5 + [100.0] * 4) is None
    assert fed(page_hinkley(), [0.0] * 5 + [100.0] * 4) is None


def test_independent_noise_raises_no_alarm_in_30_000_figures() -> None:
    """Expected are 0.2 of Page and Hinkley's test at 7 in a million, and fewer of ADWIN."""
    found = 0
    for seed in range(100):
        values = shifted(300, 0, 0.0, seed)
        found += fed(adwin(), values) is not None
        found += fed(page_hinkley(), values) is not None
    assert found == 0
