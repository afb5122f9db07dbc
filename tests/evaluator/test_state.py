from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from evaluator.metrics.relative_ce import RatioSums
from evaluator.worker import EvaluatorState, load, restart_point, save
from stream.retention import FIRST_CLICK
from stream.state import Checkpoints
from tests.evaluator.stage import CONFIG, SPEC, full_run, run

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.tuples(FINITE, FINITE, FINITE, FINITE, FINITE))
def test_sums_come_back_from_a_checkpoint_bit_for_bit(values: tuple[float, ...]) -> None:
    adapter = TypeAdapter(RatioSums)
    sums = RatioSums(3, *values)
    back = adapter.validate_json(adapter.dump_json(sums))
    assert np.array([back.a, back.b, back.aa, back.ab, back.bb]).tobytes() == (
        np.array(values).tobytes()
    )


def test_a_state_in_the_middle_of_everything_comes_back_whole(tmp_path: Path) -> None:
    stage = full_run(tmp_path)
    evaluator = stage.evaluator()
    run(evaluator, 270)
    evaluator.close()
    state = load(Checkpoints(tmp_path / "state"))
    assert state.cursor is not None
    assert state.judging.plan is not None
    again = Checkpoints(tmp_path / "again")
    save(again, 270, state)
    assert load(again) == state


def test_without_a_checkpoint_it_begins_with_the_first_event(tmp_path: Path) -> None:
    assert load(Checkpoints(tmp_path)) == EvaluatorState()


def test_in_the_middle_of_everything_it_needs_what_the_judgement_needs(tmp_path: Path) -> None:
    """It has scored 270 events, and judges those from 260 on; the next candidate comes later."""
    stage = full_run(tmp_path)
    evaluator = stage.evaluator()
    run(evaluator, 270)
    evaluator.close()
    kept = Checkpoints(tmp_path / "state").latest()
    assert kept is not None
    state, point = load(Checkpoints(tmp_path / "state")), restart_point(CONFIG, SPEC, kept.parts)
    cursors = [state.cursor, state.judging.cursor, *state.judging.starts.values()]
    counts = [cursor.clicks.count for cursor in cursors if cursor is not None]
    assert [cursor.count for cursor in point.clicks] == [counts[0], *counts[2:], counts[1]]
    assert min(counts) < 270
    assert set(point.offsets) == {
        "predictions.dense",
        "predictions.sparse",
        "predictions.candidate",
        "truth",
        "windows",
    }
    for log in ("predictions.dense", "predictions.sparse"):
        model = log.partition(".")[2]
        read = [cursor.predictions.get(model) for cursor in cursors if cursor is not None]
        assert point.offsets[log] == min(one.offset if one else 0 for one in read)
    assert point.offsets["windows"] > 0


def test_one_that_begins_needs_everything() -> None:
    point = restart_point(CONFIG, replace(SPEC, workers=("dense",)))
    assert point.clicks == [FIRST_CLICK]
    assert set(point.offsets.values()) == {0}
    assert "progress.dense" in point.offsets
