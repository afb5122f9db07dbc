from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from evaluator.join import Join, JoinCursor, JoinedBatch, check
from stream.codec import Invalid, columnar_record
from stream.log import LogIdentityError, Record
from stream.messages import DriftSpan, Position, PositionRange, PredictionBatch
from stream.reader import CountedBatch
from stream.spec import Waiting
from stream.topics import CLICKS
from tests.evaluator.stage import SCHEMA, SPEC, Stage, chance, click_batch, drawn

N = 60
LABEL, WEIGHT = drawn(N)
BOTH = ("dense", "sparse")


def join(stage: Stage, cursor: JoinCursor | None = None) -> Join:
    return Join(stage.home, stage.spec, cursor)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.clicks(LABEL, WEIGHT)
    return stage


def test_labels_weights_and_predictions_of_all_models_meet_by_position(stage: Stage) -> None:
    for model in BOTH:
        stage.predict(model, chance(model, N))
    joined = join(stage)
    for begin in range(0, N, 10):
        batch = joined.next(BOTH)
        rows = slice(begin, begin + 10)
        assert batch is not None
        assert (batch.begin, batch.end) == (begin, begin + 10)
        assert batch.label.tolist() == LABEL[rows].tolist()
        assert batch.weight.tolist() == WEIGHT[rows].tolist()
        for model in BOTH:
            assert batch.models[model].probability.tolist() == chance(model, N)[rows].tolist()
    assert joined.next(BOTH) is None


def test_nothing_is_handed_out_until_every_model_asked_for_has_predicted(stage: Stage) -> None:
    joined = join(stage)
    assert joined.next(BOTH) is None
    assert str(joined.missing) == "predictions.dense"
    stage.predict("dense", chance("dense", N))
    assert joined.next(BOTH) is None
    assert str(joined.missing) == "predictions.sparse"
    assert joined.count == 0
    stage.predict("sparse", chance("sparse", N), 0, 10)
    assert joined.next(BOTH) is not None
    assert joined.count == 10


def test_a_model_that_is_not_asked_for_is_not_waited_for(stage: Stage) -> None:
    stage.predict("dense", chance("dense", N))
    stage.predict("sparse", chance("sparse", N), 30)
    joined, found = join(stage), []
    for begin in range(0, N, 10):
        batch = joined.next(BOTH if begin >= 30 else BOTH[:1])
        assert batch is not None
        found.append(list(batch.models))
    assert found == [["dense"]] * 3 + [["dense", "sparse"]] * 3


def test_the_input_ends_only_with_its_end_record_and_the_last_batch_is_short(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path)
    stage.clicks(*drawn(14))
    stage.predict("dense", chance("dense", 14))
    joined = join(stage)
    assert joined.next(BOTH[:1]) is not None
    assert joined.next(BOTH[:1]) is None
    assert (joined.missing, joined.ended) == (Waiting(CLICKS), False)
    stage.end()
    assert joined.next(BOTH[:1]) is None
    assert (joined.missing, joined.ended) == (Waiting("predictions.dense"), False)
    stage.predict("dense", chance("dense", 14), 10)
    last = joined.next(BOTH[:1])
    assert last is not None
    assert len(last.label) == 4
    assert joined.next(BOTH[:1]) is None
    assert joined.ended


def test_the_truth_comes_with_the_batch_and_is_waited_for(stage: Stage) -> None:
    stage.spec = replace(SPEC, has_truth=True)
    stage.predict("dense", chance("dense", N))
    joined = join(stage)
    assert joined.next(BOTH[:1]) is None
    assert str(joined.missing) == "truth"
    stage.truth(chance("truth", N), DriftSpan(drift="churn", begin=0, end=13))
    first, second, third = (joined.next(BOTH[:1]) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.bayes is not None
    assert first.bayes.tolist() == chance("truth", N)[:10].tolist()
    assert [batch.drift for batch in (first, second, third)] == [("churn",), ("churn",), ()]


def fields(batch: JoinedBatch | None) -> object:
    assert batch is not None
    models = {name: (p.version, p.probability.tolist()) for name, p in batch.models.items()}
    assert batch.bayes is not None
    return batch.begin, batch.label.tolist(), models, batch.bayes.tolist()


def test_it_goes_on_from_its_cursor_as_if_it_had_never_stopped(stage: Stage) -> None:
    stage.spec = replace(SPEC, has_truth=True)
    stage.truth(chance("truth", N))
    for model in BOTH:
        stage.predict(model, chance(model, N))
    adapter = TypeAdapter(JoinCursor)
    whole, cursor = join(stage), None
    for _ in range(0, N, 10):
        stopped = join(stage, cursor)
        assert fields(stopped.next(BOTH)) == fields(whole.next(BOTH))
        stopped.next(BOTH)
        stopped = join(stage, cursor)
        stopped.next(BOTH)
        cursor = adapter.validate_json(adapter.dump_json(stopped.cursor))
        stopped.close()
    assert cursor == whole.cursor


def test_a_batch_that_waits_is_not_part_of_the_cursor(stage: Stage) -> None:
    stage.predict("dense", chance("dense", N))
    joined = join(stage)
    assert joined.next(BOTH) is None
    assert (joined.cursor.clicks.count, joined.cursor.clicks.places) == (0, {})
    assert joined.cursor.predictions["dense"].offset == 0


def test_a_repeat_that_differs_is_counted(stage: Stage) -> None:
    stage.predict("dense", chance("dense", N), 0, 20)
    stage.predict("dense", chance("other", N), 10)
    joined = join(stage)
    for begin in range(0, N, 10):
        batch = joined.next(BOTH[:1])
        assert batch is not None
        expected = chance("dense" if begin < 20 else "other", N)[begin : begin + 10]
        assert batch.models["dense"].probability.tolist() == expected.tolist()
    assert joined.conflicts == 1


def test_invalid_events_come_with_the_batch_after_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    label, weight = drawn(20)
    for begin in (0, 10):
        stage.append(CLICKS, Record(b"{"))
        rows = slice(begin, begin + 10)
        stage.append(CLICKS, columnar_record(click_batch(label[rows], weight[rows]), SCHEMA))
    stage.append(CLICKS, Record(b"["))
    stage.end()
    stage.predict("dense", chance("dense", 20))
    met: list[Invalid] = []
    joined = Join(stage.home, stage.spec, None, met.extend)
    found = [joined.next(BOTH[:1]) for _ in range(2)]
    assert [batch.skipped for batch in found if batch] == [{"unparsable": 1}] * 2
    assert joined.next(BOTH[:1]) is None
    assert joined.drain() == {"unparsable": 1}
    assert joined.cursor.clicks.ended
    assert joined.drain() == {}
    assert [one.offset for one in met] == [0, 2, 4]


def test_clicks_that_were_made_again_are_refused(stage: Stage, tmp_path: Path) -> None:
    cursor = join(stage).cursor
    other = Stage(tmp_path / "other")
    other.clicks(LABEL, WEIGHT)
    with pytest.raises(LogIdentityError, match="it was deleted and made again"):
        join(other, cursor)


CLICKED = click_batch(np.ones(3), np.ones(3))
SPANS = (PositionRange(0, Position(7, 4), Position(9, 0), 3),)
EVENTS = CountedBatch(20, CLICKED, SPANS, skipped={}, last=False)
HONEST = PredictionBatch("dense", 1, 20, SPANS, {0: Position(7, 3)}, np.full(3, 0.5))


@pytest.mark.parametrize(
    "through", [{}, {0: Position(7, 3)}, {0: Position(6, 400)}, {1: Position(99, 0)}]
)
def test_a_model_may_have_learned_from_everything_before_the_batch(
    through: dict[int, Position],
) -> None:
    check(replace(HONEST, trained_through=through), EVENTS)


@pytest.mark.parametrize(
    "seen", [Position(7, 4), Position(7, 5), Position(8, 0), Position(9, 0), Position(10, 2)]
)
def test_a_prediction_that_has_seen_its_click_is_refused(seen: Position) -> None:
    text = (
        "prediction of 'dense' for offset 7, row 4 came from a model trained through "
        f"offset {seen.offset}, row {seen.row}: it has seen the click"
    )
    with pytest.raises(ValueError, match=text):
        check(replace(HONEST, trained_through={0: seen}), EVENTS)


def test_every_partition_is_looked_at() -> None:
    spans = (
        PositionRange(0, Position(7, 0), Position(7, 1), 2),
        PositionRange(3, Position(1, 0), Position(1, 0), 1),
    )
    events = CountedBatch(20, CLICKED, spans, skipped={}, last=False)
    through = {0: Position(6, 9), 3: Position(1, 0)}
    with pytest.raises(ValueError, match="trained through offset 1, row 0: it has seen the click"):
        check(replace(HONEST, spans=spans, trained_through=through), events)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(HONEST, spans=(PositionRange(0, Position(7, 4), Position(9, 1), 3),)),
        replace(HONEST, probability=np.full(4, 0.5)),
    ],
    ids=["place", "number"],
)
def test_a_prediction_about_other_events_is_refused(wrong: PredictionBatch) -> None:
    with pytest.raises(ValueError, match="give all models the same batch_events and log"):
        check(wrong, EVENTS)


@pytest.mark.parametrize("odd", [np.nan, -0.01, 1.01, np.inf])
def test_what_is_no_probability_is_refused(odd: float) -> None:
    wrong = replace(HONEST, probability=np.array([0.5, odd, 0.5]))
    with pytest.raises(ValueError, match="'dense' predicted something that is no probability"):
        check(wrong, EVENTS)


def test_the_join_checks_what_it_hands_out(stage: Stage) -> None:
    wrong = chance("dense", N)
    wrong[13] = np.nan
    stage.predict("dense", wrong)
    joined = join(stage)
    assert joined.next(BOTH[:1]) is not None
    with pytest.raises(ValueError, match="no probability for the events 11 to 20"):
        joined.next(BOTH[:1])
