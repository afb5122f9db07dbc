from __future__ import annotations

import math
import pickle
from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from river import evaluate, linear_model, utils
from sklearn.metrics import log_loss

from evaluator.metrics.river import Calibration, CrossEntropy, NormalizedEntropy

RNG = np.random.default_rng(11)
CLICKED = RNG.random(300) < 0.3
CHANCE = RNG.uniform(0.05, 0.9, 300)
WEIGHT = RNG.uniform(0.5, 9, 300)
Metric = CrossEntropy | NormalizedEntropy | Calibration
ALL: list[type[Metric]] = [CrossEntropy, NormalizedEntropy, Calibration]


def fed(metric: Metric, weighted: bool = True) -> Metric:
    for clicked, chance, weight in zip(CLICKED, CHANCE, WEIGHT, strict=True):
        metric.update(bool(clicked), float(chance), float(weight) if weighted else 1.0)
    return metric


def test_cross_entropy_is_the_log_loss_of_scikit_learn() -> None:
    expected = log_loss(CLICKED, CHANCE, sample_weight=WEIGHT)
    assert fed(CrossEntropy()).get() == pytest.approx(expected)


def test_normalized_entropy_divides_by_the_entropy_of_the_click_rate() -> None:
    rate = float(np.average(CLICKED, weights=WEIGHT))
    expected = log_loss(CLICKED, CHANCE, sample_weight=WEIGHT)
    expected /= scipy.stats.entropy([rate, 1 - rate])
    assert fed(NormalizedEntropy()).get() == pytest.approx(expected)


def test_calibration_divides_predicted_by_observed_clicks() -> None:
    assert fed(Calibration(), weighted=False).get() == pytest.approx(CHANCE.sum() / CLICKED.sum())


@pytest.mark.parametrize("kind", ALL)
def test_what_is_reverted_leaves_no_trace(kind: type[Metric]) -> None:
    metric, before = fed(kind()), fed(kind()).get()
    metric.update(True, 0.0)
    metric.update(False, {True: 0.4, False: 0.6}, 3.0)
    assert metric.get() != pytest.approx(before)
    metric.revert(False, {True: 0.4, False: 0.6}, 3.0)
    metric.revert(True, 0.0)
    assert metric.get() == pytest.approx(before)


@pytest.mark.parametrize("kind", ALL)
def test_nothing_seen_is_nan(kind: type[Metric]) -> None:
    assert math.isnan(kind().get())


def test_events_of_one_kind_have_no_normalized_entropy() -> None:
    metric = NormalizedEntropy()
    metric.update(False, 0.2)
    assert math.isnan(metric.get())


def test_a_certain_prediction_that_was_wrong_is_infinite_until_it_leaves_the_window() -> None:
    rolling = utils.Rolling(CrossEntropy, window_size=2)
    found = []
    for chance in (0.0, 0.5, 0.5):
        rolling.update(True, chance)
        found.append(rolling.obj.get())
    assert found == [math.inf, math.inf, pytest.approx(math.log(2))]


def test_an_event_of_no_weight_counts_for_nothing_however_wrong_the_prediction() -> None:
    metric = CrossEntropy()
    metric.update(True, 0.5)
    metric.update(True, 0.0, 0.0)
    assert metric.get() == pytest.approx(math.log(2))


@pytest.mark.parametrize("kind", ALL)
def test_another_label_can_be_the_click(kind: type[Metric]) -> None:
    here, there = kind(), kind(pos_val=False)
    for clicked, chance in [(True, 0.9), (False, 0.3), (True, 0.6)]:
        here.update(clicked, {True: chance, False: 1 - chance})
        there.update(not clicked, {False: chance, True: 1 - chance})
    assert here.get() == pytest.approx(there.get())


@pytest.mark.parametrize("kind", ALL)
def test_a_pickled_metric_goes_on_and_a_clone_begins_anew(kind: type[Metric]) -> None:
    metric = fed(kind())
    again = pickle.loads(pickle.dumps(metric))
    assert again.get() == metric.get()
    assert math.isnan(metric.clone().get())


def test_progressive_validation_of_river_takes_all_of_them_at_once() -> None:
    x = RNG.normal(size=(400, 2))
    clicked = RNG.random(400) < 1 / (1 + np.exp(-x[:, 0]))
    rows: list[tuple[dict[Hashable, Any], Any]] = [
        ({"a": a, "b": b}, bool(y)) for (a, b), y in zip(x.tolist(), clicked, strict=True)
    ]
    together = CrossEntropy() + NormalizedEntropy() + Calibration()
    evaluate.progressive_val_score(rows, linear_model.LogisticRegression(), together)
    steps = evaluate.iter_progressive_val_score(
        rows, linear_model.LogisticRegression(), CrossEntropy(), step=1, yield_predictions=True
    )
    chances = [step["Prediction"][True] for step in steps]
    ce, ne, calibration = together.get()
    assert ce == pytest.approx(log_loss(clicked, chances))
    assert ce < ne < 1.05
    assert calibration == pytest.approx(sum(chances) / clicked.sum())


def test_smaller_is_better_but_for_calibration_there_is_no_order() -> None:
    good, bad = CrossEntropy(), CrossEntropy()
    good.update(True, 0.9)
    bad.update(True, 0.1)
    assert good.is_better_than(bad)
    with pytest.raises(NotImplementedError, match="calibration is best at 1"):
        Calibration().is_better_than(Calibration())
