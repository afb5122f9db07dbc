from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from evaluator.metrics import METRICS
from evaluator.page.app import columns_of
from evaluator.run.history import RunHistory, WindowTable
from stream.log import Record
from stream.log.local import LocalLogStore
from stream.messages import AnyMessage, dump
from stream.spec import MODELS
from stream.topics import MASK_CHANGES, WINDOWS
from tests.evaluator.messages import (
    alarm,
    decided,
    grafted,
    letters,
    lifetime,
    progress,
    stability,
)
from tests.evaluator.runs import rollback, verdict, window


def taken(*messages: AnyMessage) -> RunHistory:
    return RunHistory.of(messages)


CE = {"dense": 0.4, "sparse": 0.5}


def test_figures_stand_in_columns_by_size() -> None:
    history = taken(
        window(100, 0, {"dense": 0.4}), window(100, 1, CE), window(200, 0, {"dense": 0.45})
    )
    assert (history.sizes, history.events, history.windows) == ((100, 200), 200, 3)
    assert history.models == MODELS
    found = history.tables[100].lines(
        ["dense.ce", "sparse.ne", "sparse.relative_ce", "click_rate"], (0, 1_000), 10
    )
    assert found.at == [100, 200]
    assert found.columns == {
        "dense.ce": [0.4, 0.4],
        "sparse.ne": [None, 1.0],
        "sparse.relative_ce": [None, pytest.approx(0.25)],
        "click_rate": [0.2, 0.2],
    }


def test_a_partial_window_is_not_drawn() -> None:
    history = taken(window(100, 0, CE), window(100, 1, CE, events=40))
    assert history.events == 140
    assert history.tables[100].lines(["dense.ce"], (0, 1_000), 10).at == [100]


def test_a_stretch_holds_the_windows_that_end_in_it() -> None:
    history = taken(*(window(100, number, CE) for number in range(5)))
    found = history.tables[100].lines(["dense.ce"], (200, 400), 10)
    assert (found.at, found.rows) == ([300, 400], 2)


def test_of_no_columns_there_are_all_that_have_figures() -> None:
    found = taken(window(100, 0, {"dense": 0.4})).tables[100].lines([], (0, 100), 10)
    assert list(found.columns) == [
        "weight",
        "clicks",
        "click_rate",
        "dense.ce",
        "dense.ne",
        "dense.calibration",
    ]
    assert set(found.columns) < set(columns_of(MODELS[:2], METRICS))


def test_the_worst_feature_stands_beside_its_window() -> None:
    history = taken(
        window(100, 0, CE),
        window(100, 1, CE),
        stability(100, 200, price=0.1, site=0.4),
        window(100, 2, CE),
        stability(0, 250, price=9.0),
    )
    assert history.tables[100].lines(["psi"], (0, 300), 10).columns["psi"] == [None, 0.4, None]


def test_a_repeat_is_passed_over() -> None:
    history = taken(window(100, 0, CE), window(100, 0, CE), window(100, 1, CE))
    assert len(history.tables[100]) == 2
    assert not history.take(window(100, 1, CE))


def test_progress_may_repeat_for_it_is_of_the_wall_clock() -> None:
    again = progress("dense", 2.0, 600)
    history = taken(progress("dense", 2.0, 500), again)
    assert history.workers["dense"].last == again
    assert history.take(again)


def test_drift_of_neighbouring_windows_is_one_band() -> None:
    drifts = [(), ("gradual",), ("gradual",), ("churn",), (), ("churn",)]
    history = taken(*(window(100, n, CE, drift) for n, drift in enumerate(drifts)))
    assert [(band.begin, band.end, band.drift) for band in history.bands] == [
        (100, 300, ("gradual",)),
        (300, 400, ("churn",)),
        (500, 600, ("churn",)),
    ]


def test_what_happened_is_kept_and_what_did_not_is_not() -> None:
    nothing = decided(1, 100).model_copy(update={"rebuild": None, "why_not": "maturing"})
    history = taken(nothing, decided(1, 200), verdict(1, 300), alarm(300), rollback(400, 500))
    assert [event.message.count for event in history.happened] == [200, 300, 300, 400]


def test_dead_letters_of_neighbouring_stretches_are_one() -> None:
    history = taken(
        letters(0, 100, label=2),
        letters(100, 200, label=1, time=4),
        letters(300, 400, time=1),
    )
    assert history.letters == [letters(0, 200, label=3, time=4), letters(300, 400, time=1)]


def test_of_lifetimes_the_newest_of_each_beginning_is_kept() -> None:
    history = taken(lifetime(0, 100), lifetime(0, 200), lifetime(100, 200))
    assert {begin: one.end for begin, one in history.lifetimes.items()} == {0: 200, 100: 200}


def test_a_rate_is_of_one_life() -> None:
    history = taken(
        progress("dense", 1.0, 100),
        progress("dense", 3.0, 500, lag_events=70, lag_seconds=0.5),
        progress("dense", 4.0, 20, wall_seconds=1.0),
        progress("dense", 5.0, 520, wall_seconds=2.0),
    )
    columns = history.workers["dense"].lines(10).columns
    assert columns["events_per_second"] == [None, 200.0, None, 500.0]
    assert columns["lag_events"] == [None, 70.0, None, None]
    assert columns["lag_seconds"] == [None, 0.5, None, None]


def test_figures_before_and_behind_a_count_are_those_of_whole_windows() -> None:
    table = WindowTable()
    for number, ce in enumerate([0.1, 0.2, 0.3, 0.4]):
        table.add(window(100, number, {"dense": ce}))
    assert [table.last_through("dense.ce", count) for count in (99, 100, 250, 900)] == [
        None,
        0.1,
        0.2,
        0.4,
    ]
    assert [table.first_from("dense.ce", count) for count in (0, 100, 150, 301)] == [
        0.1,
        0.2,
        0.3,
        None,
    ]
    assert table.last_through("sparse.ce", 200) is None


def test_memory_grows_by_figures_not_by_messages() -> None:
    """Nothing but the newest window holds a message."""
    history = taken(*(window(10, n, CE) for n in range(2_000)))
    assert history.messages == []
    table = history.tables[10]
    assert len(table) == 2_000
    assert (
        np.nanmax(np.array(table.lines(["sparse.ce"], (0, 10**9), 50).columns["sparse.ce"])) == 0.5
    )


def test_a_graft_moves_the_share_of_the_kept_weights_of_all_layers_that_entered() -> None:
    """A share of 200 + 50 weights: large layers count for more."""
    history = taken(
        grafted(100, bottom=(200, 4), top=(50, 1)),
        grafted(200, bottom=(200, 0), top=(50, 5)),
        grafted(200, bottom=(200, 0), top=(50, 5)),
        grafted(200, "other", bottom=(200, 200)),
    )
    assert list(history.grafts.counts) == [100, 200]
    assert list(history.grafts.moved) == pytest.approx([5 / 250, 5 / 250])
    assert history.happened == []
    later = history.grafts.between(100, 300)
    assert (list(later.counts), later.last) == ([200], 200)
    assert later.mean() == pytest.approx(0.02)
    nothing = history.grafts.between(200, 300)
    assert (len(nothing), nothing.last, nothing.mean()) == (0, None, 0.0)


def written(folder: Path, name: str, *messages: AnyMessage) -> LocalLogStore:
    home = LocalLogStore(folder)
    with closing(home.writer(name)) as writer:
        writer.append([Record(dump(one)) for one in messages])
    return home


def test_grafts_are_read_from_their_log_and_a_copy_beside_the_windows_is_a_repeat(
    tmp_path: Path,
) -> None:
    copied, late = grafted(100, top=(50, 1)), grafted(200, top=(50, 2))
    written(tmp_path, WINDOWS, window(100, 0, CE), copied)
    home = written(tmp_path, MASK_CHANGES, copied, copied, late)
    assert list(RunHistory.read(home).grafts.counts) == [100, 200]


def test_a_run_whose_mask_moves_with_versions_only_has_no_such_log_or_an_empty_one(
    tmp_path: Path,
) -> None:
    home = written(tmp_path, WINDOWS, window(100, 0, CE))
    assert len(RunHistory.read(home).grafts) == 0
    assert not home.exists(MASK_CHANGES)
    written(tmp_path, MASK_CHANGES)
    assert len(RunHistory.read(home).grafts) == 0
