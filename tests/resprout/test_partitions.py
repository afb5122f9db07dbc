"""A whole run over clicks in two partitions, some of them no events, written by somebody else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from resprout.folder import RunFolder
from resprout.run import execute
from resprout.settings import DENSE, EVALUATOR, MODELS, PRUNER, SPARSE
from resprout.spec import ExternalSource, RunDefinition
from stream import topics
from stream.batch import ClickBatch
from stream.codec import columnar_record, end_record
from stream.columnar import predictions_from_bytes
from stream.log import Record
from stream.log.local import LocalLogStore
from stream.messages import PredictionBatch, Verdict, parse
from stream.reader import ClickReader
from tests.resprout.eventful import BATCH, PLAN, TOTAL, eventful
from tests.resprout.left import PARTS, Left, records
from tests.resprout.test_retention import NEEDED, begins, check_same, finish, tear
from tests.resprout.victim import Life, Promoted, Scored, lived

SCHEMA = PLAN.source.schema
THERE = RunDefinition(PLAN.settings, ExternalSource(SCHEMA))
PARTITIONS = 2
RECORDS = ((0, 330), (1, 170), (0, 90))
"""Partition and events of one record after the other, over and over: the first holds the more."""
FOREIGN = Record(b"<click/>", (("kind", b"xml"),))

Predicted = dict[tuple[str, int], bytes]
"""Each batch of each model, by the events before it: version, places and every bit."""


def stretches(total: int) -> list[tuple[int, int, int]]:
    """Cut a stream into records: the partition, and the events from where to where."""
    found: list[tuple[int, int, int]] = []
    begin = 0
    while begin < total:
        partition, size = RECORDS[len(found) % len(RECORDS)]
        found.append((partition, begin, min(begin + size, total)))
        begin += size
    return found


def write(state: Path, events: ClickBatch) -> None:
    """Write clicks in the order of a stream; what is no event comes before every tenth record."""
    home = LocalLogStore(state / "logs")
    home.create({topics.CLICKS: PARTITIONS})
    with closing(home.writer(topics.CLICKS)) as writer:
        for number, (partition, begin, end) in enumerate(stretches(len(events))):
            if number % 10 == 0:
                writer.append([FOREIGN], partition)
            writer.append([columnar_record(events[begin:end], SCHEMA)], partition)
        for partition in range(PARTITIONS):
            writer.append([FOREIGN, end_record()], partition)


def indices(batch: PredictionBatch, total: int) -> NDArray[np.int64]:
    """Tell which events of the stream a batch holds."""
    rows: list[list[NDArray[np.int64]]] = [[] for _ in range(PARTITIONS)]
    for number, (partition, begin, end) in enumerate(stretches(total)):
        if number % 10 == 0:
            rows[partition].append(np.empty(0, np.int64))
        rows[partition].append(np.arange(begin, end))
    found: list[NDArray[np.int64]] = []
    for span in batch.spans:
        records = rows[span.partition][span.first.offset : span.last.offset + 1]
        behind = len(records[-1]) - span.last.row - 1
        here = np.concatenate(records)[span.first.row :]
        found.append(here[: len(here) - behind])
        assert len(found[-1]) == span.events
    return np.concatenate(found)


def predicted(state: Path) -> Predicted:
    """Return all predictions of all models and candidates; repeats must be the same."""
    found: Predicted = {}
    for log in dict.fromkeys(map(topics.predictions, (*MODELS, "candidate-1"))):
        for stored in records(RunFolder(state), log):
            batch = predictions_from_bytes(stored.record.value)
            value = found.setdefault((batch.model, batch.begin), stored.record.value)
            assert value == stored.record.value
    return found


@dataclass(frozen=True)
class Over:
    """A run that is over."""

    events: ClickBatch
    state: Path
    predicted: Predicted
    order: list[NDArray[np.int64]]
    """Which events each batch of dense holds."""


@pytest.fixture(scope="module")
def run(whole: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Over:
    """The events of the eventful run, in two partitions, all there at the start."""
    log = whole.home.reader(topics.CLICKS)
    reader = ClickReader(log, SCHEMA, BATCH)
    events = ClickBatch.concat([counted.batch for counted in iter(reader.next, None)])
    log.close()
    state = tmp_path_factory.mktemp("two")
    write(state, events)
    assert execute(THERE, state).finished
    found = predicted(state)
    dense = [predictions_from_bytes(found[DENSE, begin]) for begin in range(0, TOTAL, BATCH)]
    return Over(events, state, found, [indices(batch, TOTAL) for batch in dense])


def test_every_event_of_every_partition_is_learned_once(run: Over) -> None:
    learned = np.concatenate(run.order)
    assert np.array_equal(np.sort(learned), np.arange(TOTAL))
    assert [len(batch) for batch in run.order[:-1]] == [BATCH] * (len(run.order) - 1)


def test_all_models_and_candidates_learn_the_batches_of_dense(run: Over) -> None:
    batches = [predictions_from_bytes(value) for value in run.predicted.values()]
    order = {batch.begin: batch.spans for batch in batches if batch.model == DENSE}
    assert {*MODELS} < {batch.model for batch in batches}
    assert all(batch.spans == order[batch.begin] for batch in batches)
    assert all(
        batch.trained_through.get(span.partition, (-1, 0)) < span.first
        for batch in batches
        for span in batch.spans
    )


def test_masks_are_made_judged_and_put_into_service(run: Over) -> None:
    ledger = [parse(stored.record.value) for stored in records(RunFolder(run.state), topics.LEDGER)]
    verdicts = [one for one in ledger if isinstance(one, Verdict)]
    assert [one.count for one in verdicts] == [7_000, 13_000, 17_000, 21_000, 25_000]
    assert verdicts[0].verdict == "promoted"
    assert verdicts[-1].verdict == "unfinished"
    assert all(one.judgement is not None for one in verdicts[1:-1])


def test_each_foreign_record_becomes_one_dead_letter(run: Over) -> None:
    folder = RunFolder(run.state)
    with closing(folder.home.reader(topics.CLICKS)) as reader:
        foreign = {
            f"dead_letter/{partition}/{stored.offset}/0"
            for partition in range(PARTITIONS)
            for stored in reader.read(partition, 0, 10_000)
            if stored.record == FOREIGN
        }
    letters = [parse(stored.record.value).key for stored in records(folder, topics.DEAD_LETTERS)]
    assert len(letters) == len(foreign)
    assert set(letters) == foreign


LIVES: Sequence[Life] = (
    Life(Scored(1_000, DENSE), "threads"),
    Life(Scored(5_000, PRUNER), "turns", seed=1),
    Life(Promoted(), "turns", seed=2),
    Life(Scored(9_000, EVALUATOR), "disk", after=3, seed=3),
    Life(Scored(11_000, SPARSE), "call", after=500, seed=4),
    Life(Scored(16_000, DENSE), "disk", after=7, seed=5),
    Life(Scored(22_000, EVALUATOR), "threads"),
)


def test_killed_again_and_again_it_leaves_the_same(run: Over, tmp_path: Path) -> None:
    """All clicks are there from the start, so there is nothing that the order could hang on."""
    write(tmp_path, run.events)
    for life in LIVES:
        assert lived(THERE, tmp_path, life), f"{life} was not ended by a kill"
    assert execute(THERE, tmp_path).finished
    one, two = Left.by(RunFolder(run.state)), Left.by(RunFolder(tmp_path))
    for part in PARTS:
        assert getattr(one, part) == getattr(two, part), part


def test_trimmed_after_every_step_it_leaves_the_same(run: Over, tmp_path: Path) -> None:
    """The newest checkpoints are damaged at each kill, so that older ones must find all, too."""
    plan = RunDefinition(eventful(**NEEDED), ExternalSource(SCHEMA))
    folder = RunFolder(tmp_path)
    write(tmp_path, run.events)
    for life in LIVES[1::2]:
        assert lived(plan, tmp_path, replace(life, trims=True)), f"{life} was not ended by a kill"
        tear(folder)
    finish(plan, folder)
    check_same(folder, RunFolder(run.state))
    assert all(begins(folder.home, topics.CLICKS, topics.predictions(DENSE)))


@pytest.mark.parametrize(
    ("batch", "at_work"),
    [
        pytest.param(62, {DENSE, "candidate-1"}, id="where the first candidate predicts"),
        pytest.param(123, {*MODELS, "candidate-2"}, id="where a candidate is judged"),
        pytest.param(130, {*MODELS}, id="right behind a swap"),
    ],
)
def test_flipping_every_label_from_a_batch_on_changes_no_prediction_up_to_its_end(
    run: Over, tmp_path: Path, batch: int, at_work: set[str]
) -> None:
    """Of all partitions at once: all events from the batch on, in the order of dense."""
    late = np.concatenate(run.order[batch:])
    label = run.events.label.copy()
    label[late] = 1 - label[late]
    write(tmp_path, replace(run.events, label=label))
    execute(THERE, tmp_path)
    told, end = predicted(tmp_path), (batch + 1) * BATCH
    before, after = (
        {key: value for key, value in found.items() if key[1] < end}
        for found in (run.predicted, told)
    )
    assert after == before
    assert {model for model, count in before if count == end - BATCH} == at_work
    learned = {model for model, count in run.predicted if count == end}
    assert {m for m in learned if run.predicted[m, end] != told[m, end]} == learned
