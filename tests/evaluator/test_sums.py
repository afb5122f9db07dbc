from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from evaluator.join import JoinedBatch, Predicted
from evaluator.metrics.metric import EventSums
from evaluator.windows import Sums
from tests.evaluator.stage import chance, drawn

N = 200
LABEL, WEIGHT = drawn(N)


def joined(begin: int, end: int, models: tuple[str, ...] = ("dense", "sparse")) -> JoinedBatch:
    rows = slice(begin, end)
    return JoinedBatch(
        begin=begin,
        label=LABEL[rows],
        weight=WEIGHT[rows],
        models={name: Predicted(1, chance(name, N)[rows]) for name in models},
        bayes=chance("bayes", N)[rows],
    )


def test_sums_are_those_of_scikit_learn_and_numpy() -> None:
    sums = Sums.of(joined(0, N))
    for name in ("dense", "sparse"):
        p = chance(name, N)
        expected = log_loss(LABEL, p, sample_weight=WEIGHT, normalize=False)
        assert sums.models[name].terms["loss"] == pytest.approx(expected, rel=1e-12)
        assert sums.models[name].terms["predicted_clicks"] == pytest.approx(np.dot(WEIGHT, p))
    bayes = log_loss(LABEL, chance("bayes", N), sample_weight=WEIGHT, normalize=False)
    assert sums.bayes == pytest.approx(bayes)
    assert sums.on == EventSums(N, int(LABEL.sum()), WEIGHT.sum(), np.dot(WEIGHT, LABEL))
    assert sums.on.click_rate == pytest.approx(np.average(LABEL, weights=WEIGHT))


def flat(sums: Sums) -> list[float]:
    """Lay all numbers of sums in a row."""
    found: list[float] = [sums.on.events, sums.on.clicked, sums.on.weight, sums.on.clicks]
    for model in sums.models.values():
        found += [value for _, value in sorted(model.terms.items())]
    return [*found, sums.bayes or 0.0]


@settings(deadline=None)
@given(st.sets(st.integers(1, N - 1)))
def test_sums_merge_to_the_same_in_any_split(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), N]
    parts = [Sums.of(joined(*stretch)) for stretch in pairwise(edges)]
    left = parts[0]
    for part in parts[1:]:
        left = left + part
    right = parts[-1]
    for part in reversed(parts[:-1]):
        right = part + right
    whole = flat(Sums.of(joined(0, N)))
    assert flat(left) == pytest.approx(whole, rel=1e-12, abs=1e-12)
    assert flat(right) == pytest.approx(whole, rel=1e-12, abs=1e-12)


def test_a_model_that_did_not_predict_everything_is_left_out() -> None:
    merged = Sums.of(joined(0, 10, ("dense",))) + Sums.of(joined(10, 20))
    assert list(merged.models) == ["dense"]
    assert merged.on.events == 20


def test_versions_stand_in_the_order_in_which_they_predicted() -> None:
    parts = []
    for version in (1, 1, 2, 2, 3):
        batch = joined(0, 10)
        batch.models["sparse"] = Predicted(version, batch.models["sparse"].probability)
        parts.append(Sums.of(batch))
    merged = parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
    assert merged.models["sparse"].versions == (1, 2, 3)
    assert merged.models["dense"].versions == (1,)


def test_the_truth_is_known_of_a_sum_if_it_is_known_of_all_parts() -> None:
    known = joined(0, 10)
    unknown = JoinedBatch(known.begin, known.label, known.weight, known.models)
    assert (Sums.of(known) + Sums.of(unknown)).bayes is None
    assert (Sums.of(known) + Sums.of(known)).bayes == pytest.approx(
        2
        * log_loss(LABEL[:10], chance("bayes", N)[:10], sample_weight=WEIGHT[:10])
        * sum(WEIGHT[:10])
    )


def test_drifts_of_a_sum_are_those_of_its_parts_each_once() -> None:
    parts = []
    for drift in (("churn",), ("abrupt", "churn"), ()):
        batch = joined(0, 10)
        parts.append(Sums.of(JoinedBatch(0, batch.label, batch.weight, batch.models, None, drift)))
    assert (parts[0] + parts[1] + parts[2]).drift == ("abrupt", "churn")


def test_an_infinite_loss_is_refused_by_name() -> None:
    batch = joined(20, 30)
    certain = np.where(LABEL[20:30] == 1, 0.0, 0.5)
    batch.models["sparse"] = Predicted(1, certain)
    with pytest.raises(
        ValueError, match="'sparse' gave probability 0 or 1 to an event of 21 to 30"
    ):
        Sums.of(batch)


def test_enough_of_both_kinds_counts_events_and_not_their_weight() -> None:
    heavy = EventSums.of(np.array([1.0, 0.0, 0.0, 0.0]), np.full(4, 50.0))
    assert heavy.has_both(1)
    assert not heavy.has_both(2)
