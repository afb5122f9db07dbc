from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from learner import Publication
from pruner import LedgerFollower, StoreConfig, requests
from pruner.masks import DiskMaskStore, open_store
from resprout.cli import main
from resprout.cli.inspect import Version, difference, find
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.runner import Step
from stream import topics
from stream.log import Record
from tests.redis_server import redis_server
from tests.resprout.eventful import PLAN
from tests.resprout.test_rollback import Decides


def call(folder: RunFolder, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--state", str(folder.path)])


def told(folder: RunFolder, *arguments: str) -> dict[str, Any]:
    result = call(folder, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def stopped(tmp_path: Path) -> RunFolder:
    """A run that was stopped right after the decision on 14 000, rebuild 3 being open."""
    stop, moment = threading.Event(), Decides(14_000)

    def observe(name: str, step: Step) -> None:
        if moment(name, step):
            stop.set()

    assert not execute(PLAN, tmp_path, observe, stop).finished
    return RunFolder(tmp_path)


def test_the_list_names_all_versions_and_marks_the_one_in_force(whole: RunFolder) -> None:
    found = told(whole, "masks", "list")
    rows = found["versions"]
    assert [(row["version"], row["count"], row["made_by"]) for row in rows] == [
        (1, 7_000, "first mask"),
        (2, 13_000, "rebuild 2, periodic"),
        (3, 17_000, "rebuild 3, periodic"),
    ]
    assert [row["in_force"] for row in rows] == [False, False, True]
    assert (found["in_force"], found["history"], found["store_away"]) == (3, [1, 2, 3], None)
    head = DiskMaskStore(whole.masks).head()
    assert head is not None
    assert (found["head"]["mask"], rows[-1]["mask"]) == (head.mask, head.mask)
    lines = call(whole, "masks", "list").stdout.splitlines()
    assert lines[0].split() == ["version", "from", "made", "by", "sparsity", "mask", "kept"]
    assert [line.startswith("*") for line in lines[1:]] == [False, False, True]
    assert f"{rows[0]['sparsity']:.1%}" in lines[1]


def test_a_run_without_a_version_says_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(PLAN)
    assert call(folder, "masks", "list").stdout == "no version yet: decided through 0\n"
    result = call(folder, "masks", "rollback", "1", "--reason", "x")
    assert result.exit_code == 1
    assert "there is no version yet: the first mask is cut at 4,000" in result.stderr


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    result = call(RunFolder(tmp_path), "masks", "list")
    assert result.exit_code == 2
    assert "holds no run; name the state folder of one" in result.stderr


def test_showing_a_version_tells_of_each_layer_what_the_mask_itself_says(whole: RunFolder) -> None:
    found = told(whole, "masks", "show", "2")
    store = DiskMaskStore(whole.masks)
    rows = {row["version"]: row for row in told(whole, "masks", "list")["versions"]}
    mask, before = store.get(rows[2]["mask"]), store.get(rows[1]["mask"])
    assert (found["version"], found["before"]) == (2, 1)
    assert set(found["layers"]) == set(mask)
    for name, layer in found["layers"].items():
        kept = mask[name].numpy()
        assert (layer["weights"], layer["kept"]) == (kept.size, kept.sum())
        assert layer["sparsity"] == pytest.approx(1 - kept.mean())
        assert layer["overlap"] == pytest.approx(before[name].numpy()[kept].mean())
    assert told(whole, "masks", "show", rows[2]["mask"][:8]) == found
    text = call(whole, "masks", "show", "2").stdout
    assert text.startswith("version 2: rebuild 2, periodic, in force from 13,000 on\nmask ")
    assert "also kept by 1" in text


def test_the_first_version_overlaps_with_nothing(whole: RunFolder) -> None:
    found = told(whole, "masks", "show", "1")
    assert found["before"] is None
    assert {layer["overlap"] for layer in found["layers"].values()} == {None}


def test_a_difference_adds_up_to_what_each_of_the_two_keeps(whole: RunFolder) -> None:
    found = told(whole, "masks", "diff", "1", "3")
    one, other = (told(whole, "masks", "show", v)["layers"] for v in ("1", "3"))
    for name, layer in found["layers"].items():
        assert layer["both"] + layer["only_a"] == one[name]["kept"]
        assert layer["both"] + layer["only_b"] == other[name]["kept"]
        assert layer["weights"] == one[name]["weights"]
    heading = call(whole, "masks", "diff", "1", "3").stdout.splitlines()[0]
    assert heading.split("  ")[-2:] == ["only 1", "only 3"]


def test_a_mask_that_the_store_lost_is_read_from_its_snapshot(stopped: RunFolder) -> None:
    before = told(stopped, "masks", "diff", "1", "2")
    for path in stopped.masks.glob("*.mask"):
        path.unlink()
    assert told(stopped, "masks", "diff", "1", "2") == before


def test_a_mask_that_nobody_holds_is_told_by_the_ledger_and_cannot_be_compared(
    stopped: RunFolder,
) -> None:
    before = told(stopped, "masks", "show", "1")
    rows = told(stopped, "masks", "list")["versions"]
    stopped.masks.joinpath(f"{rows[0]['mask']}.mask").unlink()
    stopped.snapshots.delete(rows[0]["snapshot"])
    assert told(stopped, "masks", "show", "1") == before
    result = call(stopped, "masks", "diff", "1", "2")
    assert result.exit_code == 1
    assert "the mask of version 1 is not kept; kept are 1, 2" in result.stderr


def test_without_a_head_the_list_goes_by_the_ledger(stopped: RunFolder) -> None:
    (stopped.masks / "head.json").unlink()
    found = told(stopped, "masks", "list")
    assert (found["head"], found["in_force"]) == (None, 2)
    text = call(stopped, "masks", "list").stdout
    assert text.splitlines()[-1] == "by the ledger alone: the mask store has no head"


def on_redis(folder: RunFolder, url: str) -> tuple[str, ...]:
    """Say that the masks of a run are on a server; those in the folder are not looked at."""
    record = folder.record()
    record["settings"]["store"]["kind"] = "redis"
    (folder.path / "run.json").write_text(json.dumps(record))
    return ("--set", f"store.url={url}")


def test_while_the_store_is_away_the_list_goes_by_the_ledger_and_says_so(
    stopped: RunFolder,
) -> None:
    before = told(stopped, "masks", "diff", "1", "2")
    nowhere = on_redis(stopped, "redis://127.0.0.1:1/0")
    found = told(stopped, "masks", "list", *nowhere)
    assert (found["head"], found["in_force"]) == (None, 2)
    assert "127.0.0.1:1" in found["store_away"]
    text = call(stopped, "masks", "list", *nowhere).stdout
    assert "by the ledger alone, the mask store is away: " in text
    assert told(stopped, "masks", "diff", "1", "2", *nowhere) == before
    assert told(stopped, "masks", "rollback", "1", "--reason", "x", *nowhere)["decided"] == 15_000


def test_the_head_on_a_redis_server_is_the_one_in_force(stopped: RunFolder) -> None:
    disk = DiskMaskStore(stopped.masks)
    with redis_server(stopped.path / "server") as server:
        there = on_redis(stopped, server.url)
        with closing(stopped.home.reader(topics.LEDGER)) as reader:
            ledger = LedgerFollower(reader)
            ledger.poll()
            first = Publication.first(ledger.history.promoted[0])
            config = StoreConfig(kind="redis", url=server.url)
            with closing(open_store(config, stopped.masks, reader.identity)) as store:
                store.put(disk.get(str(first.mask)))
                store.publish(first)
        found = told(stopped, "masks", "list", *there)
    assert (found["in_force"], found["history"], found["store_away"]) == (1, [1], None)


def test_a_rollback_says_what_happens_next_and_then_it_happens(stopped: RunFolder) -> None:
    text = call(stopped, "masks", "rollback", "1", "--reason", "clicks fell").stdout
    assert text.splitlines() == [
        "asked to go back to version 1",
        "with the decision on the next window, 15,000, at 16,000",
        "rebuild 3, open until 17,000, is then rejected",
    ]
    shown = call(stopped, "masks", "list").stdout.splitlines()[-1]
    assert shown == "asked, not yet decided: rollback to version 1 (clicks fell)"
    result = execute(PLAN, stopped.path)
    (told_,) = result.summary.rollbacks
    assert (told_.decided, told_.count, told_.reason) == (15_000, 16_000, "clicks fell")
    third = told(stopped, "masks", "list")["versions"][2]
    assert (third["version"], third["made_by"]) == (3, "back to version 1")
    layers = told(stopped, "masks", "show", "3")["layers"]
    again = told(stopped, "masks", "diff", "1", "3")["layers"]
    assert all(layer["only_a"] == layer["only_b"] == 0 for layer in again.values())
    assert {name: layer["kept"] for name, layer in layers.items()} == {
        name: layer["both"] for name, layer in again.items()
    }


def test_a_second_request_goes_into_the_window_after(stopped: RunFolder) -> None:
    call(stopped, "masks", "rollback", "1", "--reason", "clicks fell")
    found = told(stopped, "masks", "rollback", "1", "--reason", "again")
    assert (found["decided"], found["effective"], found["supersedes"]) == (16_000, 17_000, 3)
    assert found["request"]["reason"] == "again"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("masks", "rollback", "2"), "no rollback: version 2 is in force already"),
        (("masks", "rollback", "7"), "no rollback: version 7 is not kept; kept are 1, 2"),
        (("rebuild",), "no rebuild: rebuild 3 is open until 17000"),
    ],
)
def test_what_cannot_be_granted_is_refused_at_once_and_not_written(
    stopped: RunFolder, arguments: tuple[str, ...], why: str
) -> None:
    result = call(stopped, *arguments, "--reason", "x")
    assert result.exit_code == 1
    assert why in result.stderr
    assert told(stopped, "masks", "list")["requests"] == []


def test_a_rebuild_is_asked_for_in_the_same_way(stopped: RunFolder) -> None:
    """Behind the end of rebuild 3, at 17 000: three requests wait before it."""
    for number in range(3):
        requests.ask(stopped.home, requests.rollback(9, str(number)))
    found = told(stopped, "rebuild", "--reason", "a new shop")
    assert (found["decided"], found["end"]) == (18_000, 21_000)
    text = call(stopped, "rebuild", "--reason", "a new shop").stdout
    assert text.splitlines()[0] == "asked for a rebuild"


def test_after_the_end_of_a_run_nothing_can_be_asked_for(whole: RunFolder) -> None:
    for arguments in (("masks", "rollback", "1"), ("rebuild",)):
        result = call(whole, *arguments, "--reason", "x")
        assert result.exit_code == 1
        assert "the run is over: its input ended after 24,050 events" in result.stderr


def test_while_somebody_else_asks_the_log_is_held(stopped: RunFolder) -> None:
    writer = stopped.home.writer(topics.REQUESTS)
    result = call(stopped, "masks", "rollback", "1", "--reason", "x")
    writer.close()
    assert result.exit_code == 1
    assert "log 'requests' in" in result.stderr


@pytest.mark.parametrize("missing", [("masks", "rollback", "1"), ("rebuild",)])
def test_a_request_needs_a_reason(whole: RunFolder, missing: tuple[str, ...]) -> None:
    result = call(whole, *missing)
    assert result.exit_code == 2
    assert "Missing option '--reason'" in result.stderr


def test_a_version_that_is_not_there_is_refused_by_name(whole: RunFolder) -> None:
    result = call(whole, "masks", "show", "9")
    assert result.exit_code == 1
    assert "no version '9'; versions are 1, 2, 3 (or give 6 digits or more of a" in result.stderr


def test_a_request_of_another_process_reaches_a_run_that_goes_on(tmp_path: Path) -> None:
    """Garbage stands before it; the run says so and continues."""
    moment = Decides(14_000)

    def observe(name: str, step: Step) -> None:
        if moment(name, step):
            garbage = RunFolder(tmp_path).home.writer(topics.REQUESTS)
            garbage.append([Record(b"garbage")])
            garbage.close()
            asking = [sys.executable, "-m", "resprout", "masks", "rollback", "1"]
            asking += ["--reason", "from afar", "--state", str(tmp_path)]
            subprocess.run(asking, check=True, capture_output=True)

    (told_,) = execute(PLAN, tmp_path, observe).summary.rollbacks
    assert (told_.decided, told_.count, told_.reason) == (15_000, 16_000, "from afar")


def version(number: int, mask: str) -> Version:
    return Version(number, 100 * number, "x", None, mask, f"candidate-{number}/x", {})


def test_a_mask_of_two_versions_names_the_last_and_too_few_digits_name_none() -> None:
    known = [version(1, "aaaaaaa1"), version(2, "bbbbbbb1"), version(3, "aaaaaaa1")]
    assert find(known, "aaaaaaa1").version == 3
    assert find(known, "bbbbbb").version == 2
    with pytest.raises(ValueError, match="no version 'bbbbb'; versions are 1, 2, 3 "):
        find(known, "bbbbb")


def test_digits_that_begin_several_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="'aaaaaa' begins several masks: aaaaaaa1, aaaaaaa2; give"):
        find([version(1, "aaaaaaa1"), version(2, "aaaaaaa2")], "aaaaaa")


def test_a_mask_differs_from_itself_nowhere() -> None:
    mask = {"top": torch.tensor([[True, False]])}
    found = difference(mask, mask)["top"]
    assert (found.both, found.only_a, found.only_b) == (1, 0, 0)
