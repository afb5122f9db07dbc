from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter

from evaluator.config import AlarmsConfig, EvaluatorConfig
from evaluator.join import JoinedBatch, Predicted
from evaluator.windows import Scoring, ScoringMessage, ScoringState
from stream.batch import ClickBatch
from stream.messages import Alarm, Window, dump
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature
from stream.spec import RunSpec
from tests.evaluator.stage import drawn

SCHEMA = FeatureSchema(
    numeric=(NumericFeature(name="price"),),
    categorical=(CategoricalFeature(name="site", buckets=30),),
)
SPEC = RunSpec.small(schema=SCHEMA)
CONFIG = EvaluatorConfig(
    windows=(100, 200, 500),
    models=("dense", "sparse"),
    min_clicks=2,
    segments=("site",),
    segments_top=3,
    alarms=AlarmsConfig(page_hinkley_threshold=4.0),
)
N, STEP, STARTS, JUMP = 6_000, 20, 1_000, 3_500
LABEL, WEIGHT = drawn(N)


def predicted(name: str) -> np.ndarray:
    """Predict the click rate of before the jump, the sparse model worse and worse behind it."""
    rng = np.random.default_rng(len(name))
    off = 0.3 if name == "dense" else 0.32 + 0.3 * (np.arange(N) > JUMP)
    return 1 / (1 + np.exp(0.8 + off * rng.standard_normal(N)))


CHANCE = {name: predicted(name) for name in ("dense", "sparse")}
LATER = np.arange(N) >= JUMP
SITE = np.random.default_rng(1).integers(2, 9, N)
PRICE = np.random.default_rng(2).standard_normal(N) + 9 * LATER
CLICKED = np.where(LATER & (np.random.default_rng(3).random(N) < 0.4), 1.0, LABEL)


def batch(begin: int) -> JoinedBatch:
    rows = slice(begin, begin + STEP)
    clicks = ClickBatch(
        label=CLICKED[rows].astype(np.float32),
        weight=WEIGHT[rows].astype(np.float32),
        time_ms=np.zeros(STEP, np.int64),
        numeric=PRICE[rows, None].astype(np.float32),
        categorical=SITE[rows, None].astype(np.int32),
    )
    names = ("dense", "sparse") if begin >= STARTS else ("dense",)
    models = {name: Predicted(1, CHANCE[name][rows]) for name in names}
    return JoinedBatch(begin, CLICKED[rows], WEIGHT[rows], models, clicks=clicks)


def values(told: tuple[ScoringMessage, ...]) -> list[bytes]:
    return [dump(message) for message in told]


def test_everything_that_follows_from_a_batch_is_told_in_one_order() -> None:
    scoring = Scoring(CONFIG, SPEC)
    told = [scoring.add(batch(begin))[1] for begin in range(0, 4_000, STEP)]
    at_1000 = told[1_000 // STEP - 1]
    assert [message.key for message in at_1000] == [
        "window/100/9",
        "window/200/4",
        "window/500/1",
        "lifetime/0/1000",
        "baselines/1000",
        "stability/1000",
    ]
    assert told[0] == ()
    assert isinstance(at_1000[0], Window)
    assert {segment.value for segment in at_1000[0].segments} >= {"rest"}
    features = {alarm.feature for one in told for alarm in one if isinstance(alarm, Alarm)}
    assert "price" in features
    keys = [message.key for one in told for message in one]
    assert len(keys) == len(set(keys))


def test_restarted_behind_every_batch_it_tells_the_same_bytes() -> None:
    adapter = TypeAdapter(ScoringState)
    whole = Scoring(CONFIG, SPEC)
    state = whole.state
    heard = set()
    for begin in range(0, N, STEP):
        part = Scoring(CONFIG, SPEC, adapter.validate_json(adapter.dump_json(state)))
        one = batch(begin)
        _, expected = whole.add(one)
        assert values(part.add(one)[1]) == values(expected)
        heard |= {alarm.detector for alarm in expected if isinstance(alarm, Alarm)}
        state = part.state
    assert adapter.dump_json(state) == adapter.dump_json(whole.state)
    assert heard == {"dense_loss", "relative_loss", "click_rate", "input"}
    part = Scoring(CONFIG, SPEC, state)
    assert values(part.finish()) == values(whole.finish())


@pytest.mark.parametrize("segments", [(), ("site",)])
def test_sums_hold_segments_only_where_they_are_asked_for(segments: tuple[str, ...]) -> None:
    scoring = Scoring(CONFIG.model_copy(update={"segments": segments}), SPEC)
    sums = [scoring.add(batch(begin))[0] for begin in range(0, 200, STEP)]
    assert [len(one.segments) for one in sums] == [0] * 5 + [len(segments)] * 5


def test_the_end_of_the_input_tells_partial_windows_and_raises_no_alarm() -> None:
    scoring = Scoring(CONFIG, SPEC)
    for begin in range(0, 1_240, STEP):
        scoring.add(batch(begin))
    told = scoring.finish()
    assert [message.key for message in told] == [
        "window/100/12/1240",
        "window/200/6/1240",
        "window/500/2/1240",
        "lifetime/0/1240",
        "lifetime/1000/1240",
        "baselines/1240",
    ]
