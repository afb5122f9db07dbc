from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from pruner import InputEnd
from stream import topics
from stream.codec import columnar_record, end_record
from stream.log.local import LocalLogStore
from tests.pruner.worlds import SCHEMA, World, stream


def total(world: World) -> int | None:
    with closing(world.home.reader(topics.CLICKS)) as reader:
        return InputEnd(reader, world.snapshots, SCHEMA).total()


@pytest.mark.parametrize("short", [0, 7])
def test_it_is_known_once_the_dense_model_has_learned_everything(
    tmp_path: Path, short: int
) -> None:
    world = World(tmp_path)
    world.click(stream(300))
    world.dense(200)
    assert total(world) is None
    world.click([batch[:short] for batch in stream(20) if short], end=True)
    assert total(world) is None
    world.dense(10_000)
    assert total(world) == 300 + short


def test_it_is_found_without_looking_at_the_same_snapshot_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.click(stream(300), end=True)
    world.dense(200)
    with closing(world.home.reader(topics.CLICKS)) as reader:
        end = InputEnd(reader, world.snapshots, SCHEMA)
        assert end.total() is None
        assert end.total() is None
        world.dense(10_000)
        assert end.total() == 300
        assert end.total() == 300


def test_an_input_of_nothing_ends_at_zero(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert total(world) is None
    world.click([], end=True)
    world.dense(10_000)
    assert total(world) == 0


@pytest.mark.parametrize("short", [0, 7])
def test_of_several_partitions_it_is_known_once_all_have_ended(tmp_path: Path, short: int) -> None:
    world = World(tmp_path)
    home = LocalLogStore(world.home.folder)
    home.create({topics.CLICKS: 2})
    parts = stream(300)
    with closing(home.writer(topics.CLICKS)) as writer:
        for partition, half in enumerate((parts[:10], [*parts[10:], parts[0][:short]])):
            writer.append([columnar_record(part, SCHEMA) for part in half if len(part)], partition)
        writer.append([end_record()], 1)
    world.dense(300)
    assert total(world) is None
    world.click([], end=True)
    world.dense(10_000)
    assert total(world) == 300 + short
