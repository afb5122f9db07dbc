from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import metrics
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluator.metrics.metric import BINS, Bounded, bins_of, histogram
from evaluator.metrics.pr_auc import pr_auc
from evaluator.metrics.roc_auc import roc_auc

EVENT = st.tuples(
    st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.2, 0.2000001, 0.5, 1.0])),
    st.booleans(),
    st.sampled_from([1.0, 0.25, 40.0]),
)


def columns(events: list[tuple[float, bool, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chance, label, weight = zip(*events, strict=True)
    return np.array(chance), np.array(label, float), np.array(weight)


def clicks(n: int, spread: float = 1.6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw predictions that are right, and what came of them."""
    rng = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-rng.normal(-1.7, spread, n)))
    return chance, (rng.random(n) < chance).astype(float), rng.uniform(0.5, 9, n)


@settings(deadline=None, max_examples=300)
@given(st.lists(EVENT, min_size=2, max_size=60))
def test_both_areas_lie_within_their_bounds_of_scikit_learn(
    events: list[tuple[float, bool, float]],
) -> None:
    chance, label, weight = columns(events)
    found = histogram(chance, label, weight)
    roc, pr = roc_auc(found), pr_auc(found, int(label.sum()))
    if label.min() == label.max():
        assert roc is pr is None
        return
    assert roc is not None
    assert pr is not None
    exact = roc_auc_score(label, chance, sample_weight=weight)
    assert abs(roc.value - exact) <= roc.error + 1e-9
    exact = average_precision_score(label, chance, sample_weight=weight)
    assert abs(pr.value - exact) <= pr.error + 1e-9


@pytest.mark.parametrize("spread", [0.3, 1.6])
def test_of_many_events_next_to_nothing_is_missed(spread: float) -> None:
    chance, label, weight = clicks(50_000, spread)
    found = histogram(chance, label, weight)
    roc, pr = roc_auc(found), pr_auc(found, int(label.sum()))
    assert roc is not None
    assert pr is not None
    assert roc.error < 0.01
    assert roc.value == pytest.approx(roc_auc_score(label, chance, sample_weight=weight), abs=2e-4)
    exact = average_precision_score(label, chance, sample_weight=weight)
    assert pr.error < 0.015
    assert pr.value == pytest.approx(exact, abs=3e-4)


def test_the_bounds_are_as_documented() -> None:
    chance, label, weight = clicks(50_000)
    found = histogram(chance, label, np.ones_like(weight))
    roc, pr = roc_auc(found), pr_auc(found, int(label.sum()))
    assert roc is not None
    assert pr is not None
    assert roc.error < 0.0015
    assert pr.error < 0.004
    assert roc.value == pytest.approx(roc_auc_score(label, chance), abs=3e-5)
    assert pr.value == pytest.approx(average_precision_score(label, chance), abs=1e-4)


def test_the_area_is_that_of_river() -> None:
    chance, label, _ = clicks(3_000)
    make: Any = metrics.RollingROCAUC
    river = make(window_size=3_000)
    for one, clicked in zip(chance.tolist(), label.tolist(), strict=True):
        river.update(bool(clicked), one)
    found = roc_auc(histogram(chance, label, np.ones(3_000)))
    assert found is not None
    assert found.value == pytest.approx(river.get(), abs=found.error)


def test_where_no_two_kinds_of_events_share_a_bin_the_areas_are_exact() -> None:
    chance = np.linspace(0.05, 0.9, 40)
    label = (np.arange(40) % 3 == 0).astype(float)
    found = histogram(chance, label, np.ones(40))
    assert len(np.unique(bins_of(np.log(chance / (1 - chance))))) == 40
    roc, pr = roc_auc(found), pr_auc(found, int(label.sum()))
    assert roc is not None
    assert pr is not None
    assert roc.value == pytest.approx(roc_auc_score(label, chance))
    assert roc.error == 0
    assert pr.value == pytest.approx(average_precision_score(label, chance))


def test_one_prediction_for_all_is_no_better_than_chance() -> None:
    label = np.zeros(1_000)
    label[:200] = 1
    found = histogram(np.full(1_000, 0.3), label, np.ones(1_000))
    roc, pr = roc_auc(found), pr_auc(found, 200)
    assert roc is not None
    assert pr is not None
    assert roc == Bounded(0.5, 0.5)
    assert pr.value == pytest.approx(0.2, abs=0.005)


def test_one_kind_of_events_has_no_area() -> None:
    chance = np.array([0.2, 0.4])
    for label in (np.zeros(2), np.ones(2)):
        found = histogram(chance, label, np.ones(2))
        assert roc_auc(found) is None
        assert pr_auc(found, int(label.sum())) is None


def test_certainty_has_the_bins_at_the_ends() -> None:
    assert bins_of(np.array([-np.inf, -14.0, 6.0, np.inf])).tolist() == [0, 0, BINS - 1, BINS - 1]


@settings(deadline=None)
@given(st.sets(st.integers(1, 199)))
def test_histograms_of_parts_add_up_to_that_of_the_whole(cuts: set[int]) -> None:
    chance, label, weight = clicks(200)
    edges = [0, *sorted(cuts), 200]
    merged = np.zeros((3, BINS))
    for begin, end in pairwise(edges):
        part = slice(begin, end)
        merged = merged + histogram(chance[part], label[part], weight[part])
    whole = histogram(chance, label, weight)
    assert merged == pytest.approx(whole, rel=1e-12)
