"""Models that share a process, and so a reader, leave what they leave each in its own process."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from resprout.folder import RunFolder
from resprout.run import WorkerProcess, worker_process
from resprout.runner import Runner, Step, Worker
from resprout.spec import ExternalSource, RunDefinition
from resprout.wiring import Wiring
from stream import topics
from stream.log import LogStoreView
from tests.resprout.eventful import PLAN, eventful
from tests.resprout.left import PARTS, Left, records
from tests.stream.test_sharing import Counting

MODELS = ("dense", "sparse", "never_rebuilt")
THERE = replace(PLAN, source=ExternalSource(PLAN.source.schema))


@pytest.fixture
def begun(whole: RunFolder, tmp_path: Path) -> RunFolder:
    """The eventful run as it is before any model has learned, but all is decided."""
    shutil.copytree(whole.path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    shutil.rmtree(folder.snapshots.folder / "dense")
    for name in MODELS:
        shutil.rmtree(folder.checkpoints(name).folder)
        shutil.rmtree(folder.home.folder / topics.predictions(name))
        shutil.rmtree(folder.home.folder / topics.progress(name))
    return folder


def learn(folder: RunFolder, *names: str) -> None:
    """Let models learn in one process, to the end."""
    with worker_process(THERE, folder.path, names) as process:
        assert process.work(threading.Event()).finished


def assert_equal(whole: RunFolder, folder: RunFolder) -> None:
    """All is equal, but that no prune worker has deleted the snapshots that nobody needs more."""
    one, other = Left.by(whole), Left.by(folder)
    for part in set(PARTS) - {"snapshots"}:
        assert getattr(one, part) == getattr(other, part), part
    assert one.snapshots < other.snapshots


@pytest.mark.parametrize(
    "processes",
    [[("dense",), ("sparse",), ("never_rebuilt",)], [MODELS], [("dense",), MODELS[1:]]],
    ids=["three", "one", "two"],
)
def test_the_bits_do_not_depend_on_who_shares_a_process(
    whole: RunFolder, begun: RunFolder, processes: Sequence[Sequence[str]]
) -> None:
    for names in processes:
        learn(begun, *names)
    assert_equal(whole, begun)


def test_a_record_is_read_once_for_all_models(begun: RunFolder) -> None:
    """But for the few that are read together with where the sparse models begin."""
    counting = Counting(begun.home)
    store = LogStoreView(begun.home, topics.CLICKS, lambda: counting.reader(topics.CLICKS))
    with closing(Wiring(THERE, begun, store, MODELS)) as wiring:
        assert Runner(wiring.workers()).run()
    there = [(one.partition, one.offset) for one in records(begun, topics.CLICKS)]
    assert sorted(set(counting.read)) == there
    assert len(counting.read) < len(there) + 4


def failing(worker: Worker, at: int) -> Worker:
    """Let a worker fail once it has come through so many events."""

    def step() -> Step:
        done = worker.step()
        if done.count >= at:
            raise OSError(f"no room after {done.count} events")
        return done

    return replace(worker, step=step)


def broken(process: WorkerProcess, name: str, at: int) -> WorkerProcess:
    workers = [failing(one, at) if one.name == name else one for one in process.workers]
    return replace(process, workers=workers)


def test_a_model_that_fails_leaves_the_others_as_they_are(
    whole: RunFolder, begun: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        worker_process(THERE, begun.path, MODELS) as process,
        pytest.raises(OSError, match="no room after 15000 events") as caught,
    ):
        broken(process, "sparse", 15_000).work(threading.Event())
    assert caught.value.__notes__ == ["in worker 'sparse'"]
    assert "sparse failed, the others continue: no room after 15000 events" in [
        one.getMessage() for one in caplog.records if one.levelno == logging.ERROR
    ]
    for name in ("dense", "never_rebuilt"):
        assert Left.by(begun).states[name] == Left.by(whole).states[name]
    learn(begun, "sparse")
    assert_equal(whole, begun)


def test_without_the_dense_model_no_other_continues(whole: RunFolder, begun: RunFolder) -> None:
    with (
        worker_process(THERE, begun.path, MODELS) as process,
        pytest.raises(OSError, match="no room after 1000 events"),
    ):
        broken(process, "dense", 1_000).work(threading.Event())
    learn(begun, *MODELS)
    assert_equal(whole, begun)


def test_models_of_a_process_that_is_stopped_go_on_apart(
    whole: RunFolder, begun: RunFolder
) -> None:
    stop = threading.Event()
    with worker_process(THERE, begun.path, MODELS) as process:
        dense = failing(process.workers[0], 0)

        def step() -> Step:
            done = process.workers[0].step()
            if done.count >= 5_000:
                stop.set()
            return done

        workers = [replace(dense, step=step), *process.workers[1:]]
        assert not replace(process, workers=workers).work(stop).finished
    for name in MODELS:
        learn(begun, name)
    assert_equal(whole, begun)


def test_each_model_of_a_process_has_its_lock_and_its_figures(begun: RunFolder) -> None:
    plan = RunDefinition(eventful(serve__port=None), THERE.source)
    with worker_process(plan, begun.path, MODELS) as process:
        for name in MODELS:
            with pytest.raises(Exception, match=f"is in use by {name}"):
                begun.lock_worker(name)
        process.work(threading.Event())
    for name in MODELS:
        assert (begun.home.folder / topics.progress(name)).is_dir()
