"""What is said of models that are no better than much simpler ones, and of what rebuilds cost."""

from __future__ import annotations

import pytest

from evaluator.run import RunHistory, RunTables, timeline, warnings
from stream.messages import AnyMessage, Baseline, Baselines, Interval
from tests.evaluator.messages import decided
from tests.evaluator.runs import rollback, verdict, window


def compared(number: int, dense: float, error: float = 0.01) -> Baselines:
    """Compare the models on 200 events; dense is worse than the logistic regression by a share."""
    near = Interval(mean=dense, low=dense - error, high=dense + error)
    better = Interval(mean=-0.2, low=-0.25, high=-0.15)
    return Baselines(
        begin=200 * number,
        end=200 * number + 200,
        every=10,
        events=20,
        weight=20.0,
        clicks=4.0,
        models={"dense": 0.4, "sparse": 0.4},
        baselines={
            "click_rate": Baseline(ce=0.5, relative={"dense": better, "sparse": better}),
            "logistic_regression": Baseline(
                ce=0.4 / (1 + dense), relative={"dense": near, "sparse": better}
            ),
        },
    )


def run(ce: float = 0.4, windows: int = 20) -> list[AnyMessage]:
    """Make windows of 100 events; the normalised entropy is twice the cross entropy."""
    return [window(100, number, {"dense": ce, "sparse": ce + 0.01}) for number in range(windows)]


def test_nothing_is_said_of_models_that_are_worth_something() -> None:
    assert warnings(RunHistory.of(run())) == []
    fine = [*run(), *(compared(number, -0.05) for number in range(10))]
    assert warnings(RunHistory.of(fine)) == []
    assert warnings(RunHistory()) == []


def test_a_model_that_is_no_better_than_the_click_rate_is_named() -> None:
    said = warnings(RunHistory.of(run(ce=0.495)))
    assert len(said) == 1
    assert said[0].startswith(
        "sparse is no better than the click rate: NE 1.0092 over the last 1,000 events; a model"
    )
    assert "learner.rate" in said[0]


@pytest.mark.parametrize(("clicks", "what"), [(0.0, "no clicks"), (100.0, "only clicks")])
def test_events_of_one_kind_are_said_to_be_so_and_no_model_is_compared(
    clicks: float, what: str
) -> None:
    def told(windows: int) -> RunHistory:
        pair = {"dense": 1e-6, "sparse": 2e-6}
        made = (window(100, number, pair) for number in range(windows))
        return RunHistory.of(
            [one.model_copy(update={"weight": 100.0, "clicks": clicks}) for one in made]
        )

    (said,) = warnings(told(5))
    assert said.startswith(f"there are {what} among 500 events, so no model can be told")
    assert warnings(told(4)) == []
    for row in RunTables.of(told(5)).results(10).rows:
        assert row[1:] == ("0.0000", "", "", "0.0000", "", "")


def test_the_first_windows_of_a_run_are_no_reason_to_warn() -> None:
    """A model begins by knowing nothing."""
    assert warnings(RunHistory.of(run(ce=0.6, windows=9))) == []
    assert len(warnings(RunHistory.of(run(ce=0.6, windows=10)))) == 2
    learned = [*run(ce=0.6, windows=10)]
    learned += [window(100, number, {"dense": 0.4, "sparse": 0.4}) for number in range(10, 20)]
    assert warnings(RunHistory.of(learned)) == []


def test_a_model_that_a_simple_one_beats_is_named_with_how_sure_that_is() -> None:
    worse = [*run(), *(compared(number, 0.004, error=0.008) for number in range(10))]
    (said,) = warnings(RunHistory.of(worse))
    # Of five ranges of 20 events the interval is 0.008 / √5 wide to either side.
    assert said.startswith(
        "dense is worse than a logistic regression (River, AdaGrad): cross entropy +0.40% "
        "[+0.04%, +0.76%] on 100 of the last 1,000 events; a model"
    )
    unsure = [*run(), *(compared(number, 0.004, error=0.01) for number in range(10))]
    assert warnings(RunHistory.of(unsure)) == []
    old = [*run(), *(compared(number, 0.5 if number < 5 else -0.1) for number in range(10))]
    assert warnings(RunHistory.of(old)) == []


def test_the_simple_models_have_a_table() -> None:
    history = RunHistory.of([*run(), *(compared(number, 0.0) for number in range(10))])
    table = RunTables.of(history).simple()
    assert table.caption.startswith("On 100 of the events 1,001 to 2,000, each")
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert list(rows) == [
        *("dense", "sparse", "the click rate so far"),
        "a logistic regression (River, AdaGrad)",
    ]
    assert rows["dense"]["CE"] == "0.4000"
    # The entropy of a click rate of 0.2 is 0.5004 nats.
    assert rows["the click rate so far"]["NE"] == "0.9992"
    assert rows["sparse"]["against the click rate so far"] == "-20.00% [-22.24%, -17.76%]"
    assert RunTables.of(RunHistory.of(run())).simple().rows == ()


def lost(*percent: float) -> list[AnyMessage]:
    """Make windows of 100 events with a weight of 2 each, in which sparse loses so many percent."""
    return [
        window(100, number, {"dense": 0.5, "sparse": 0.5 * (1 + one / 100)})
        for number, one in enumerate(percent)
    ]


def test_what_a_rebuild_cost_until_its_end_is_said() -> None:
    history = RunHistory.of([*lost(1, 1, 2, 4, 1), decided(2, 200), verdict(2, 400)])
    gap = history.gap(200, 400)
    assert gap is not None
    assert gap.relative == pytest.approx(0.03)
    # 2 % and 4 % of 0.5 nats on a weight of 200 each.
    assert gap.nats == pytest.approx(200 * 0.5 * (0.02 + 0.04))
    assert history.gap(210, 390) is None
    ended = timeline(RunHistory.of([*lost(1, 1, 2, 4, 1), verdict(2, 400)]))
    assert [one.gap for one in ended] == pytest.approx([0.04])
    (open_one,) = timeline(RunHistory.of([*lost(1, 1, 2, 4), decided(2, 300)]))
    assert (open_one.outcome, open_one.until) == ("open", 400)
    assert open_one.gap == pytest.approx(0.04)
    assert "meanwhile sparse lost 4.00 % to dense, 4 nats in all" in open_one.text
    first = [window(100, number, {"dense": 0.5}) for number in range(4)]
    assert [one.gap for one in timeline(RunHistory.of([*first, verdict(1, 400)]))] == [None]


def test_the_threshold_is_the_least_loss_since_the_last_switch_and_the_rise() -> None:
    told = [*lost(9, 3, 2, 4, 1, 1, 5, 6, 3), verdict(1, 100), verdict(2, 600), verdict(3, 650)]
    lines = RunHistory.of(told).thresholds(100, 0.01)
    assert [(one.begin, one.end) for one in lines] == [
        *((100, 200), (200, 400), (400, 600)),
        *((600, 700), (700, 800), (800, 900)),
    ]
    assert [one.value for one in lines] == pytest.approx([0.04, 0.03, 0.02, 0.06, 0.07, 0.04])
    assert RunHistory.of(lost(1, 1)).thresholds(100, 0.01) == []
    back = RunHistory.of([*lost(9, 3, 2, 4), verdict(1, 100), rollback(200, 300)])
    assert [one.value for one in back.thresholds(100, 0.01)] == pytest.approx([0.04, 0.03, 0.05])
