from __future__ import annotations

import math

import pytest

from evaluator.run.history import MOST_WINDOWS, Band, relative_ce, tell
from tests.evaluator.runs import drifting_run, rollback, verdict, window


def test_windows_and_verdicts_are_put_in_order_and_each_told_once() -> None:
    messages = drifting_run()
    story = tell([*reversed(messages), *messages])
    assert [w.begin for w in story.windows] == list(range(0, 2000, 100))
    assert [v.count for v in story.verdicts] == [800, 1200, 1600]
    assert story.end == 2000
    assert story.models == ("dense", "sparse", "never_rebuilt")


def test_the_smallest_windows_are_told_of_that_are_not_too_many() -> None:
    windows = [window(10, number, {"dense": 0.4}) for number in range(MOST_WINDOWS + 1)]
    windows += [window(50, number, {"dense": 0.4}) for number in range(MOST_WINDOWS // 5)]
    assert tell(windows).windows[0].size == 50
    assert tell(windows, size=10).windows[0].size == 10
    assert tell(windows[:-30]).windows[0].size == 10


def test_partial_windows_are_left_out_of_the_line_but_not_of_the_figures() -> None:
    part = window(100, 1, {"dense": 0.4}, events=40)
    story = tell([window(100, 0, {"dense": 0.4}), part])
    assert [w.end for w in story.windows] == [100]
    assert [w.end for w in story.finest] == [100, 140]


def test_a_model_that_never_ran_is_not_told_of() -> None:
    assert tell([window(100, 0, {"dense": 0.4})]).models == ("dense",)


def test_the_last_half_is_that_of_the_events_behind_the_first_mask() -> None:
    story = tell(drifting_run(start=800))
    assert story.start == 800
    assert [w.begin for w in story.last_half] == list(range(1400, 2000, 100))


def test_without_a_mask_there_is_no_last_half() -> None:
    failed = verdict(1, 100, "failed")
    story = tell([window(100, 0, {"dense": 0.4}), failed])
    assert story.start is None
    assert story.last_half == ()


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
    assert tell(windows).bands == (
        Band(0, 20, ("churn",)),
        Band(30, 40, ("churn",)),
        Band(40, 50, ("abrupt", "churn")),
    )


def test_a_window_that_a_model_did_not_predict_is_a_gap() -> None:
    story = tell(drifting_run(start=800))
    assert [math.isnan(ne) for ne in story.entropy("sparse")] == [True] * 8 + [False] * 12
    assert [math.isnan(r) for r in story.relative("sparse")] == [True] * 8 + [False] * 12
    assert story.entropy("dense")[0] == pytest.approx(1.0)
    assert story.relative("sparse")[8:].tolist() == pytest.approx([0.004] * 12)


def test_a_relative_ce_over_windows_is_that_of_all_their_events() -> None:
    light = window(100, 0, {"dense": 0.4, "sparse": 0.5}, events=50)
    heavy = window(100, 1, {"dense": 0.2, "sparse": 0.2})
    expected = (50 * 0.5 + 100 * 0.2) / (50 * 0.4 + 100 * 0.2) - 1
    assert relative_ce([light, heavy], "sparse") == pytest.approx(expected)


def test_a_relative_ce_needs_the_model_in_every_window() -> None:
    windows = [window(100, 0, {"dense": 0.4}), window(100, 1, {"dense": 0.4, "sparse": 0.5})]
    assert relative_ce(windows, "sparse") is None
    assert relative_ce([], "sparse") is None


def test_a_run_without_a_whole_window_has_no_story() -> None:
    with pytest.raises(ValueError, match=r"no whole window of 0 events .*; sizes there are: none"):
        tell([window(100, 0, {"dense": 0.4}, events=40)])


def test_a_size_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no whole window of 70 events .*; sizes there are: 100"):
        tell([window(100, 0, {"dense": 0.4})], size=70)


def test_rollbacks_are_told_in_order_and_each_once() -> None:
    back = [rollback(1700, 1750, 4), rollback(1300, 1350, 3)]
    story = tell([*drifting_run(), *back, *back])
    assert [one.count for one in story.rollbacks] == [1350, 1750]
    assert tell(drifting_run()).rollbacks == ()


@pytest.mark.parametrize(("count", "told"), [(1500, 3), (1501, 2), (1600, 2), (1601, 3)], ids=str)
def test_a_rebuild_that_was_open_at_a_rollback_has_no_end_to_tell_of(count: int, told: int) -> None:
    """Rebuild 3 goes from 1500 to 1600."""
    story = tell([*drifting_run(), rollback(count, count + 50)])
    assert len(story.verdicts) == told
