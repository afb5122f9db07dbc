from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import pytest

from learner.trainer import StreamTrainer
from stream.log import Record
from tests.learner.worlds import PLAN, World, batches, model


@dataclass
class Diary:
    """A log that notes whether a checkpoint was there when it was flushed."""

    folder: Path
    identity: str = "diary"
    notes: list[str] = field(default_factory=list)

    def append(self, records: Sequence[Record], partition: int = 0) -> None:
        self.notes += ["append"] * len(records)

    def flush(self) -> None:
        self.notes.append("flush after checkpoint" if self.folder.exists() else "flush")

    def trim(self, partition: int, offset: int) -> None: ...

    def close(self) -> None: ...


def test_what_was_published_is_safe_before_the_checkpoint_is_there(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(batches(2))
    with world.ports("dense") as ports:
        diary = Diary(ports.checkpoints.folder)
        course = StreamTrainer(model(), replace(ports, predictions=diary), PLAN)
        course.step()
        course.step()
        course.checkpoint()
        course.checkpoint()
        assert diary.notes == ["append", "append", "flush"]
        found = ports.checkpoints.latest()
    assert found is not None
    assert found.count == 32


def test_the_time_of_a_record_is_that_of_its_last_event(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(batches(1))
    with world.ports("dense") as ports:
        StreamTrainer(model(), ports, PLAN).step()
    last = world.home.reader("predictions.dense").last(0)
    assert last is not None
    assert last.record.time_ms == 15


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.ports("dense") as ports:
        course = StreamTrainer(model(), ports, PLAN)
        assert not course.resume()
        course.checkpoint()
        assert StreamTrainer(model(seed=3), ports, PLAN).resume()


def test_what_is_left_is_of_the_moment_in_which_it_was_left(tmp_path: Path) -> None:
    """The model learns on while an earlier state of it is written."""
    world = World(tmp_path)
    world.write(batches(3))
    go = Event()
    with world.ports("dense") as ports, ThreadPoolExecutor(1) as behind:
        behind.submit(go.wait)
        course = StreamTrainer(model(), replace(ports, behind=behind), PLAN)
        course.step()
        before = course.online.state()
        course.leave(snapshot=True, checkpoint=True)
        course.step()
        assert ports.snapshots.names("dense") == []
        go.set()
        course.settle()
        (name,) = ports.snapshots.names("dense")
        left, kept = ports.snapshots.read(name), ports.checkpoints.latest()
        assert left.count == 16
        assert all(tensor.equal(before[key]) for key, tensor in left.tensors.items())
        assert kept is not None
        assert kept.count == 16
        course.checkpoint()
        last = ports.checkpoints.latest()
    assert last is not None
    assert last.count == 32


def test_what_could_not_be_written_is_told_before_anything_else_is_left(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(batches(2))
    with world.ports("dense") as ports, ThreadPoolExecutor(1) as behind:
        course = StreamTrainer(model(), replace(ports, behind=behind), PLAN)
        ports.snapshots.folder.mkdir(parents=True)
        (ports.snapshots.folder / "dense").write_text("in the way")
        course.step()
        course.leave(snapshot=True)
        course.step()
        with pytest.raises(OSError, match="dense"):
            course.leave(checkpoint=True)
    assert ports.checkpoints.latest() is None
