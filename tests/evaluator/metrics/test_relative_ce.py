from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from evaluator.metrics.relative_ce import RatioSums

Floats = NDArray[np.float64]


def losses_of_two_models(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Draw losses of an incumbent, and a rival's that are 2 % higher on average."""
    incumbent = rng.exponential(0.5, n)
    return incumbent, incumbent * rng.normal(1.02, 0.3, n)


def test_the_interval_of_a_mean_difference_is_that_of_scipys_t_test() -> None:
    incumbent, rival = losses_of_two_models(np.random.default_rng(0), 400)
    found = RatioSums.of(rival - incumbent, np.ones(400)).interval()
    oracle = scipy.stats.ttest_rel(rival, incumbent).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(rival - incumbent))
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))


def test_the_interval_of_a_ratio_is_that_of_the_jackknife() -> None:
    incumbent, rival = losses_of_two_models(np.random.default_rng(1), 2000)
    found = RatioSums.of(rival - incumbent, incumbent).interval()
    left_out = (rival.sum() - rival) / (incumbent.sum() - incumbent) - 1
    error = np.sqrt(1999 / 2000 * ((left_out - left_out.mean()) ** 2).sum())
    assert found.high is not None
    assert found.mean == pytest.approx(rival.mean() / incumbent.mean() - 1)
    assert found.high - found.mean == pytest.approx(error * 1.961, rel=0.01)


def test_95_of_100_intervals_of_a_relative_ce_cover_the_truth() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(2000):
        incumbent, rival = losses_of_two_models(rng, 200)
        found = RatioSums.of(rival - incumbent, incumbent).interval()
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.02 <= found.high
    assert 0.935 <= covered / 2000 <= 0.965


def test_95_of_100_intervals_of_a_weighted_mean_difference_cover_the_truth() -> None:
    """Weights go along with the difference, as those of down-sampled negatives do."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(2000):
        weight = rng.choice([1.0, 10.0], 400)
        difference = rng.normal(np.where(weight == 10, 0.01, 0.05), 0.2)
        found = RatioSums.of(weight * difference, weight).interval()
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= (10 * 0.01 + 0.05) / 11 <= found.high
    assert 0.935 <= covered / 2000 <= 0.965


def test_the_interval_is_the_same_however_the_events_are_split() -> None:
    incumbent, rival = losses_of_two_models(np.random.default_rng(4), 999)
    whole = RatioSums.of(rival - incumbent, incumbent).interval()
    parts = np.split(np.stack([rival - incumbent, incumbent]), [1, 500, 640], axis=1)
    first, *rest = (RatioSums.of(a, b) for a, b in parts)
    for part in rest:
        first = first + part
    found = first.interval()
    assert (found.mean, found.low) == pytest.approx((whole.mean, whole.low), rel=1e-12)


def test_equal_models_have_an_interval_of_no_width() -> None:
    found = RatioSums.of(np.zeros(10), np.ones(10)).interval()
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_one_event_has_a_mean_but_no_interval() -> None:
    found = RatioSums.of(np.array([1.0]), np.array([4.0])).interval()
    assert (found.mean, found.low, found.high) == (0.25, None, None)
