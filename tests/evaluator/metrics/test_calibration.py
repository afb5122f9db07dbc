from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from evaluator.metrics.calibration import calibration
from evaluator.metrics.ece import expected_calibration_error
from evaluator.metrics.metric import BINS, histogram


def test_promising_twice_the_clicks_that_come_is_a_calibration_of_two() -> None:
    assert calibration(predicted=8.0, observed=4.0) == 2


def test_without_clicks_there_is_none() -> None:
    assert calibration(predicted=0.1, observed=0.0) is None


def drawn(levels: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``each`` events at every one of some levels of prediction, and their labels."""
    rng = np.random.default_rng(seed)
    chance = np.repeat(np.linspace(0.05, 0.6, levels), each)
    label = (rng.random(levels * each) < np.clip(1.3 * chance - 0.02, 0, 1)).astype(float)
    order = rng.permutation(len(chance))
    return chance[order], label[order]


def test_over_groups_of_equal_size_it_is_that_of_scikit_learns_reliability_curve() -> None:
    chance, label = drawn(levels=10, each=50)
    observed, predicted = calibration_curve(label, chance, n_bins=10, strategy="quantile")
    found = expected_calibration_error(histogram(chance, label, np.ones(500)))
    assert found == pytest.approx(np.abs(observed - predicted).mean())


def test_more_groups_than_ten_are_put_together_with_their_neighbours() -> None:
    chance, label = drawn(levels=20, each=50)
    pairs = np.abs([(label - chance)[order].sum() for order in np.split(chance.argsort(), 10)])
    found = expected_calibration_error(histogram(chance, label, np.ones(1_000)))
    assert found == pytest.approx(pairs.sum() / 1_000)


def test_weights_count() -> None:
    chance, label = drawn(levels=5, each=40)
    weight = np.random.default_rng(1).uniform(0.5, 9, 200)
    gaps = [
        abs(np.sum((weight * (label - chance))[chance == level])) for level in np.unique(chance)
    ]
    found = expected_calibration_error(histogram(chance, label, weight), groups=200)
    assert found == pytest.approx(sum(gaps) / weight.sum())


def test_a_single_group_leaves_only_the_calibration_of_the_whole() -> None:
    chance, label = drawn(levels=7, each=30)
    found = expected_calibration_error(histogram(chance, label, np.ones(210)), groups=1)
    assert found == pytest.approx(abs(chance.mean() - label.mean()))


def test_chance_leaves_what_the_formula_says() -> None:
    """A model that is right, on 10 000 events of click rate 0.2, as documented."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        chance = 1 / (1 + np.exp(-rng.normal(-1.4, 0.1, 10_000)))
        label = (rng.random(10_000) < chance).astype(float)
        found.append(expected_calibration_error(histogram(chance, label, np.ones(10_000))))
    expected = np.sqrt(2 * 10 * 0.2 * 0.8 / (np.pi * 10_000))
    assert expected == pytest.approx(0.010, abs=0.0005)
    assert np.mean(np.array(found, float)) == pytest.approx(expected, rel=0.1)


def test_no_event_has_no_error() -> None:
    assert expected_calibration_error(np.zeros((3, BINS))) is None
