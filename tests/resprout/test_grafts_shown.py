"""What a run in which the mask follows the dense model says of its grafts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from evaluator import EvaluatorStep
from evaluator.run import RunHistory
from pruner.masks import DiskMaskStore
from resprout.cli import main
from resprout.folder import RunFolder
from resprout.run import Result, execute
from resprout.runner import Step
from resprout.settings import EVALUATOR
from resprout.spec import RunDefinition
from stream import MessageLog, topics
from stream.messages import MaskChange
from tests.html_page import read
from tests.resprout.small import small

EVENTS = 16_000
PLAN = RunDefinition.generated(
    small(
        stream__generator__events=EVENTS,
        pruner__regime="graft",
        pruner__graft_events=500,
        learner__publish_events=1_000,
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(tmp_path_factory.mktemp("grafts"))


@pytest.fixture(scope="module")
def counted() -> list[int]:
    """How many grafts each step of the evaluator has told of."""
    return []


@pytest.fixture(scope="module")
def result(folder: RunFolder, counted: list[int]) -> Result:
    def observe(name: str, step: Step) -> None:
        if name == EVALUATOR:
            assert isinstance(step, EvaluatorStep)
            counted.append(len(step.mask_changes))

    return execute(PLAN, folder.path, observe)


def changes(folder: RunFolder, log: str) -> list[MaskChange]:
    return list(MessageLog(folder.home, log).read(MaskChange))


def test_every_graft_is_in_its_log_and_beside_the_windows(
    folder: RunFolder, result: Result, counted: list[int]
) -> None:
    found = changes(folder, topics.MASK_CHANGES)
    start = result.history.start
    assert start == 6_000
    assert [one.count for one in found] == list(range(start + 500, EVENTS + 1, 500))
    assert changes(folder, topics.WINDOWS) == found
    assert list(result.history.grafts.counts) == [one.count for one in found]
    # The last one may be copied when the evaluator closes.
    assert len(found) - 1 <= sum(counted) <= len(found)


def test_the_share_that_moved_is_that_of_the_masks_themselves(
    folder: RunFolder, result: Result
) -> None:
    last = changes(folder, topics.MASK_CHANGES)[-1]
    store = DiskMaskStore(folder.masks)
    head = store.head()
    assert head is not None
    assert (head.count, head.mask) == (EVENTS, last.mask)
    kept = {name: int(mask.sum()) for name, mask in store.get(last.mask).items()}
    assert last.kept == kept
    assert set(last.entered) == set(kept)
    assert all(0 <= last.entered[name] <= kept[name] for name in kept)
    assert 0 < sum(one for one in result.history.grafts.moved) < len(result.history.grafts)


def test_report_list_and_summary_say_how_many(
    folder: RunFolder, result: Result, tmp_path: Path
) -> None:
    begun, version = result.history.versions[-1]
    own = [n for n in result.history.grafts.counts if n > begun]
    listed = told("masks", "list", "--state", str(folder.path), "--json")
    assert (json.loads(listed)["grafts"], json.loads(listed)["last_graft"]) == (len(own), own[-1])
    assert told("masks", "list", "--state", str(folder.path)).splitlines()[-1] == (
        f"the mask of version {version} has moved by {len(own)} grafts since it began, the last at "
        f"{own[-1]:,}"
    )
    told("report", str(folder.path), "--output", str(tmp_path / "run.html"))
    texts = [one.text for one in read((tmp_path / "run.html").read_bytes()).all("dt", "dd")]
    facts = dict(zip(texts[::2], texts[1::2], strict=True))
    assert facts["Grafts"] == result.summary.graft_counts
    assert facts["Grafts"].startswith("20, each moves ")
    assert json.loads(result.summary.model_dump_json())["grafts"]["last"] == EVENTS


def test_a_run_without_grafts_has_no_word_of_them(whole: RunFolder, tmp_path: Path) -> None:
    assert not whole.home.exists(topics.MASK_CHANGES)
    assert "graft" not in told("masks", "list", "--state", str(whole.path))
    told("report", str(whole.path), "--output", str(tmp_path / "run.html"))
    page = (tmp_path / "run.html").read_text("utf-8").partition("How it was run")[0]
    assert "graft" not in page.lower()
    assert not RunHistory.read(whole.home).grafts
    assert not whole.home.exists(topics.MASK_CHANGES)


def told(*words: str) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.stdout
