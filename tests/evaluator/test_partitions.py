"""Clicks in several partitions, some of them no events: all is scored, each letter is kept once."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluator.join import Join
from stream import topics
from stream.codec import columnar_record, end_record
from stream.columnar import predictions_to_bytes
from stream.follow import read_all
from stream.log import Record, StoredRecord
from stream.log.local import LocalLogStore
from stream.messages import DeadLetter, Lifetime, Position, PredictionBatch
from stream.ordering import LOG, RoundRobin
from stream.reader import ClickReader, CountedBatch
from stream.spec import Waiting
from tests.evaluator.stage import SCHEMA, Stage, chance, run, with_models
from tests.evaluator.test_dead_letters import FOREIGN, LABEL, WEIGHT, event, events, with_bad_rows

TOTAL = 60
FIRST = [
    [*FOREIGN.values(), *(event(n) for n in range(9))],
    [columnar_record(events(15, 25), SCHEMA), *FOREIGN.values()],
]
"""What is there when dense begins, in each partition; the numbers of the events tell them apart."""
LATER = [
    [*(event(n, (("kind", b"json"),)) for n in range(9, 15)), *FOREIGN.values(), end_record()],
    [
        with_bad_rows(),
        *FOREIGN.values(),
        columnar_record(events(40, 50), SCHEMA),
        *(event(n) for n in range(50, TOTAL)),
        *FOREIGN.values(),
        end_record(),
    ],
]


def home_of(stage: Stage) -> LocalLogStore:
    home = LocalLogStore(stage.folder / "logs")
    home.create({topics.CLICKS: 2})
    return home


def write(stage: Stage, parts: Sequence[Sequence[Record]]) -> None:
    with closing(home_of(stage).writer(topics.CLICKS)) as writer:
        for partition, records in enumerate(parts):
            writer.append(records, partition)


def laid_out(folder: Path) -> Stage:
    """Lay out clicks that come in two waves, and what dense predicts of them in its order."""
    stage = with_models(Stage(folder), ["dense"])
    write(stage, FIRST)
    reader = ClickReader(home_of(stage).reader(topics.CLICKS), SCHEMA, 10, None, RoundRobin())
    batches = [*iter(reader.next, None)]
    write(stage, LATER)
    batches += iter(reader.next, None)
    assert reader.ended
    predict(stage, batches)
    return stage


def predict(stage: Stage, batches: Sequence[CountedBatch]) -> None:
    probability, through = chance("dense", TOTAL), dict[int, Position]()
    with closing(stage.home.writer(LOG)) as writer:
        for batch in batches:
            rows = probability[batch.begin : batch.end]
            made = PredictionBatch("dense", 0, batch.begin, batch.spans, through, rows)
            writer.append([Record(predictions_to_bytes(made))])
            through = through | {span.partition: span.last for span in batch.spans}


def stored(stage: Stage) -> list[StoredRecord]:
    with closing(stage.home.reader(topics.CLICKS)) as reader:
        return [one for partition in (0, 1) for one in read_all(reader, partition)]


def letters(stage: Stage) -> list[DeadLetter]:
    return [one for one in stage.messages(topics.DEAD_LETTERS) if isinstance(one, DeadLetter)]


def check(stage: Stage) -> None:
    """See that each foreign record and each bad row has one letter with its bytes and headers."""
    found = {(one.partition, one.offset, one.row): one for one in letters(stage)}
    assert len(found) == len(letters(stage))
    bad = [(one.partition, one.offset) for one in stored(stage) if one.header("from") == b"site-7"]
    known = [*FOREIGN.values()]
    foreign = {(s.partition, s.offset): s.record for s in stored(stage) if s.record in known}
    assert len(foreign) == 5 * len(FOREIGN)
    assert set(found) == {(*place, 0) for place in foreign} | {
        (*place, row) for place in bad for row in (0, 9, 17)
    }
    for place, record in foreign.items():
        letter = found[*place, 0]
        assert base64.b64decode(letter.raw) == record.value
        headers = tuple((name, base64.b64decode(value)) for name, value in letter.headers)
        assert headers == record.headers


def test_every_event_of_every_partition_is_scored_in_the_order_of_dense(tmp_path: Path) -> None:
    stage = laid_out(tmp_path)
    steps = run(stage.evaluator())
    assert (steps[-1].done, steps[-1].count) == (True, TOTAL)
    scored = [one for one in stage.messages(topics.WINDOWS) if isinstance(one, Lifetime)]
    join, seen = Join(stage.home, stage.spec), []
    while (batch := join.next(["dense"])) is not None:
        seen += [*zip(batch.label.tolist(), batch.weight.tolist(), strict=True)]
    join.close()
    assert sorted(seen) == sorted(zip(LABEL.tolist(), WEIGHT.tolist(), strict=True))
    weight = np.array([weight for _, weight in seen])
    assert scored[-1].weight == pytest.approx(weight[: scored[-1].end].sum())


def test_a_join_goes_on_from_every_place_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    stage = laid_out(tmp_path)
    whole, cursor = Join(stage.home, stage.spec), None
    while (batch := whole.next(["dense"])) is not None:
        again = Join(stage.home, stage.spec, cursor)
        found = again.next(["dense"])
        again.close()
        assert found is not None
        assert found.label.tolist() == batch.label.tolist()
        assert found.skipped == batch.skipped
        cursor = again.cursor
        assert cursor == whole.cursor
    assert whole.ended
    whole.close()


def test_it_waits_for_the_order_and_says_so(tmp_path: Path) -> None:
    stage = with_models(Stage(tmp_path), ["dense"])
    write(stage, FIRST)
    assert run(stage.evaluator())[-1].waiting_for == Waiting("predictions.dense")


def test_a_prediction_of_a_model_that_has_seen_one_of_the_partitions_is_refused(
    tmp_path: Path,
) -> None:
    stage = with_models(Stage(tmp_path), ["dense"])
    write(stage, FIRST)
    reader = ClickReader(home_of(stage).reader(topics.CLICKS), SCHEMA, 10, None, RoundRobin())
    first = reader.next()
    assert first is not None
    assert [span.partition for span in first.spans] == [0, 1]
    made = PredictionBatch("dense", 0, 0, first.spans, {1: Position(0, 0)}, np.full(10, 0.5))
    with closing(stage.home.writer(LOG)) as writer:
        writer.append([Record(predictions_to_bytes(made))])
    with pytest.raises(ValueError, match=r"for offset 0, row 0 came from .* has seen the click"):
        run(stage.evaluator())


def test_every_foreign_record_of_every_partition_becomes_one_letter(tmp_path: Path) -> None:
    stage = laid_out(tmp_path)
    run(stage.evaluator())
    check(stage)


def test_closed_after_every_step_the_evaluator_writes_each_letter_once(tmp_path: Path) -> None:
    stage = laid_out(tmp_path)
    whole = laid_out(tmp_path / "whole")
    run(whole.evaluator())
    done = False
    while not done:
        evaluator = stage.evaluator()
        done = evaluator.step().done
        evaluator.close()
    check(stage)
    assert letters(stage) == letters(whole)


@pytest.mark.parametrize("checkpoint_events", [10, 30, 1000])
def test_killed_after_every_step_the_evaluator_writes_each_letter_once(
    tmp_path: Path, checkpoint_events: int
) -> None:
    """What it wrote since its last checkpoint stands in the log, and comes again."""
    stage = laid_out(tmp_path)
    config = stage.config.model_copy(update={"checkpoint_events": checkpoint_events})
    stage = replace(stage, config=config)
    life, done = 0, False
    while not done:
        life += 1
        # What was killed holds its locks on as long as it is not collected.
        killed = stage.moved(tmp_path / f"life-{life}")
        shutil.copytree(stage.folder / "logs", killed.folder / "logs")
        if (stage.folder / "state").exists():
            shutil.copytree(stage.folder / "state", killed.folder / "state")
        evaluator = killed.evaluator()
        done = [evaluator.step() for _ in range(life)][-1].done
        stage = killed
    check(stage)
