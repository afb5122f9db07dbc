from __future__ import annotations

import numpy as np
import pytest

from evaluator.run.history import Band, RunHistory
from evaluator.run.plot import MAX_WINDOWS, RunView, draw
from stream.messages import AnyMessage
from tests.evaluator.runs import drifting_run, rollback, verdict, window


def run(*more: AnyMessage, start: int = 800) -> RunHistory:
    return RunHistory.of([*drifting_run(start=start), *more])


def test_every_message_counts_once() -> None:
    history = RunHistory.of([*drifting_run(), *drifting_run()])
    assert history.tables[100].ends.tolist() == list(range(100, 2_001, 100))
    assert [v.count for v in history.verdicts] == [800, 1200, 1600]
    assert (history.events, history.windows) == (2_000, 20)
    assert [model.name for model in history.models] == ["dense", "sparse", "never_rebuilt"]


def test_the_smallest_windows_are_drawn_that_are_not_too_many() -> None:
    windows = [window(10, number, {"dense": 0.4}) for number in range(MAX_WINDOWS + 1)]
    windows += [window(50, number, {"dense": 0.4}) for number in range(MAX_WINDOWS // 5)]
    history = RunHistory.of(windows)
    assert RunView(history).size == 50
    assert RunView(history, size=10).size == 10
    assert RunView(RunHistory.of(windows[:-30])).size == 10


def test_partial_windows_are_left_out_of_the_line_but_not_of_the_figures() -> None:
    part = window(100, 1, {"dense": 0.4}, events=40)
    history = RunHistory.of([window(100, 0, {"dense": 0.4}), part])
    assert history.tables[100].ends.tolist() == [100]
    assert [row.end for row in history.tables[100].rows()] == [100, 140]
    scores = history.scores(0)
    assert scores is not None
    assert (scores.begin, scores.end) == (0, 140)
    only = history.scores(100)
    assert only is not None
    assert (only.begin, only.end) == (100, 140)


def test_a_model_that_never_ran_is_not_drawn() -> None:
    history = RunHistory.of([window(100, 0, {"dense": 0.4})])
    assert [model.name for model in RunView(history).models] == ["dense"]


def test_the_last_half_is_that_of_the_events_after_the_first_mask() -> None:
    history = run()
    assert history.start == 800
    whole, half = history.whole_and_last_half()
    assert whole is not None
    assert half is not None
    assert (whole.begin, half.begin, half.end) == (800, 1_400, 2_000)


def test_without_a_mask_there_is_no_last_half_to_draw() -> None:
    failed = verdict(1, 100, "failed")
    history = RunHistory.of([window(100, 0, {"dense": 0.4}), failed])
    assert history.start is None
    assert RunView(history).last_half is None


def test_neighbouring_windows_with_the_same_drifts_are_one_band() -> None:
    drifts: list[tuple[str, ...]] = [
        ("churn",),
        ("churn",),
        (),
        ("churn",),
        ("abrupt", "churn"),
        (),
    ]
    windows = [window(10, n, {"dense": 0.4}, drift) for n, drift in enumerate(drifts)]
    history = RunHistory.of(windows)
    assert history.bands == [
        Band(0, 20, ("churn",)),
        Band(30, 40, ("churn",)),
        Band(40, 50, ("abrupt", "churn")),
    ]
    assert [row.drift for row in history.tables[10].rows()] == drifts


def test_a_window_that_a_model_did_not_predict_is_a_gap() -> None:
    table = run().tables[100]
    for name in ("sparse.ne", "sparse.relative_ce"):
        assert np.isnan(table.column(name)).tolist() == [True] * 8 + [False] * 12
    assert table.column("dense.ne")[0] == pytest.approx(1.0)
    assert table.column("sparse.relative_ce")[8:].tolist() == pytest.approx([0.004] * 12)


def test_a_relative_ce_over_windows_is_that_of_all_their_events() -> None:
    light = window(100, 0, {"dense": 0.4, "sparse": 0.5}, events=50)
    heavy = window(100, 1, {"dense": 0.2, "sparse": 0.2})
    light = light.model_copy(update={"partial": False, "end": 100})
    expected = (50 * 0.5 + 100 * 0.2) / (50 * 0.4 + 100 * 0.2) - 1
    scores = RunHistory.of([light, heavy]).scores(0)
    assert scores is not None
    assert scores.models["sparse"]["relative_ce"] == pytest.approx(expected)


def test_a_relative_ce_needs_the_model_in_every_window() -> None:
    windows = [window(100, 0, {"dense": 0.4}), window(100, 1, {"dense": 0.4, "sparse": 0.5})]
    scores = RunHistory.of(windows).scores(0)
    assert scores is not None
    assert list(scores.models) == ["dense"]
    assert RunHistory().scores(0) is None


def test_a_run_without_a_whole_window_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match=r"no whole window of 0 events .*; sizes there are: none"):
        draw(RunHistory.of([window(100, 0, {"dense": 0.4}, events=40)]))


def test_a_size_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no whole window of 70 events .*; sizes there are: 100"):
        draw(RunHistory.of([window(100, 0, {"dense": 0.4})]), size=70)


def test_rollbacks_are_there_in_order_and_each_once() -> None:
    back = [rollback(1300, 1350, 3), rollback(1700, 1750, 4)]
    history = run(*back, *back)
    assert [one.rollback.count for one in history.rollbacks if one.rollback] == [1350, 1750]
    assert run().rollbacks == []


@pytest.mark.parametrize(("count", "drawn"), [(1500, 3), (1501, 2), (1600, 2), (1601, 3)], ids=str)
def test_a_rebuild_that_was_open_at_a_rollback_is_superseded(count: int, drawn: int) -> None:
    """Rebuild 3 goes from 1500 to 1600."""
    history = run(rollback(count, count + 50))
    assert sum(not history.superseded(one) for one in history.verdicts) == drawn
