from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from river import checks, datasets, evaluate, metrics, preprocessing

from learner.config import LearnerConfig, ModelConfig
from learner.models import build
from learner.online import OnlineModel
from learner.river import RiverClassifier, event_of
from stream.batch import encode
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature

SMALL = ModelConfig(options={"embedding_dim": 4, "bottom": [8], "top": [8]})
SCHEMA = FeatureSchema(
    numeric=(NumericFeature(name="price"),),
    categorical=(
        CategoricalFeature(name="site", buckets=50),
        CategoricalFeature(name="tags", buckets=50, max_values=3),
    ),
)


def events(n: int, seed: int = 0) -> list[tuple[dict[str, Any], bool]]:
    rng = np.random.default_rng(seed)
    found: list[tuple[dict[str, Any], bool]] = []
    for site, price in zip(rng.integers(0, 5, n), rng.standard_normal(n), strict=True):
        x = {"site": f"site {site}", "price": float(price), "tags": ["new", f"tag {site % 2}"]}
        found.append((x, bool(rng.random() < (0.9 if site % 2 else 0.1))))
    return found


def test_it_keeps_the_conventions_of_river() -> None:
    checks.check_estimator(RiverClassifier(model=SMALL))


def test_it_learns_on_river_s_own_data() -> None:
    learner = RiverClassifier(model=ModelConfig(), learner=LearnerConfig(rate=0.03))
    model = preprocessing.StandardScaler() | learner
    accuracy: Callable[[], metrics.base.Metric] = metrics.Accuracy
    scored = evaluate.progressive_val_score(datasets.Phishing(), model, accuracy())
    assert scored.get() > 0.85


def test_it_learns_exactly_what_the_learner_learns_in_batches() -> None:
    config = LearnerConfig(rate=0.05)
    river = RiverClassifier(SCHEMA, SMALL, config, batch_events=4, seed=3)
    online = OnlineModel(build("dlrm", SCHEMA, dict(SMALL.options), 3), config)
    stream = events(12)
    for at in range(0, 12, 4):
        four = stream[at : at + 4]
        expected = online.predict(encode([event_of(x, 0, SCHEMA) for x, _ in four], SCHEMA))
        found = [river.predict_proba_one(x)[True] for x, _ in four]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        online.learn(encode([event_of(x, int(y), SCHEMA) for x, y in four], SCHEMA))
        for x, y in four:
            river.learn_one(x, y)


def test_a_pickle_goes_on_bit_for_bit() -> None:
    first = RiverClassifier(SCHEMA, SMALL, batch_events=4)
    stream = events(20)
    for x, y in stream[:10]:
        first.learn_one(x, y)
    second = pickle.loads(pickle.dumps(first))
    for x, y in stream[10:]:
        assert first.predict_proba_one(x) == second.predict_proba_one(x)
        first.learn_one(x, y)
        second.learn_one(x, y)


def test_a_prediction_depends_on_no_order_of_values_and_on_no_unknown_feature() -> None:
    model = RiverClassifier(SCHEMA, SMALL)
    one = model.predict_proba_one({"site": "a", "price": 1.0, "tags": ["b", "c"]})
    two = model.predict_proba_one({"tags": {"c", "b"}, "price": 1, "site": "a", "new": 3})
    assert one == two


@pytest.mark.parametrize("nothing", [{}, {"price": None, "site": None}, {"price": float("nan")}])
def test_absent_none_and_nan_are_all_missing(nothing: dict[str, Any]) -> None:
    model = RiverClassifier(SCHEMA, SMALL)
    assert model.predict_proba_one(nothing) == model.predict_proba_one({"site": float("nan")})


def test_before_anything_is_known_both_labels_are_as_likely() -> None:
    assert RiverClassifier().predict_proba_one({"site": "a"}) == {False: 0.5, True: 0.5}


@pytest.mark.parametrize("label", [2, "yes", None])
def test_a_label_that_is_no_click_is_refused(label: object) -> None:
    with pytest.raises(ValueError, match=r"label .*: clicks are True or 1, False or 0"):
        RiverClassifier().learn_one({"site": "a"}, label)


def test_a_name_where_a_number_must_be_is_refused() -> None:
    with pytest.raises(ValueError, match="feature 'price' is 'high'; the schema says that it is a"):
        RiverClassifier(SCHEMA, SMALL).predict_proba_one({"price": "high"})


def test_batches_of_no_events_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_events is 0; it must be at least 1"):
        RiverClassifier(batch_events=0)
