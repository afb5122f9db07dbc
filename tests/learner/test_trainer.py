from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import pytest

from learner import OnlineModel, Ports, StreamTrainer
from pruner.updaters import FixedMask
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

    @property
    def max_value_bytes(self) -> int:
        return 2**20

    def end(self, partition: int = 0) -> int:
        return self.notes.count("append")

    def flush(self) -> None:
        self.notes.append("flush after checkpoint" if self.folder.exists() else "flush")

    def trim(self, partition: int, offset: int) -> None: ...

    def close(self) -> None: ...


def trainer(online: OnlineModel, ports: Ports) -> StreamTrainer:
    return StreamTrainer(online, ports, PLAN, FixedMask())


def test_what_was_published_is_safe_before_the_checkpoint_is_there(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(batches(2))
    with world.ports("dense") as ports:
        diary = Diary(ports.checkpoints.folder)
        learner = trainer(model(), replace(ports, predictions=diary))
        learner.step()
        learner.step()
        learner.close()
        learner.close()
        assert diary.notes == ["append", "append", "flush"]
        found = ports.checkpoints.latest()
    assert found is not None
    assert found.count == 32


def test_the_time_of_a_record_is_that_of_its_last_event(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(batches(1))
    with world.ports("dense") as ports:
        trainer(model(), ports).step()
    last = world.home.reader("predictions.dense").last(0)
    assert last is not None
    assert last.record.time_ms == 15


def test_without_a_checkpoint_it_begins_as_it_is_and_with_one_it_continues(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.ports("dense") as ports:
        learner = trainer(model(), ports)
        other = trainer(model(seed=3), ports)
        learner.close()
        resumed = trainer(model(seed=3), ports)
    states = [one.online.state() for one in (learner, resumed, other)]
    assert all(tensor.equal(states[1][name]) for name, tensor in states[0].items())
    assert not all(tensor.equal(states[2][name]) for name, tensor in states[0].items())


def test_a_copy_is_of_the_moment_in_which_it_was_asked_for(tmp_path: Path) -> None:
    """The model learns on while an earlier state of it is written."""
    world = World(tmp_path)
    world.write(batches(3))
    go = Event()
    with world.ports("dense") as ports, ThreadPoolExecutor(1) as pool:
        pool.submit(go.wait)
        learner = trainer(model(), replace(ports, writer_pool=pool))
        learner.step()
        before = learner.online.state()
        learner.save_async("snapshot", "checkpoint")
        learner.step()
        assert ports.snapshots.names("dense") == []
        go.set()
        learner.wait_saved()
        (name,) = ports.snapshots.names("dense")
        left, kept = ports.snapshots.read(name), ports.checkpoints.latest()
        assert left.count == 16
        assert all(tensor.equal(before[key]) for key, tensor in left.tensors.items())
        assert kept is not None
        assert kept.count == 16
        learner.close()
        last = ports.checkpoints.latest()
    assert last is not None
    assert last.count == 32


@pytest.mark.parametrize("written", [False, True], ids=["later", "by the next step"])
def test_what_could_not_be_written_is_raised_before_anything_else_is_saved(
    tmp_path: Path, written: bool
) -> None:
    world, go = World(tmp_path), Event()
    world.write(batches(2))
    with world.ports("dense") as ports, ThreadPoolExecutor(1) as pool:
        learner = trainer(model(), replace(ports, writer_pool=pool))
        ports.snapshots.folder.mkdir(parents=True)
        (ports.snapshots.folder / "dense").write_text("in the way")
        learner.step()
        pool.submit(go.wait)
        learner.save_async("snapshot")
        if written:
            go.set()
            pool.submit(int).result()
            with pytest.raises(OSError, match="dense"):
                learner.step()
        else:
            learner.step()
            go.set()
            with pytest.raises(OSError, match="dense"):
                learner.save_async("checkpoint")
    assert ports.checkpoints.latest() is None
