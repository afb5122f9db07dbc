from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluator.join import TruthFollower
from stream.columnar import TruthBatch, truth_to_bytes
from stream.follow import LogPosition
from stream.log import LogIdentityError, Record
from stream.log.local import LocalLogStore
from stream.messages import DriftSpan
from stream.topics import TRUTH

CHANCE = np.random.default_rng(0).random(100)


def written(folder: Path, records: list[tuple[int, int]], *drift: DriftSpan) -> LocalLogStore:
    home = LocalLogStore(folder)
    writer = home.writer(TRUTH)
    for begin, end in records:
        here = tuple(span for span in drift if begin <= span.begin < end)
        writer.append([Record(truth_to_bytes(TruthBatch(begin, CHANCE[begin:end], here)))])
    writer.close()
    return home


def tail(home: LocalLogStore, position: LogPosition | None = None) -> TruthFollower:
    return TruthFollower(home.reader(TRUTH), position)


@pytest.mark.parametrize("record_events", [1, 7, 10, 64])
def test_the_truth_of_a_batch_is_found_whatever_the_sizes_of_records(
    tmp_path: Path, record_events: int
) -> None:
    records = [(b, min(b + record_events, 100)) for b in range(0, 100, record_events)]
    truth = tail(written(tmp_path, records))
    for begin in range(0, 100, 10):
        found = truth.find(begin, begin + 10)
        assert found is not None
        assert found.probability.tolist() == CHANCE[begin : begin + 10].tolist()
    assert truth.find(100, 110) is None


def test_it_goes_on_from_a_position_inside_a_record(tmp_path: Path) -> None:
    home = written(tmp_path, [(0, 7), (7, 64), (64, 100)])
    truth = tail(home)
    truth.find(0, 10)
    truth.find(10, 20)
    again = tail(home, truth.position).find(20, 30)
    assert truth.position.offset == 1
    assert again is not None
    assert again.probability.tolist() == CHANCE[20:30].tolist()


def test_what_is_there_in_part_is_not_there_yet(tmp_path: Path) -> None:
    assert tail(written(tmp_path, [(0, 7)])).find(0, 10) is None


@pytest.mark.parametrize("records", [[(0, 7), (9, 30)], [(7, 30)], [(0, 7), (5, 30)]])
def test_a_hole_or_an_overlap_is_refused(tmp_path: Path, records: list[tuple[int, int]]) -> None:
    truth = tail(written(tmp_path, records))
    with pytest.raises(ValueError, match="the truth about the events 1 to 20 has a hole"):
        truth.find(0, 20)


@pytest.mark.parametrize(
    ("span", "named"),
    [
        (DriftSpan(drift="churn", begin=0, end=10), [0]),
        (DriftSpan(drift="churn", begin=5, end=15), [0, 10]),
        (DriftSpan(drift="abrupt", begin=10, end=10), [10]),
        (DriftSpan(drift="abrupt", begin=0, end=0), [0]),
        (DriftSpan(drift="gradual", begin=12, end=28), [10, 20]),
    ],
)
def test_a_drift_is_named_in_the_batches_that_it_touches(
    tmp_path: Path, span: DriftSpan, named: list[int]
) -> None:
    truth = tail(written(tmp_path, [(0, 100)], span))
    found = {begin: truth.find(begin, begin + 10) for begin in (0, 10, 20, 30)}
    assert [begin for begin, one in found.items() if one and one.drift == (span.drift,)] == named


def test_a_log_that_was_made_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogIdentityError, match="truth before"):
        tail(written(tmp_path, []), LogPosition("before", 0))
