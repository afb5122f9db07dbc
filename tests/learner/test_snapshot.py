from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner import LearnerState, SnapshotError, SnapshotStore
from learner.online import own_tensors
from learner.snapshots import FILE, dump_tensors, from_bytes, metadata
from stream.messages import Position
from stream.reader import ClickCursor
from tests.learner.worlds import batches, masks_for, model


def snapshot(count: int = 500, name: str = "candidate-2") -> LearnerState:
    online = model()
    online.learn(batches(1)[0])
    online.set_masks(masks_for(online))
    return LearnerState(
        model=name,
        version=2,
        cursor=ClickCursor(identity="7f", count=count, places={0: Position(8, 4)}),
        trained_through={0: Position(8, 3)},
        tensors=online.state(),
        config_json=json.dumps({"learner": {"rate": 0.03}}),
        seed=11,
    )


def test_a_snapshot_comes_back_as_it_was(tmp_path: Path) -> None:
    store, written = SnapshotStore(tmp_path), snapshot()
    found = store.read(store.write(written))
    assert replace(found, tensors={}) == replace(written, tensors={})
    assert found.tensors.keys() == written.tensors.keys()
    assert all(torch.equal(found.tensors[name], t) for name, t in written.tensors.items())
    assert found.count == 500


def test_a_name_says_model_count_and_content(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    name = store.write(snapshot())
    assert name.startswith("candidate-2/000000000000500-")
    assert store.write(snapshot()) == name
    assert store.write(replace(snapshot(), seed=12)) != name


def test_the_header_holds_texts_that_any_tool_can_read(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    content = (tmp_path / store.write(snapshot()) / FILE).read_bytes()
    found = metadata(content)
    assert found["format"] == "resprout-snapshot-1"
    assert found["events_seen"] == "500"
    assert found["seed"] == "11"
    assert json.loads(found["trained_through"]) == [[0, 8, 3]]
    assert json.loads(found["config_json"]) == {"learner": {"rate": 0.03}}
    assert set(found) == {
        *("format", "resprout_version", "model", "version", "events_seen"),
        *("cursor", "trained_through", "config_json", "seed"),
    }


def test_names_are_found_by_model_and_count(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    names = [store.write(snapshot(count, "dense")) for count in (1500, 500, 1000)]
    other = store.write(snapshot(500))
    assert store.names("dense") == sorted(names)
    assert store.find("dense", 1000) == names[2]
    assert store.find("dense", 999) is None
    assert store.find("candidate-2", 500) == other
    assert store.names("sparse") == []


def test_a_deleted_snapshot_is_gone_and_may_be_deleted_again(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    name = store.write(snapshot())
    store.delete(name)
    store.delete(name)
    assert store.names("candidate-2") == []
    assert list((tmp_path / "candidate-2").iterdir()) == []


def test_what_a_crash_left_of_a_deletion_goes_with_the_next_one(tmp_path: Path) -> None:
    """Of the same snapshot, which may have been written again, and of others."""
    store = SnapshotStore(tmp_path)
    names = [store.write(snapshot(count)) for count in (500, 1_000, 1_500)]
    for name in names[:2]:
        path = tmp_path / name
        path.rename(path.with_name(f".trash-{path.name}"))
    assert store.write(snapshot(500)) == names[0]
    store.delete(names[0])
    assert [path.name for path in (tmp_path / "candidate-2").iterdir()] == [
        names[2].partition("/")[2]
    ]


def test_a_missing_snapshot_is_named_with_those_there(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    missing = "candidate-2/000000000000500-0123456789ab"
    with pytest.raises(SnapshotError, match=f"no snapshot '{missing}' in .*; there: none"):
        store.read(missing)
    held = store.write(snapshot())
    with pytest.raises(SnapshotError, match=f"there: {held}"):
        store.read(missing)


@pytest.mark.parametrize("place", [20, -1])
def test_a_damaged_snapshot_is_refused(tmp_path: Path, place: int) -> None:
    store = SnapshotStore(tmp_path)
    name = store.write(snapshot())
    content = bytearray((tmp_path / name / FILE).read_bytes())
    content[place] ^= 1
    (tmp_path / name / FILE).write_bytes(content)
    with pytest.raises(SnapshotError, match=r"is damaged: its content does not match its name"):
        store.read(name)


@pytest.mark.parametrize("name", ["../dense/x", "dense", "dense/1-0123456789ab", "/etc/passwd"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a snapshot; names are <model>/<count"):
        SnapshotStore(tmp_path).read(name)


def test_a_safetensors_file_that_is_no_snapshot_is_refused() -> None:
    with pytest.raises(
        ValueError, match="of format None is no snapshot; this release reads 'resprout-snap"
    ):
        from_bytes(dump_tensors({"a": torch.ones(1)}))


def test_two_runs_over_the_same_clicks_name_the_same_snapshots(tmp_path: Path) -> None:
    """Only the identity of their click logs differs."""
    names = set()
    for identity in ("one", "two"):
        cursor = ClickCursor(identity=identity, count=500, places={0: Position(3, 0)})
        snapshot = LearnerState("dense", 0, cursor, {0: Position(2, 0)}, {"w": torch.ones(2)})
        store = SnapshotStore(tmp_path / identity)
        names.add(store.write(snapshot))
        assert store.read(names.copy().pop()).cursor.identity == identity
    assert len(names) == 1


@pytest.mark.parametrize("at", [0, 9, 60, 200, -1])
def test_a_snapshot_damaged_anywhere_is_refused(tmp_path: Path, at: int) -> None:
    store = SnapshotStore(tmp_path)
    name = store.write(
        LearnerState("dense", 0, ClickCursor(identity="7f", count=500), {}, {"w": torch.ones(99)})
    )
    path = tmp_path / name / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(SnapshotError, match="is damaged: its content does not match its name"):
        store.read(name)


def test_how_far_a_snapshot_has_come_is_read_from_its_header_alone(tmp_path: Path) -> None:
    store, written = SnapshotStore(tmp_path), snapshot()
    name = store.write(written)
    assert store.cursor(name) == written.cursor
    path = tmp_path / name / FILE
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(content[:header])
    assert store.cursor(name) == written.cursor
    with pytest.raises(SnapshotError, match=r"no snapshot 'candidate-2/.*; there: candidate-2/"):
        store.cursor(name[:-12] + "0123456789ab")


def test_what_a_mask_updater_keeps_is_in_a_snapshot_and_ignored_by_a_model(tmp_path: Path) -> None:
    store, written = SnapshotStore(tmp_path), snapshot()
    kept = {"updater.aux/top.0/total": torch.arange(6.0), "updater.step": torch.tensor(7)}
    found = store.read(store.write(replace(written, tensors=written.tensors | kept)))
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in kept.items())
    online = model(seed=9)
    online.load(found.tensors)
    assert all(torch.equal(written.tensors[name], t) for name, t in online.state().items())
    assert "updater" not in own_tensors(found.tensors)
