"""Progress by the wall clock is copied beside the scores, each record once, and changes nothing."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from evaluator.worker import POLL_SECONDS, ProgressMirror
from stream.codec import columnar_record, end_record
from stream.follow import LogPosition
from stream.log import LogIdentityError, Record
from stream.log.local import LocalLogStore
from stream.messages import DeadLetter, DeadLetters, Progress, dump
from stream.topics import CLICKS, DEAD_LETTERS, WINDOWS, progress
from tests.evaluator.messages import progress as told
from tests.evaluator.stage import (
    EVENTS,
    SCHEMA,
    SPEC,
    Stage,
    chance,
    click_batch,
    drawn,
    full_run,
    run,
    with_models,
)

WORKERS = ("dense", "sparse")


def write(home: LocalLogStore, *messages: Progress) -> None:
    for message in messages:
        with closing(home.writer(progress(message.worker))) as writer:
            writer.append([Record(dump(message))])


def seconds(found: list[Progress]) -> list[tuple[str, float]]:
    return [(one.worker, one.wall_seconds) for one in found]


def test_progress_is_looked_for_every_now_and_then(tmp_path: Path) -> None:
    home, now = LocalLogStore(tmp_path), [0.0]
    copies = ProgressMirror(home, WORKERS, {}, {}, lambda: now[0])
    write(home, told("dense", 1, 500), told("sparse", 1, 0))
    assert seconds(copies.poll()) == [("dense", 1), ("sparse", 1)]
    write(home, told("dense", 3, 900))
    assert copies.poll() == []
    now[0] = POLL_SECONDS
    assert seconds(copies.poll()) == [("dense", 3)]
    write(home, told("dense", 5, 1_200))
    assert seconds(copies.poll(at_once=True)) == [("dense", 5)]
    copies.close()


def test_another_life_goes_on_behind_what_has_a_copy(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    write(home, *(told("dense", second, 500) for second in range(4)), told("sparse", 0, 0))
    first = ProgressMirror(home, WORKERS, {}, {})
    assert len(first.poll(at_once=True)) == 5
    positions = first.positions
    first.close()
    write(home, *(told("dense", second, 900) for second in range(4, 8)))
    again = ProgressMirror(home, WORKERS, positions, {"dense": 3})
    assert seconds(again.poll(at_once=True)) == [("dense", 7)]
    again.close()
    beyond = ProgressMirror(home, WORKERS, positions, {"dense": 30})
    assert beyond.poll(at_once=True) == []
    beyond.close()


def test_a_log_made_anew_is_refused(tmp_path: Path) -> None:
    positions = {progress("dense"): LogPosition("another", 3)}
    with pytest.raises(LogIdentityError, match=r"the position is in the log progress\.dense"):
        ProgressMirror(LocalLogStore(tmp_path), WORKERS, positions, {})


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = full_run(tmp_path / "run")
    return replace(made, spec=replace(SPEC, workers=WORKERS))


def copied(stage: Stage) -> list[tuple[str, float]]:
    found = stage.messages(WINDOWS)
    return seconds([one for one in found if isinstance(one, Progress)])


def others(stage: Stage) -> list[bytes]:
    """Whatever else stands in the log, in its order."""
    kinds = ("window", "judgement", "decision", "verdict", "lifetime", "stability", "alarm")
    return [value for kind in kinds for value in stage.values(WINDOWS, kind)]


def test_the_evaluator_copies_all_that_was_told(stage: Stage) -> None:
    write(stage.home, told("dense", 1, 500), told("dense", 2, 500), told("sparse", 1, 0))
    assert run(stage.evaluator())[-1].done
    assert copied(stage) == [("dense", 1), ("dense", 2), ("sparse", 1)]


def test_whatever_was_told_the_scores_are_the_same(stage: Stage, tmp_path: Path) -> None:
    shutil.copytree(stage.folder, tmp_path / "quiet")
    quiet = stage.moved(tmp_path / "quiet")
    write(stage.home, *(told("dense", second, 500) for second in range(50)))
    for one in (stage, quiet):
        evaluator = one.evaluator()
        assert run(evaluator)[-1].done
        assert evaluator.conflicts == 0
    assert others(stage) == others(quiet)
    assert (len(copied(stage)), len(copied(quiet))) == (50, 0)


@pytest.mark.parametrize("count", [40, None])
def test_what_is_told_of_the_last_step_is_copied_as_the_evaluator_closes_and_only_once(
    stage: Stage, count: int | None
) -> None:
    """Whoever watches it tells of a step when that is over."""
    stage = replace(stage, spec=replace(stage.spec, workers=("dense", "evaluator")))
    for life, until in ((1, count), (2, None)):
        evaluator = stage.evaluator()
        last = run(evaluator, until)[-1]
        write(stage.home, told("evaluator", life, last.count, done=last.done))
        evaluator.close()
    found = [one for one in stage.messages(WINDOWS) if isinstance(one, Progress)]
    assert [(one.wall_seconds, one.count, one.done) for one in found] == [
        (1, count or EVENTS, count is None),
        (2, EVENTS, True),
    ]


def test_a_killed_evaluator_copies_nothing_twice_and_leaves_nothing_out(
    stage: Stage, tmp_path: Path
) -> None:
    """It dies with copies in the log that no checkpoint knows of."""
    write(stage.home, told("dense", 1, 500), told("sparse", 1, 0))
    run(stage.evaluator(), count=10)
    shutil.copytree(stage.folder, tmp_path / "killed")
    killed = stage.moved(tmp_path / "killed")
    assert copied(killed) == [("dense", 1), ("sparse", 1)]
    write(killed.home, told("dense", 2, 500))
    for count in (20, 90, None):
        evaluator = killed.evaluator()
        run(evaluator, count)
        evaluator.close()
    assert copied(killed) == [("dense", 1), ("sparse", 1), ("dense", 2)]


def test_dead_letters_are_counted_by_reason_and_stretch(tmp_path: Path) -> None:
    """The smallest windows are of 20 events; what lies behind the last one is told at the end."""
    stage = with_models(Stage(tmp_path), ["dense"])
    label, weight = drawn(40)
    for begin in (0, 20):
        rows = slice(begin, begin + 20)
        good = columnar_record(click_batch(label[rows], weight[rows]), SCHEMA)
        stage.append(CLICKS, Record(b"no event"), good)
    stage.append(CLICKS, Record(b"neither"), Record(b'{"label": 7}'), end_record())
    stage.predict("dense", chance("dense", 40))
    assert run(stage.evaluator())[-1].done
    found = [one for one in stage.messages(WINDOWS) if isinstance(one, DeadLetters)]
    counted = [(one.begin, one.count, one.reasons) for one in found]
    assert counted == [
        (0, 20, {"unparsable": 1}),
        (20, 40, {"unparsable": 1}),
        (40, 40, {"event_id": 1, "unparsable": 1}),
    ]
    letters = [one for one in stage.messages(DEAD_LETTERS) if isinstance(one, DeadLetter)]
    assert Counter(one.reason for one in letters) == Counter(unparsable=3, event_id=1)
