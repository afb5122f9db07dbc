"""An input that has ended is continued: models, masks and ledger go on where they were."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from learner.snapshots import from_parts
from resprout.folder import RunFolder
from resprout.run import Result, execute
from resprout.runner import Step
from resprout.settings import EVALUATOR, MODELS, SOURCE
from resprout.spec import RunDefinition
from stream.messages import Decision, Message, Verdict, Window
from stream.schema import CategoricalFeature, Columns, FeatureSchema, NumericFeature
from stream.sources import files
from stream.sources.files import FileSource
from tests.resprout.eventful import BATCH, TOTAL, eventful
from tests.resprout.left import Left
from tests.resprout.small import small

UNTIL = [3_050, 11_370, 14_000]
"""Inside a batch, before there is a mask; inside a rebuild; where one is decided."""


def plan(events: int) -> RunDefinition:
    return RunDefinition.generated(eventful(stream__generator__events=events))


@pytest.fixture(scope="module", params=UNTIL)
def until(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture(scope="module")
def folder(until: int, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("continued"))
    execute(plan(until), folder.path)
    return folder


@pytest.fixture(scope="module")
def before(folder: RunFolder) -> Left:
    return Left.by(folder)


@pytest.fixture(scope="module")
def continued(folder: RunFolder, before: Left) -> Result:
    return execute(plan(TOTAL), folder.path)


def test_it_goes_on_to_its_new_end(continued: Result, folder: RunFolder) -> None:
    assert continued.finished
    assert continued.summary.events == TOTAL
    assert set(continued.models) == set(MODELS)
    for model in MODELS:
        checkpoint = folder.checkpoints(model).latest()
        assert checkpoint is not None
        assert from_parts(checkpoint.parts).count == TOTAL


def test_what_was_written_until_then_stays(
    continued: Result, before: Left, folder: RunFolder
) -> None:
    after = Left.by(folder)
    assert after.ledger[: len(before.ledger)] == before.ledger
    for part in ("predictions", "windows"):
        was, now = getattr(before, part), getattr(after, part)
        assert {key: now[key] for key in was} == was


def test_windows_are_whole_where_the_input_had_ended(continued: Result, until: int) -> None:
    whole = [one for one in continued.windows if not one.partial]
    for size in (500, 1_000):
        ends = [one.end for one in whole if one.size == size]
        assert ends == list(range(size, TOTAL + 1, size))
    partial = {(one.size, one.end) for one in continued.windows if one.partial}
    assert partial == {(size, end) for size in (500, 1_000) for end in (until, TOTAL) if end % size}
    table = continued.history.tables[1_000]
    assert list(table.ends) == list(range(1_000, TOTAL, 1_000))
    assert table.all_ends[-1] == TOTAL


def test_no_event_is_predicted_by_who_had_learned_from_it_nor_left_out(
    continued: Result, folder: RunFolder, until: int
) -> None:
    begins = [
        int(key.rpartition("/")[2]) for key in Left.by(folder).predictions if "/dense/" in f"/{key}"
    ]
    grid = set(range(0, TOTAL, BATCH))
    assert sorted(begins) == sorted(grid | {until})


def test_a_rebuild_that_was_open_is_made_anew(continued: Result, until: int) -> None:
    verdicts = [one.verdict for one in continued.verdicts]
    assert verdicts[0] == "promoted"
    open_then = [one for one in continued.verdicts[:-1] if one.verdict == "unfinished"]
    assert [one.rebuild.decided for one in open_then] == {11_370: [10_000], 14_000: [14_000]}.get(
        until, []
    )
    assert len(verdicts) > 2 + len(open_then)


def test_it_is_the_same_however_it_was_stopped_in_between(
    continued: Result, folder: RunFolder, until: int, tmp_path: Path
) -> None:
    """In another folder, with the same two ends."""
    execute(plan(until), tmp_path)
    execute(plan(TOTAL), tmp_path)
    one, other = Left.by(folder), Left.by(RunFolder(tmp_path))
    assert one.predictions == other.predictions
    assert one.ledger == other.ledger
    assert one.states == other.states


def test_an_end_between_two_batches_costs_no_bit(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where no rebuild was open: the models are those of one run over the whole input."""
    parted, whole = (RunFolder(tmp_path_factory.mktemp(name)) for name in ("parted", "whole"))
    execute(plan(13_000), parted.path)
    one = execute(plan(TOTAL), parted.path)
    other = execute(plan(TOTAL), whole.path)
    for model in MODELS:
        states = [folder.checkpoints(model).latest() for folder in (parted, whole)]
        first, second = (from_parts(state.parts).tensors for state in states if state is not None)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert [_plain(window) for window in one.windows] == [
        _plain(window) for window in other.windows
    ]
    assert [_unnamed(message) for message in one.ledger] == [
        _unnamed(message) for message in other.ledger
    ]


def _unnamed(message: Decision | Verdict) -> Message:
    """Without the names of snapshots, which tell where in the log their events stand."""
    return message.model_copy(update={"snapshot": None}) if message.kind == "verdict" else message


def _plain(window: Window) -> tuple[int, int, bool, object]:
    return window.size, window.end, window.partial, window.models


SCHEMA = FeatureSchema(
    numeric=(NumericFeature(name="x"),),
    categorical=(CategoricalFeature(name="site", buckets=30),),
    columns=Columns(event_time="at", time_format="seconds", label="clicked"),
)


def write(path: Path, begin: int, end: int) -> None:
    """Append clicks that follow the site to a file."""
    text = "" if path.exists() else "at,clicked,x,site\n"
    text += "".join(f"{n},{int(n % 7 < 2)},{n % 3},s{n % 7}\n" for n in range(begin, end))
    with path.open("a") as file:
        file.write(text)


def of_file(path: Path, *, append: bool = False, follow: bool = False) -> RunDefinition:
    # Batches that no record of a file ends with.
    settings = small(
        stream__batch_events=200,
        evaluator__models=["dense", "sparse"],
        pruner__judge_events=600,
        stream__ahead_events=2_000,
    )
    return RunDefinition(settings, FileSource(path, SCHEMA, append=append, follow=follow))


def test_a_file_that_was_followed_gives_the_same_bits_as_one_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows while it is followed, and the run is stopped and continued in between."""
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(files, "_LOOK_SHARE", 0)
    clicks, folder, whole = tmp_path / "c.csv", tmp_path / "followed", tmp_path / "whole"
    write(clicks, 0, 2_700)
    for begin, end in ((2_700, 7_300), (7_300, 10_100)):
        stop, written = threading.Event(), [begin]

        def observe(name: str, step: Step, end: int = end, stop: threading.Event = stop) -> None:
            if name == EVALUATOR and step.count >= written[0] - 700:  # noqa: B023
                if written[0] < end:  # noqa: B023
                    write(clicks, written[0], written[0] + 100)  # noqa: B023
                    written[0] += 100  # noqa: B023
                else:
                    stop.set()

        result = execute(of_file(clicks, follow=True), folder, observe, stop)
        assert not result.finished
    done = execute(of_file(clicks, append=True), folder)
    once = execute(of_file(clicks), whole)
    assert done.finished
    assert done.summary.events == once.summary.events == 10_100
    one, other = Left.by(RunFolder(folder)), Left.by(RunFolder(whole))
    assert [stored.record.value for stored in one.clicks] == [
        stored.record.value for stored in other.clicks
    ]
    for part in ("predictions", "ledger", "states", "snapshots", "masks", "windows"):
        assert getattr(one, part) == getattr(other, part), part


def test_a_second_file_continues_with_models_masks_and_ledger(tmp_path: Path) -> None:
    state = tmp_path / "state"
    write(tmp_path / "day1.csv", 0, 7_130)
    write(tmp_path / "day2.csv", 7_130, 9_000)
    first = execute(of_file(tmp_path / "day1.csv"), state)
    second = execute(of_file(tmp_path / "day2.csv", append=True), state)
    assert (first.summary.events, second.summary.events) == (7_130, 9_000)
    assert list(second.ledger[: len(first.ledger)]) == list(first.ledger)
    assert second.summary.rebuilds[0] == first.summary.rebuilds[0]
    again = execute(of_file(tmp_path / "day2.csv", append=True), state)
    assert (again.ledger, again.windows) == (second.ledger, second.windows)


def test_a_run_that_was_stopped_comes_to_its_end_before_it_is_continued(tmp_path: Path) -> None:
    """Else it would depend on time which worker had seen that end."""
    for name in ("stopped", "ended"):
        write(tmp_path / f"{name}1.csv", 0, 5_130)
        write(tmp_path / f"{name}2.csv", 5_130, 9_000)
    stop = threading.Event()

    def observe(name: str, step: Step) -> None:
        if name == SOURCE and step.done:
            stop.set()

    stopped = execute(of_file(tmp_path / "stopped1.csv"), tmp_path / "stopped", observe, stop)
    assert not stopped.finished
    ended = execute(of_file(tmp_path / "ended1.csv"), tmp_path / "ended")
    assert ended.finished
    results = [
        execute(of_file(tmp_path / f"{name}2.csv", append=True), tmp_path / name)
        for name in ("stopped", "ended")
    ]
    assert results[0].summary.events == results[1].summary.events == 9_000
    assert results[0].ledger == results[1].ledger
    one, other = (Left.by(RunFolder(tmp_path / name)) for name in ("stopped", "ended"))
    assert one.predictions == other.predictions
    assert one.states == other.states
