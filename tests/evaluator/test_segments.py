from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sklearn.metrics import log_loss, roc_auc_score

from evaluator.config import EvaluatorConfig
from evaluator.join import JoinedBatch, Predicted
from evaluator.metrics.metric import EventSums
from evaluator.windows import Scorer, Segments, SegmentsState, Sums
from stream.batch import ClickBatch
from stream.messages import Segment
from stream.schema import CategoricalFeature, FeatureSchema
from tests.evaluator.stage import chance, drawn

SCHEMA = FeatureSchema(
    categorical=(
        CategoricalFeature(name="site", buckets=50),
        CategoricalFeature(name="tags", buckets=9, max_values=3),
        CategoricalFeature(name="hour", buckets=26),
    )
)
N, LOOK = 6_000, 500
LABEL, WEIGHT = drawn(N)
RNG = np.random.default_rng(3)
SITE = np.minimum(RNG.geometric(0.25, N), 40).astype(np.int32)
HOUR = RNG.integers(2, 8, N).astype(np.int32)
TAGS = np.zeros((N, 3), np.int32)
TAGS[:, 0] = RNG.integers(1, 5, N)
TAGS[::2, 1] = RNG.integers(2, 7, len(TAGS[::2]))
TAGS[::4, 2] = TAGS[::4, 0]
MODELS = ("dense", "sparse")


def config(*segments: str | tuple[str, ...], top: int = 3) -> EvaluatorConfig:
    return EvaluatorConfig(
        windows=(LOOK,), models=MODELS, min_clicks=2, segments=segments, segments_top=top
    )


def joined(begin: int, end: int) -> JoinedBatch:
    rows = slice(begin, end)
    n = end - begin
    clicks = ClickBatch(
        label=LABEL[rows].astype(np.float32),
        weight=WEIGHT[rows].astype(np.float32),
        time_ms=np.zeros(n, np.int64),
        numeric=np.zeros((n, 0), np.float32),
        categorical=np.column_stack([SITE[rows], TAGS[rows], HOUR[rows]]),
    )
    predicted = {name: Predicted(1, chance(name, N)[rows]) for name in MODELS}
    bayes = chance("truth", N)[rows]
    return JoinedBatch(begin, LABEL[rows], WEIGHT[rows], predicted, bayes, clicks=clicks)


def summed(told: EvaluatorConfig, step: int = 100) -> Sums:
    """Sum up all events, batch by batch."""
    segments = Segments(SCHEMA, told)
    total: Sums | None = None
    for begin in range(0, N, step):
        batch = joined(begin, begin + step)
        sums = Sums.of(batch, segments.of(batch.clicks))
        total = sums if total is None else total + sums
    assert total is not None
    return total


def scored(told: EvaluatorConfig) -> tuple[Segment, ...]:
    found: tuple[Segment, ...] = Scorer(told).score(summed(told), EventSums())["segments"]
    return found


def held(segment: Segment, rows: np.ndarray) -> None:
    """Compare a segment with all that scikit-learn says of its events."""
    label, weight, truth = LABEL[rows], WEIGHT[rows], chance("truth", N)[rows]
    rate = np.average(label, weights=weight)
    assert segment.events == len(rows)
    assert segment.weight == pytest.approx(weight.sum())
    assert segment.clicks == pytest.approx(weight @ label)
    assert segment.click_rate == pytest.approx(rate)
    assert segment.bayes_ce == pytest.approx(log_loss(label, truth, sample_weight=weight))
    ces = {}
    for name in MODELS:
        p, score = chance(name, N)[rows], segment.models[name]
        assert score is not None
        ces[name] = log_loss(label, p, sample_weight=weight)
        assert score.metrics["ce"] == pytest.approx(ces[name], rel=1e-9)
        assert score.metrics["ne"] == pytest.approx(
            ces[name] / scipy.stats.entropy([rate, 1 - rate])
        )
        assert score.metrics["calibration"] == pytest.approx((weight @ p) / (weight @ label))
        assert score.errors["roc_auc"] is not None
        exact = roc_auc_score(label, p, sample_weight=weight)
        assert score.metrics["roc_auc"] == pytest.approx(exact, abs=score.errors["roc_auc"])
        divergence = truth * np.log(truth / p) + (1 - truth) * np.log((1 - truth) / (1 - p))
        assert score.metrics["regret"] == pytest.approx(np.average(divergence, weights=weight))
    relative = segment.interval("sparse", "relative_ce")
    assert relative is not None
    assert relative.mean == pytest.approx(ces["sparse"] / ces["dense"] - 1)
    assert relative.low is not None
    assert relative.low < relative.mean


def most_frequent(values: Sequence[tuple[int, ...]], top: int) -> list[tuple[int, ...]]:
    """Return the values that come most often, by brute force; the lower first of those as often."""
    counted = Counter(values)
    return sorted(counted, key=lambda value: (-counted[value], value))[:top]


def test_the_most_frequent_values_of_the_first_events_have_segments_of_the_events_since() -> None:
    *told, rest = scored(config("site"))
    top = [value for (value,) in most_frequent([(int(s),) for s in SITE[:LOOK]], 3)]
    words = ["missing" if value == 1 else str(value) for value in top]
    assert [segment.value for segment in told] == words
    assert (rest.value, rest.feature) == ("rest", "site")
    since = np.arange(LOOK, N)
    for segment, value in zip(told, top, strict=True):
        held(segment, since[SITE[since] == value])
    held(rest, since[~np.isin(SITE[since], top)])


def test_features_can_be_crossed() -> None:
    *told, rest = scored(config(("hour", "site"), top=4))
    pairs = [(int(h), int(s)) for h, s in zip(HOUR, SITE, strict=True)]
    top = most_frequent(pairs[:LOOK], 4)
    names = [",".join("missing" if b == 1 else str(b) for b in pair) for pair in top]
    assert [segment.value for segment in told] == names
    assert {segment.feature for segment in told} == {"hour,site"}
    for segment, pair in zip(told, top, strict=True):
        held(segment, np.array([at for at in range(LOOK, N) if pairs[at] == pair]))
    assert sum(segment.events for segment in told) + rest.events == N - LOOK


def test_an_event_with_several_values_counts_once_under_each() -> None:
    told = scored(config("tags"))
    sets = [frozenset(row) - {0} for row in TAGS.tolist()]
    top = [v for (v,) in most_frequent([(v,) for one in sets[:LOOK] for v in one], 3)]
    assert [s.value for s in told[:3]] == ["missing" if v == 1 else str(v) for v in top]
    for segment, value in zip(told, top, strict=False):
        held(segment, np.array([at for at in range(LOOK, N) if value in sets[at]]))
    others = [v for one in sets[LOOK:] for v in one if v not in top]
    assert told[-1].events == len(others)


def test_several_segmentations_stand_behind_each_other() -> None:
    told = scored(config("site", "hour", top=2))
    assert [segment.feature for segment in told] == ["site"] * 3 + ["hour"] * 3
    assert told[:3] == scored(config("site", top=2))


def test_a_segment_without_events_has_no_scores() -> None:
    told = scored(config("hour", top=20))
    assert [segment.events for segment in told][-1] == 0
    assert told[-1].click_rate is None
    assert told[-1].models == {"dense": None, "sparse": None}
    assert told[-1].bayes_ce is None


def test_without_the_truth_a_segment_has_no_regret() -> None:
    told = config("hour")
    segments = Segments(SCHEMA, told, SegmentsState(LOOK, chosen=((3,),)))
    batch = joined(0, 200)
    blind = JoinedBatch(0, batch.label, batch.weight, batch.models, clicks=batch.clicks)
    found = Scorer(told).score(Sums.of(blind, segments.of(blind.clicks)), EventSums())["segments"]
    assert {segment.bayes_ce for segment in found} == {None}
    assert {segment.models["dense"].metrics["regret"] for segment in found} == {None}


@settings(deadline=None, max_examples=25)
@given(st.sets(st.integers(1, 299)))
def test_segments_of_parts_add_up_to_those_of_the_whole(cuts: set[int]) -> None:
    state = SegmentsState(LOOK, chosen=((2, 3),))
    segments = Segments(SCHEMA, config("site"), state)
    edges = [0, *sorted(cuts), 300]
    parts = [joined(*stretch) for stretch in pairwise(edges)]
    sums = [Sums.of(part, segments.of(part.clicks)).segments[0] for part in parts]
    left, right = sums[0], sums[-1]
    for one, other in zip(sums[1:], reversed(sums[:-1]), strict=True):
        left, right = left + one, other + right
    whole = Sums.of(joined(0, 300), segments.of(joined(0, 300).clicks)).segments[0]
    for found in (left, right):
        for name, cells in whole.on.items():
            assert found.on[name].values == pytest.approx(cells.values, rel=1e-12, abs=1e-12)
        for model in MODELS:
            for name, cells in whole.models[model].items():
                values = found.models[model][name].values
                assert values == pytest.approx(cells.values, rel=1e-9, abs=1e-12)


def test_a_model_that_did_not_predict_everything_is_left_out() -> None:
    segments = Segments(SCHEMA, config("site"), SegmentsState(LOOK, chosen=((2, 3),)))
    both, alone = joined(0, 100), joined(100, 200)
    del alone.models["sparse"]
    merged = Sums.of(both, segments.of(both.clicks)) + Sums.of(alone, segments.of(alone.clicks))
    assert list(merged.segments[0].models) == ["dense"]
    told = Scorer(config("site")).score(merged, EventSums())["segments"]
    assert [segment.models["sparse"] for segment in told] == [None] * 3


def test_segments_go_on_from_their_state_as_if_nothing_had_happened() -> None:
    told, adapter = config("site", ("hour", "site"), "tags"), TypeAdapter(SegmentsState)
    whole, state = Segments(SCHEMA, told), Segments(SCHEMA, told).state
    for begin in range(0, 2 * LOOK, 50):
        segments = Segments(SCHEMA, told, adapter.validate_json(adapter.dump_json(state)))
        clicks = joined(begin, begin + 50).clicks
        for one, other in zip(whole.of(clicks), segments.of(clicks), strict=True):
            assert one.values == other.values
            assert one.group.tobytes() == other.group.tobytes()
        state = segments.state
        assert state == whole.state
    assert state.chosen is not None
    assert state.seen == ()


def test_other_segmentations_than_those_of_the_state_are_refused() -> None:
    state = Segments(SCHEMA, config("site")).state
    with pytest.raises(ValueError, match="2 segmentations cannot continue from 1"):
        Segments(SCHEMA, config("site", "hour"), state)


def test_an_unknown_feature_is_refused_by_name() -> None:
    text = "unknown categorical feature 'price'; known: site, tags, hour"
    with pytest.raises(ValueError, match=text):
        Segments(SCHEMA, config("price"))


def test_a_feature_with_several_values_cannot_be_crossed() -> None:
    with pytest.raises(ValueError, match="'tags' has several values and cannot be crossed"):
        Segments(SCHEMA, config(("site", "tags")))


def test_a_crossing_with_too_many_values_to_count_is_refused() -> None:
    wide = FeatureSchema(
        categorical=tuple(CategoricalFeature(name=f"f{i}", buckets=2**30) for i in range(3))
    )
    with pytest.raises(ValueError, match=r"segmentation f0,f1,f2 has 1\.2e\+27 values"):
        Segments(wide, config(("f0", "f1", "f2")))
