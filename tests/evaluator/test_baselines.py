"""The simple models beside the others: what they predict, and that a restart changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from river import linear_model, optim

from evaluator.baselines import RATE, BaselinesState, SimpleModels
from evaluator.config import EvaluatorConfig
from evaluator.join import JoinedBatch, Predicted
from stream import CategoricalFeature, ClickBatch, FeatureSchema, NumericFeature
from stream.messages import Baselines, Window
from tests.evaluator.runs import window

SCHEMA = FeatureSchema(
    numeric=(NumericFeature(name="price"),),
    categorical=(
        CategoricalFeature(name="site", buckets=50),
        CategoricalFeature(name="tags", buckets=50, max_values=2),
    ),
)
EVENTS, FIRST = 1_200, 330


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """See every one of few events alone."""
    monkeypatch.setattr("evaluator.baselines.FIRST_EVENTS", FIRST)


def clicks(events: int = EVENTS, seed: int = 3) -> ClickBatch:
    """Make events whose clicks follow from site and price; the second tag is often missing."""
    rng = np.random.default_rng(seed)
    site, tags = rng.integers(2, 6, events), rng.integers(2, 9, (events, 2))
    tags[rng.random(events) < 0.5, 1] = 0
    price = rng.normal(size=events)
    chance = 1 / (1 + np.exp(1.5 - 0.8 * (site - 3) - price))
    return ClickBatch(
        (rng.random(events) < chance).astype(np.float32),
        rng.choice([1.0, 2.0], events).astype(np.float32),
        np.arange(events),
        price[:, None].astype(np.float32),
        np.column_stack([site, tags]).astype(np.int32),
    )


def batches(found: ClickBatch, size: int, sparse_from: int = 0) -> list[JoinedBatch]:
    """Cut events into batches; dense predicts 0.3, sparse 0.6, the latter from a count on."""
    made = []
    for begin in range(0, len(found), size):
        part = found[slice(begin, begin + size)]
        chances = {"dense": 0.3} | ({"sparse": 0.6} if begin >= sparse_from else {})
        models = {name: Predicted(1, np.full(len(part), one)) for name, one in chances.items()}
        label, weight = part.label.astype(np.float64), part.weight.astype(np.float64)
        made.append(JoinedBatch(begin, label, weight, models, clicks=part))
    return made


def closed(end: int) -> tuple[Window, ...]:
    """Close a window of the second smallest size."""
    return (window(400, end // 400 - 1, {"dense": 0.4}),)


def config(every: int = 7) -> EvaluatorConfig:
    return EvaluatorConfig(windows=(200, 400), baseline_every=every)


def said(simple: SimpleModels, parts: Sequence[JoinedBatch]) -> list[Baselines]:
    found: list[Baselines] = []
    for one in parts:
        simple.add(one)
        if one.end % 400 == 0:
            found += simple.close(closed(one.end))
    return found


def by_hand(found: ClickBatch, every: int, begin: int, end: int) -> dict[str, float]:
    """Learn event by event with River, whose features have names, and add up the losses."""
    model: Any = linear_model.LogisticRegression(optim.AdaGrad(RATE))
    clicked, seen = 0.5, 1.0
    total, losses = 0.0, {"click_rate": 0.0, "logistic_regression": 0.0, "dense": 0.0}
    for row in (one for one in range(end) if one < FIRST or one % every == 0):
        site, *tags = found.categorical[row].tolist()
        x = {"price": float(found.numeric[row, 0]), f"site {site}": 1.0}
        x |= {f"tag {tag}": 1.0 for tag in tags if tag}
        y, w = bool(found.label[row]), float(found.weight[row])
        chances = {
            "click_rate": clicked / seen,
            "logistic_regression": model.predict_proba_one(x)[True],
            "dense": 0.3,
        }
        model.learn_one(x, y, w)
        clicked, seen = clicked + w * y, seen + w
        if row >= begin:
            total += w
            for name, chance in chances.items():
                losses[name] -= w * math.log(chance if y else 1 - chance)
    return {name: loss / total for name, loss in losses.items()}


def test_they_predict_each_event_before_they_learn_from_it() -> None:
    found = clicks()
    last = said(SimpleModels(config(), SCHEMA), batches(found, 50))[-1]
    assert (last.begin, last.end, last.every) == (800, 1_200, 7)
    expected = by_hand(found, 7, 800, 1_200)
    assert last.events == len([row for row in range(0, 1_200, 7) if row >= 800])
    assert last.models["dense"] == pytest.approx(expected["dense"], rel=1e-12)
    for name in ("click_rate", "logistic_regression"):
        assert last.baselines[name].ce == pytest.approx(expected[name], rel=1e-12)
    assert last.baselines["logistic_regression"].ce < last.baselines["click_rate"].ce


def test_a_model_is_compared_with_them_on_the_same_events() -> None:
    (_, _, last) = said(SimpleModels(config(), SCHEMA), batches(clicks(), 50))
    for baseline in last.baselines.values():
        for name, ce in last.models.items():
            ratio = baseline.relative[name]
            assert ratio.mean == pytest.approx(ce / baseline.ce - 1, rel=1e-12)
            assert ratio.low is not None
            assert ratio.high is not None
            assert ratio.low < ratio.mean < ratio.high


def test_how_batches_are_cut_changes_nothing() -> None:
    found = clicks()
    whole, parts = (said(SimpleModels(config(), SCHEMA), batches(found, n)) for n in (100, 20))
    for one, other in zip(whole, parts, strict=True):
        assert one.events == other.events
        for name in one.baselines:
            assert one.baselines[name].ce == pytest.approx(other.baselines[name].ce, rel=1e-12)


@pytest.mark.parametrize("cut", [1, 7, 16])
def test_after_a_restart_the_bits_are_the_same(cut: int) -> None:
    parts, adapter = batches(clicks(), 50), TypeAdapter(BaselinesState)
    whole = said(SimpleModels(config(), SCHEMA), parts)
    first = SimpleModels(config(), SCHEMA)
    before = said(first, parts[:cut])
    kept = adapter.dump_json(first.state)
    again = SimpleModels(config(), SCHEMA, adapter.validate_json(kept))
    assert adapter.dump_json(again.state) == kept
    assert before + said(again, parts[cut:]) == whole


def test_a_model_that_did_not_predict_all_of_a_range_is_left_out_of_it() -> None:
    parts = batches(clicks(), 50, sparse_from=500)
    found = said(SimpleModels(config(), SCHEMA), parts)
    assert [list(one.models) for one in found] == [["dense"], ["dense"], ["dense", "sparse"]]
    assert [list(one.baselines["click_rate"].relative) for one in found[1:]] == [
        ["dense"],
        ["dense", "sparse"],
    ]


def test_they_can_be_left_out() -> None:
    simple = SimpleModels(config(every=0), SCHEMA)
    assert said(simple, batches(clicks(), 50)) == []
    assert simple.state == BaselinesState()


def test_new_values_have_no_weight_once_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluator.baselines.MAX_FEATURES", 4)
    simple = SimpleModels(config(every=1), SCHEMA)
    said(simple, batches(clicks(), 50))
    kept = simple.state.logistic
    assert kept is not None
    assert 4 <= len(kept.features.values) <= 7
