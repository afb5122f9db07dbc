from __future__ import annotations

from pathlib import Path

import pytest

from pruner.store import DiskMaskStore, MemoryMaskStore
from resprout.folder import RunFolder
from resprout.plan import Plan
from tests.resprout.small import small


def test_a_folder_remembers_what_its_run_was_begun_with(tmp_path: Path) -> None:
    folder, plan = RunFolder(tmp_path), Plan.generated(small())
    folder.begin(plan)
    folder.begin(plan)
    assert folder.record() == plan.record()


def test_every_difference_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(Plan.generated(small()))
    other = Plan.generated(small(seed=4, pruner__sparsity=0.5))
    with pytest.raises(ValueError, match=r"pruner.sparsity was 0.8, is 0.5; settings.seed was 0"):
        folder.check(other)


def test_how_far_the_source_runs_ahead_may_change(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(Plan.generated(small()))
    folder.check(Plan.generated(small(stream__ahead_events=77)))


def test_a_folder_without_a_run_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run; name the state folder of one"):
        RunFolder(tmp_path).record()


def test_clearing_deletes_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(Plan.generated(small()))
    folder.home.writer("clicks").close()
    folder.clear()
    assert {file.name for file in tmp_path.iterdir()} == {"lock"}
    RunFolder(tmp_path / "none").clear()
    assert not (tmp_path / "none").exists()


def test_clearing_refuses_what_is_not_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds 'thesis.tex', which is no part of a run"):
        RunFolder(tmp_path).clear()
    assert (tmp_path / "thesis.tex").exists()


def test_clearing_refuses_a_folder_that_only_looks_like_a_run(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "app.log").write_text("precious")
    with pytest.raises(ValueError, match="holds 'logs', which is no part of a run"):
        RunFolder(tmp_path).clear()
    assert (tmp_path / "logs" / "app.log").exists()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        RunFolder(tmp_path).record()


def test_masks_are_kept_where_the_settings_say(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert isinstance(folder.masks("disk"), DiskMaskStore)
    assert isinstance(folder.masks("memory"), MemoryMaskStore)
