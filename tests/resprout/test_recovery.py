"""Killed from outside at any moment, a run ends as if nothing had happened; else it is told."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.recovery import (
    Kill,
    Life,
    compared,
    copies,
    disturbed,
    drawn,
    gaps,
    goal_of,
    left,
    table,
)
from resprout.folder import RunFolder
from stream import topics
from stream.log import Record
from stream.messages import Window, dump, parse
from tests.resprout.eventful import PLAN, TOTAL
from tests.resprout.left import Left, assert_same, records


def test_a_run_killed_from_outside_ends_as_an_undisturbed_one(
    whole: RunFolder, tmp_path: Path
) -> None:
    kills = [Kill(2_000, 0.01), Kill(None, 0.1), Kill(9_000, 0.02), Kill(13_000, 0.0)]
    lives = list(disturbed(PLAN, tmp_path, kills))
    # On a machine that is very busy the run may be over before the others come.
    assert [one.killed for one in lives[:2]] == [True, True]
    assert not lives[-1].killed
    assert lives[1].import_seconds is not None, "a fresh Python"
    row = compared("embedded", PLAN, tmp_path, lives, left(PLAN, whole.path))
    assert (row.unequal, row.gaps, row.copies.otherwise) == ((), 0, 0)
    assert_same(Left.by(RunFolder(tmp_path)), Left.by(whole))


@pytest.fixture
def copy(whole: RunFolder, tmp_path: Path) -> RunFolder:
    """The undisturbed run, to be falsified."""
    shutil.copytree(whole.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def append(folder: RunFolder, log: str, value: bytes) -> None:
    with closing(folder.home.writer(log)) as out:
        out.append([Record(value)])
        out.flush()


def test_what_was_written_again_is_counted_and_what_is_otherwise_too(copy: RunFolder) -> None:
    before = copies(copy.home)
    value = next(
        one.record.value
        for one in records(copy, topics.WINDOWS)
        if isinstance(parse(one.record.value), Window)
    )
    append(copy, topics.WINDOWS, value)
    assert copies(copy.home).again == before.again + 1
    assert copies(copy.home).otherwise == 0
    window = parse(value)
    assert isinstance(window, Window)
    other = window.model_copy(update={"clicks": window.clicks + 1})
    append(copy, topics.WINDOWS, dump(other))
    assert copies(copy.home).otherwise == 1


def test_events_that_are_missing_are_counted_for_each_model(copy: RunFolder) -> None:
    assert gaps(copy.home, TOTAL) == 0
    assert gaps(copy.home, TOTAL + 5) == 3 * 5


def test_a_click_too_many_is_told(whole: RunFolder, copy: RunFolder) -> None:
    undisturbed = left(PLAN, whole.path)
    first = Life(
        killed=True, starting=False, scored=5_000, import_seconds=3.0, continue_seconds=1.0
    )
    lives = [first, replace(first, continue_seconds=2.0), replace(first, killed=False)]
    equal = asdict(compared("embedded", PLAN, copy.path, lives, undisturbed))
    assert goal_of(equal).met
    assert (
        table([equal])
        .splitlines()[2]
        .startswith("| embedded | 24,050 | 2 | 0 | 2 | 1.50 | 2.00 | 3.0 | equal |")
    )
    append(copy, topics.CLICKS, records(copy, topics.CLICKS)[0].record.value)
    other = asdict(compared("embedded", PLAN, copy.path, lives, undisturbed))
    assert not goal_of(other).met
    assert "| NOT equal: clicks |" in table([other])


def test_a_mask_that_the_store_lacks_is_told(whole: RunFolder, copy: RunFolder) -> None:
    undisturbed = left(PLAN, whole.path)
    assert left(PLAN, copy.path) == undisturbed
    next(copy.masks.glob("*.mask")).unlink()
    found = left(PLAN, copy.path)
    assert [part for part in undisturbed if found[part] != undisturbed[part]] == ["mask store"]


def test_moments_are_drawn_over_the_whole_run_and_some_while_it_starts() -> None:
    kills = drawn(200, 100_000, seed=0)
    assert kills == drawn(200, 100_000, seed=0) != drawn(200, 100_000, seed=1)
    counts = [one.count for one in kills if one.count is not None]
    assert len(counts) == 160
    assert counts == sorted(counts)
    assert min(counts) < 5_000
    assert 90_000 < max(counts) < 95_000
    assert all(0 <= one.delay_seconds <= 0.6 for one in kills)
