from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluator.join import PredictionFollower
from stream.columnar import predictions_to_bytes
from stream.follow import LogPosition
from stream.log import LogIdentityError, LogWriter, Record
from stream.log.local import LocalLogStore
from stream.messages import PredictionBatch
from stream.topics import predictions


def record(begin: int, probability: float = 0.5, model: str = "dense") -> Record:
    batch = PredictionBatch(model, 1, begin, (), {}, np.full(10, probability))
    return Record(predictions_to_bytes(batch))


class Log:
    """One log of predictions, written and followed."""

    def __init__(self, folder: Path, model: str = "dense") -> None:
        self.home, self.model = LocalLogStore(folder), model
        self.writer: LogWriter = self.home.writer(predictions(model))

    def tail(
        self, position: LogPosition | None = None, model: str | None = None
    ) -> PredictionFollower:
        reader = self.home.reader(predictions(self.model))
        return PredictionFollower(model or self.model, reader, position)


@pytest.fixture
def dense(tmp_path: Path) -> Log:
    return Log(tmp_path)


@pytest.fixture
def candidates(tmp_path: Path) -> Log:
    return Log(tmp_path, "candidate-2")


def taken(tail: PredictionFollower, begin: int) -> float:
    """Take a batch, and return what it predicts."""
    found = tail.find(begin)
    assert found is not None
    tail.take()
    return float(found.probability[0])


def test_batches_come_in_order_and_are_none_until_they_are_there(dense: Log) -> None:
    tail = dense.tail()
    assert tail.find(0) is None
    dense.writer.append([record(0, 0.25), record(10, 0.75)])
    assert taken(tail, 0) == 0.25
    assert taken(tail, 10) == 0.75
    assert tail.find(20) is None


def test_a_batch_stays_until_it_is_taken(dense: Log) -> None:
    dense.writer.append([record(0)])
    tail = dense.tail()
    assert tail.find(0) is tail.find(0)
    assert tail.position.offset == 0
    tail.take()
    assert tail.position.offset == 1


def test_it_goes_on_behind_the_last_batch_taken(dense: Log) -> None:
    dense.writer.append([record(0), record(10, 0.1), record(20, 0.2)])
    tail = dense.tail()
    taken(tail, 0)
    tail.find(10)
    assert taken(dense.tail(tail.position), 10) == 0.1


def test_a_repeat_that_is_equal_is_dropped_in_silence(
    dense: Log, caplog: pytest.LogCaptureFixture
) -> None:
    dense.writer.append([record(0), record(10), record(0), record(10), record(20, 0.2)])
    tail = dense.tail()
    for begin in (0, 10, 20):
        taken(tail, begin)
    assert tail.conflicts == 0
    assert caplog.records == []


def test_a_repeat_that_differs_is_dropped_with_an_alarm(
    dense: Log, caplog: pytest.LogCaptureFixture
) -> None:
    dense.writer.append([record(0, 0.1), record(10, 0.2), record(0, 0.1), record(10, 0.3)])
    dense.writer.append([record(20, 0.4)])
    tail = dense.tail()
    assert [taken(tail, begin) for begin in (0, 10, 20)] == [0.1, 0.2, 0.4]
    assert tail.conflicts == 1
    assert "predictions.dense/dense/10 was published again with other bytes" in caplog.text


def test_a_repeat_is_compared_even_if_its_first_was_read_in_a_life_before(dense: Log) -> None:
    dense.writer.append([record(0, 0.1), record(10, 0.2)])
    before = dense.tail()
    taken(before, 0)
    taken(before, 10)
    dense.writer.append([record(0, 0.9), record(10, 0.2), record(20)])
    after = dense.tail(before.position)
    taken(after, 20)
    assert after.conflicts == 1


def test_the_first_of_a_repeat_is_found_however_far_back_it_stands(dense: Log) -> None:
    dense.writer.append([record(begin) for begin in range(0, 7000, 10)])
    tail = dense.tail()
    for begin in range(0, 7000, 10):
        taken(tail, begin)
    dense.writer.append([record(0, 0.9), record(6990, 0.9), record(7000)])
    taken(tail, 7000)
    assert tail.conflicts == 2


def test_every_run_of_repeats_is_compared(dense: Log) -> None:
    dense.writer.append([record(0), record(0), record(10, 0.1), record(10, 0.9), record(20)])
    tail = dense.tail()
    for begin in (0, 10, 20):
        taken(tail, begin)
    assert tail.conflicts == 1


def test_a_gap_is_refused(dense: Log) -> None:
    dense.writer.append([record(0), record(20)])
    tail = dense.tail()
    taken(tail, 0)
    with pytest.raises(ValueError, match="'dense' continue at 20, those from 10 on are missing"):
        tail.find(10)


def test_a_prediction_of_another_model_is_refused(dense: Log) -> None:
    dense.writer.append([record(0, model="sparse")])
    with pytest.raises(ValueError, match=r"predictions\.dense holds a prediction of 'sparse'"):
        dense.tail().find(0)


def test_a_log_that_was_made_again_is_refused(dense: Log) -> None:
    with pytest.raises(LogIdentityError, match=r"predictions\.dense before"):
        dense.tail(LogPosition("before", 0))


def test_earlier_candidates_are_passed_over(candidates: Log) -> None:
    candidates.writer.append([record(20, 0.1, "candidate-1"), record(40, 0.2, "candidate-2")])
    assert taken(candidates.tail(), 40) == 0.2


def test_a_later_candidate_says_that_no_more_will_come_and_is_left_for_its_own_turn(
    candidates: Log,
) -> None:
    candidates.writer.append([record(40, 0.2, "candidate-2"), record(80, 0.3, "candidate-3")])
    tail = candidates.tail()
    taken(tail, 40)
    assert tail.find(50) is None
    assert taken(candidates.tail(tail.position, "candidate-3"), 80) == 0.3


def test_candidates_are_ordered_by_number_and_not_by_letters(candidates: Log) -> None:
    candidates.writer.append([record(40, 0.2, "candidate-9"), record(80, 0.3, "candidate-10")])
    assert taken(candidates.tail(model="candidate-10"), 80) == 0.3
