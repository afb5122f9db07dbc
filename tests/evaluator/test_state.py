from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from evaluator.metrics.relative_ce import RatioSums
from evaluator.worker import EvaluatorState, load, save
from stream.state import Checkpoints
from tests.evaluator.stage import full_run, run

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
