from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from learner.prequential import Prequential
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
        course = Prequential(model(), replace(ports, predictions=diary), PLAN)
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
        Prequential(model(), ports, PLAN).step()
    last = world.home.reader("predictions.dense").last(0)
    assert last is not None
    assert last.record.time_ms == 15


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.ports("dense") as ports:
        course = Prequential(model(), ports, PLAN)
        assert not course.resume()
        course.checkpoint()
        assert Prequential(model(seed=3), ports, PLAN).resume()
