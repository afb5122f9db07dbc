from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from evaluator.metrics.cross_entropy import cross_entropy, losses
from evaluator.metrics.normalized_entropy import background, normalized_entropy

RNG = np.random.default_rng(3)


def test_cross_entropy_equals_the_log_loss_of_scikit_learn() -> None:
    label = (RNG.random(1000) < 0.3).astype(float)
    probability = RNG.uniform(0.01, 0.99, 1000)
    weight = RNG.uniform(0.5, 20.0, 1000)
    assert cross_entropy(label, probability) == pytest.approx(log_loss(label, probability))
    expected = log_loss(label, probability, sample_weight=weight)
    assert cross_entropy(label, probability, weight) == pytest.approx(expected, rel=1e-12)


@given(st.floats(0, 1))
def test_entropy_equals_that_of_scipy(rate: float) -> None:
    assert background(rate, rate) == pytest.approx(scipy.stats.entropy([rate, 1 - rate]), abs=1e-12)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_background_is_the_entropy_and_the_divergence_of_the_two_rates(r: float, q: float) -> None:
    divergence = scipy.stats.entropy([r, 1 - r], [q, 1 - q])
    assert background(r, q) == pytest.approx(background(r, r) + divergence, abs=1e-12)


@given(st.lists(st.booleans(), min_size=2).filter(lambda kinds: len(set(kinds)) == 2))
def test_predicting_the_click_rate_scores_one(clicked: list[bool]) -> None:
    label = np.array(clicked, float)
    rate = label.mean()
    ce = cross_entropy(label, np.full(len(label), rate))
    assert normalized_entropy(ce, rate) == pytest.approx(1, abs=1e-12)
    assert normalized_entropy(ce, rate, predicted=rate) == pytest.approx(1, abs=1e-12)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_no_constant_beats_the_rate_of_the_same_events(rate: float, constant: float) -> None:
    found = normalized_entropy(background(rate, constant), rate)
    assert found is not None
    assert found >= 1 - 1e-12


def test_certainty_that_is_right_costs_nothing_and_one_that_is_wrong_infinity() -> None:
    found = losses(np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert found.tolist() == [0, 0, np.inf, np.inf]


@pytest.mark.parametrize(("rate", "predicted"), [(0.0, None), (1.0, None), (0.2, 0.0), (0.0, 0.0)])
def test_events_of_one_kind_have_no_normalized_entropy(
    rate: float, predicted: float | None
) -> None:
    assert normalized_entropy(0.3, rate, predicted) is None


def test_no_events_have_no_cross_entropy() -> None:
    with pytest.raises(ValueError, match="cross entropy of 0 events is not defined"):
        cross_entropy(np.empty(0), np.empty(0))


def test_figures_are_plain_floats() -> None:
    one = np.array([1.0])
    assert type(cross_entropy(one, one / 2)) is float
    assert type(background(0.5, 0.5)) is float
