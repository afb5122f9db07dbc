"""Dead letters are written as the events are met, and still each once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluator.worker import DeadLetterWriter, IdempotentWriter, load, save
from stream import topics
from stream.batch import Reason
from stream.codec import Invalid
from stream.columnar import predictions_from_bytes, predictions_to_bytes
from stream.log import Record
from stream.log.local import LocalLogStore
from stream.messages import DeadLetter, DeadLetters, Position
from stream.spec import Waiting
from stream.state import Checkpoints
from stream.topics import CLICKS, DEAD_LETTERS, WINDOWS, predictions
from tests.evaluator.stage import Stage, chance, drawn, run, with_models

BAD = Record(b"{")
LABEL, WEIGHT = drawn(200)


def event(number: int) -> Record:
    made = {"event_id": number, "event_time": number, "label": int(LABEL[number])}
    return Record(json.dumps(made).encode())


def events(begin: int, end: int) -> list[Record]:
    return [event(number) for number in range(begin, end)]


def alone(folder: Path) -> Stage:
    """Lay out nothing yet, for an evaluator that waits for dense alone."""
    return with_models(Stage(folder), ["dense"])


def places(stage: Stage) -> list[Position]:
    found = [one for one in stage.messages(DEAD_LETTERS) if isinstance(one, DeadLetter)]
    return [Position(one.offset, one.row) for one in found]


def killed(stage: Stage) -> Stage:
    """Return the stage as a kill leaves it: nothing is closed, and the locks are free."""
    number = int(stage.folder.name) + 1
    shutil.copytree(stage.folder, stage.folder.with_name(str(number)))
    return stage.moved(stage.folder.with_name(str(number)))


def state(stage: Stage) -> dict[int, Position]:
    return load(Checkpoints(stage.folder / "state")).letters


def test_a_letter_does_not_wait_for_a_batch(tmp_path: Path) -> None:
    stage = alone(tmp_path)
    evaluator = stage.evaluator()
    stage.append(CLICKS, *events(0, 3), BAD)
    step = evaluator.step()
    assert [letter.offset for letter in step.dead_letters] == [3]
    assert (step.count, step.events, step.waiting_for) == (0, 0, Waiting(CLICKS))
    assert places(stage) == [Position(3, 0)]
    assert evaluator.step().dead_letters == ()
    stage.append(CLICKS, *events(3, 10), BAD)
    stage.predict("dense", chance("dense", 10))
    steps = run(evaluator)
    assert [letter.offset for step in steps for letter in step.dead_letters] == [11]
    assert places(stage) == [Position(3, 0), Position(11, 0)]


def test_a_letter_of_any_partition_waits_neither_for_a_batch_nor_for_its_order(
    tmp_path: Path,
) -> None:
    """Dense has stated nothing, and each partition has an event in front that it could take."""
    stage = alone(tmp_path)
    home = LocalLogStore(stage.folder / "logs")
    home.create({topics.CLICKS: 2})
    with closing(home.writer(CLICKS)) as writer:
        for partition in (0, 1):
            writer.append(events(0, 2), partition)
    evaluator = stage.evaluator()
    evaluator.step()
    with closing(home.writer(CLICKS)) as writer:
        for partition in (0, 1):
            writer.append([event(3), BAD], partition)
    found = evaluator.step()
    assert [(one.partition, one.offset) for one in found.dead_letters] == [(0, 3), (1, 3)]
    assert str(found.waiting_for) == "predictions.dense"


def test_what_is_written_ahead_of_a_checkpoint_is_not_written_again(tmp_path: Path) -> None:
    """The checkpoint is behind the 30th event; the letters behind that stand before its log's."""
    stage = alone(tmp_path / "0")
    stage.append(CLICKS, BAD, *events(0, 30), BAD, BAD, *events(30, 33), BAD)
    stage.predict("dense", chance("dense", 30))
    evaluator = stage.evaluator()
    run(evaluator)
    written = [Position(0, 0), Position(31, 0), Position(32, 0), Position(36, 0)]
    assert places(stage) == written
    assert load(Checkpoints(stage.folder / "state")).cursor is not None
    assert state(stage) == {0: Position(36, 0)}
    stage = killed(stage)
    evaluator = stage.evaluator()
    assert [step.dead_letters for step in run(evaluator)] == [()]
    assert places(stage) == written
    stage.append(CLICKS, BAD)
    run(evaluator)
    assert places(stage) == [*written, Position(37, 0)]


def test_killed_between_a_letter_and_the_next_checkpoint_it_writes_it_once(tmp_path: Path) -> None:
    stage = alone(tmp_path / "0")
    stage.append(CLICKS, *events(0, 31), BAD)
    stage.predict("dense", chance("dense", 30))
    run(stage.evaluator())
    stage.append(CLICKS, event(31), BAD)
    stage = killed(stage)
    run(stage.evaluator())
    assert places(stage) == [Position(31, 0), Position(33, 0)]
    stage = killed(stage)
    evaluator = stage.evaluator()
    run(evaluator)
    evaluator.close()
    assert state(stage) == {0: Position(33, 0)}
    run(stage.evaluator())
    assert places(stage) == [Position(31, 0), Position(33, 0)]


def test_a_checkpoint_from_before_letters_were_early_is_gone_on_from(tmp_path: Path) -> None:
    """An evaluator of that time had written no letter of what its cursor has not passed."""
    stage = alone(tmp_path / "0")
    stage.append(CLICKS, BAD, *events(0, 30))
    stage.predict("dense", chance("dense", 30))
    run(stage.evaluator())
    checkpoints = Checkpoints(stage.folder / "state")
    kept = checkpoints.latest()
    assert kept is not None
    old = json.loads(kept.parts["evaluator.json"])
    assert old.pop("letters") == {"0": [0, 0]}
    checkpoints.write(kept.count, {"evaluator.json": json.dumps(old).encode()})
    assert state(stage) == {}
    stage.append(CLICKS, BAD)
    stage = killed(stage)
    run(stage.evaluator())
    assert places(stage) == [Position(0, 0), Position(31, 0)]


def test_many_letters_are_kept_though_no_batch_ever_comes(tmp_path: Path) -> None:
    """Or the life after the next kill would have to remember them all."""
    stage = alone(tmp_path / "0")
    stage.append(CLICKS, *[BAD] * 10_500)
    evaluator = stage.evaluator()
    evaluator.step()
    assert state(stage)[0] >= Position(9_999, 0)
    stage = killed(stage)
    evaluator = stage.evaluator()
    # Of so many it meets a part at a time.
    for _ in range(2):
        run(evaluator)
    assert places(stage) == [Position(offset, 0) for offset in range(10_500)]


Act = tuple[str, int]
ACT = (
    st.tuples(st.just("good"), st.integers(1, 12))
    | st.tuples(st.just("bad"), st.integers(1, 3))
    | st.tuples(st.sampled_from(["step", "close", "kill"]), st.just(0))
)


@settings(max_examples=25, deadline=None)
@given(acts=st.lists(ACT, max_size=25))
@example(acts=[("bad", 1), ("step", 0), ("kill", 0), ("close", 0)])
def test_whenever_events_come_and_it_is_killed_letters_and_counts_are_the_same(
    acts: list[Act],
) -> None:
    """Each letter is there once; how many were skipped is told as if all had been there at once."""
    with TemporaryDirectory() as folder:
        stage = alone(Path(folder) / "0")
        stage.folder.mkdir()
        records, numbers = list[Record](), iter(range(400))
        evaluator = stage.evaluator()
        for act, count in [*acts, ("bad", 1), ("kill", 0), ("good", 1)]:
            if act in ("good", "bad"):
                made = [event(next(numbers) % 200) if act == "good" else BAD for _ in range(count)]
                records += made
                stage.append(CLICKS, *made)
                predict(stage)
            elif act == "step":
                evaluator.step()
            elif act == "close":
                evaluator.close()
                evaluator = stage.evaluator()
            else:
                stage = killed(stage)
                evaluator = stage.evaluator()
        stage.end()
        predict(stage)
        assert run(evaluator)[-1].done
        bad = [Position(offset, 0) for offset, one in enumerate(records) if one == BAD]
        assert places(stage) == bad
        assert skipped(stage) == skipped(at_once(Path(folder) / "whole", records))


def predict(stage: Stage) -> None:
    """Let dense predict all whole batches that it has not; repeats are the same."""
    stage.predict("dense", chance("dense", 400), 0, sum(len(b.batch) for b in stage.batches()))


def at_once(folder: Path, records: Sequence[Record]) -> Stage:
    stage = alone(folder)
    stage.append(CLICKS, *records)
    stage.end()
    predict(stage)
    assert run(stage.evaluator())[-1].done
    return stage


def skipped(stage: Stage) -> list[bytes]:
    """Return what is told of skipped events, each once."""
    return list(dict.fromkeys(stage.values(WINDOWS, "dead_letters")))


def test_how_many_were_skipped_is_told_where_they_were_and_not_when(tmp_path: Path) -> None:
    stage = alone(tmp_path)
    evaluator = stage.evaluator()
    stage.append(CLICKS, *events(0, 19), BAD, event(19), BAD, BAD, *events(20, 25))
    evaluator.step()
    stage.predict("dense", chance("dense", 20))
    run(evaluator)
    told = [one for one in stage.messages(WINDOWS) if isinstance(one, DeadLetters)]
    assert [(one.begin, one.count, one.reasons) for one in told] == [(0, 20, {"unparsable": 1})]
    assert len(places(stage)) == 3
    stage.append(CLICKS, *events(25, 40))
    stage.predict("dense", chance("dense", 40), 20)
    run(evaluator)
    told = [one for one in stage.messages(WINDOWS) if isinstance(one, DeadLetters)]
    assert [(o.begin, o.count, o.reasons) for o in told[1:]] == [(20, 40, {"unparsable": 2})]


@pytest.fixture
def letters(tmp_path: Path) -> Iterator[Callable[[dict[int, Position]], DeadLetterWriter]]:
    home = LocalLogStore(tmp_path)
    opened: list[IdempotentWriter] = []

    def make(through: dict[int, Position]) -> DeadLetterWriter:
        opened.append(IdempotentWriter(home, DEAD_LETTERS))
        return DeadLetterWriter(opened[-1], through)

    yield make
    for one in opened:
        one.close()


def invalid(partition: int, *places: Position) -> list[Invalid]:
    return [Invalid(partition, p.offset, p.row, Reason.LABEL, "label is 2", b"2") for p in places]


def test_how_far_the_letters_go_is_told_by_partition(
    letters: Callable[[dict[int, Position]], DeadLetterWriter],
) -> None:
    found = letters({0: Position(4, 1)})
    found.write(invalid(0, Position(4, 0), Position(4, 1), Position(4, 2), Position(5, 0)))
    found.write(invalid(1, Position(0, 0)))
    told = [(one.partition, one.offset, one.row) for one in found.take()]
    assert told == [(0, 4, 2), (0, 5, 0), (1, 0, 0)]
    assert found.take() == ()
    assert found.keep() == {0: Position(5, 0), 1: Position(0, 0)}
    found.write(invalid(0, Position(3, 0)))
    assert (found.take(), found.keep()[0]) == ((), Position(5, 0))


def test_a_state_with_letters_comes_back_whole(tmp_path: Path) -> None:
    checkpoints, again = Checkpoints(tmp_path / "one"), Checkpoints(tmp_path / "two")
    stage = alone(tmp_path / "0")
    stage.append(CLICKS, BAD, *events(0, 2), BAD)
    evaluator = stage.evaluator()
    run(evaluator)
    evaluator.close()
    found = load(Checkpoints(stage.folder / "state"))
    save(checkpoints, 0, found)
    save(again, 0, load(checkpoints))
    assert load(again) == found
    assert found.letters == {0: Position(3, 0)}


def test_an_event_that_no_model_could_learn_gets_one_letter_whoever_is_killed_when(
    tmp_path: Path,
) -> None:
    stage = alone(tmp_path / "0")
    stage.append(CLICKS, *events(0, 40), BAD)
    for record in stage.records("dense", chance("dense", 40)):
        made = predictions_from_bytes(record.value)
        place = (0, Position(made.begin + 3, 0))
        aside = replace(made, set_aside=(place,) if made.begin in (10, 30) else ())
        stage.append(predictions("dense"), Record(predictions_to_bytes(aside)))
    run(stage.evaluator())
    stage = killed(stage)
    for _ in range(2):
        # It is started and closed before it has read on.
        stage.evaluator().close()
        stage = killed(stage)
    run(stage.evaluator())
    letters = [one for one in stage.messages(DEAD_LETTERS) if isinstance(one, DeadLetter)]
    assert [(one.offset, one.reason) for one in letters if one.offset < 40] == [
        (13, "not_learned"),
        (33, "not_learned"),
    ]
    assert len(letters) == 3
    assert [one.detail.partition(" would")[0] for one in letters if one.offset == 13] == [
        "what dense"
    ]
    again = stage.evaluator()
    assert run(again)[-1].dead_letters == ()
    assert again.conflicts == 0


def test_a_checkpoint_of_something_else_is_named(tmp_path: Path) -> None:
    for content in ({"other": b"{}"}, {"evaluator.json": b'{"judging": 7}'}):
        path = Checkpoints(tmp_path).write(500, content)
        with pytest.raises(ValueError, match=rf"checkpoint {path} is none of an evaluator of this"):
            load(Checkpoints(tmp_path))
