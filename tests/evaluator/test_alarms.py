from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from pydantic import TypeAdapter

from evaluator.config import AlarmsConfig, EvaluatorConfig
from evaluator.drift import MAX_FIGURES, Alarms, AlarmsState
from stream.batch import ClickBatch
from stream.messages import Alarm, Interval, Stability, Window
from stream.schema import FeatureSchema, NumericFeature
from stream.spec import RunSpec
from tests.evaluator.runs import score

SCHEMA = FeatureSchema(numeric=(NumericFeature(name="price"), NumericFeature(name="age")))
SPEC = RunSpec.small(schema=SCHEMA)
SIZE = 10_000
ERROR = 0.0009
"""Of the relative CE on one window, as on the default stream."""


def config(**told: object) -> EvaluatorConfig:
    return EvaluatorConfig(windows=(SIZE, 5 * SIZE), alarms=AlarmsConfig.model_validate(told))


def window(
    number: int,
    ne: float | None = 0.75,
    relative: float | None = None,
    rate: float = 0.2,
    versions: tuple[int, ...] = (1,),
    size: int = SIZE,
) -> Window:
    reach = 1.9602 * ERROR
    interval = None
    if relative is not None:
        interval = Interval(mean=relative, low=relative - reach, high=relative + reach)
    return Window(
        begin=number * size,
        end=(number + 1) * size,
        weight=size,
        clicks=rate * size,
        click_rate=rate,
        models={
            "dense": score(ne),
            "sparse": None if interval is None else score(ne, 0.4, interval, versions),
        },
        bayes_ce=None,
        drift=(),
        size=size,
        number=number,
        partial=False,
    )


def noise(seed: int, n: int = 300) -> Iterator[tuple[float, float, float]]:
    """Scatter NE, relative CE and click rate as the default stream does."""
    rng = np.random.default_rng(seed)
    yield from zip(
        rng.normal(0, 0.008, n).tolist(),
        rng.normal(0, ERROR, n).tolist(),
        rng.normal(0, 0.004, n).tolist(),
        strict=True,
    )


def stream(seed: int, kind: str = "", at: int = 150) -> list[Window]:
    """Lay out 3 M events without drift but for what changes from a window on."""
    ne, relative, rate = (
        kind == "dense_loss",
        kind == "relative_loss",
        kind == "click_rate",
    )
    return [
        window(
            number,
            ne=0.75 + 0.25 * np.exp(-number / 10) + one + 0.08 * (ne and number >= at),
            relative=0.001 + other + 0.004 * (relative and number >= at) if number > 110 else None,
            rate=0.2 + third + 0.03 * (rate and number >= at),
        )
        for number, (one, other, third) in enumerate(noise(seed))
    ]


def ripple(number: int) -> float:
    """Scatter a little, the same in every run."""
    return 0.004 * (number % 3)


def heard(windows: list[Window], told: EvaluatorConfig | None = None) -> list[Alarm]:
    alarms = Alarms(told or config(detectors=("dense_loss", "relative_loss", "click_rate")), SPEC)
    return [alarm for one in windows for alarm in alarms.close([one])[1]]


def test_without_drift_there_is_no_alarm_in_60_million_events() -> None:
    assert [alarm.reason for seed in range(20) for alarm in heard(stream(seed))] == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("detector", ["dense_loss", "relative_loss", "click_rate"])
def test_a_jump_is_told_by_the_detector_that_listens_to_it_and_by_no_other(
    detector: str, seed: int
) -> None:
    found = heard(stream(seed, detector))
    assert [alarm.detector for alarm in found] == [detector]
    (alarm,) = found
    assert 150 * SIZE < alarm.count <= 162 * SIZE
    assert abs(alarm.since - 150 * SIZE) <= 2 * SIZE
    assert alarm.statistic > alarm.threshold
    assert alarm.feature is None


def test_reasons_say_what_changed_from_what_to_what() -> None:
    found = {d: heard(stream(0, d))[0].reason for d in ("dense_loss", "relative_loss")}
    assert found["dense_loss"].startswith("normalised entropy of dense rose from 0.7")
    assert "after 1,500,000 events; ADWIN: " in found["dense_loss"]
    assert found["relative_loss"].startswith("CE of sparse against dense rose from +0.1")
    assert " % after 1,500,000 events; Page-Hinkley: " in found["relative_loss"]


def test_a_loss_that_falls_is_no_alarm_but_a_click_rate_that_falls_is() -> None:
    falls = [
        window(n, ne=0.9 - 0.2 * (n > 50) + ripple(n), rate=0.2 - 0.1 * (n > 50) + ripple(n))
        for n in range(100)
    ]
    (alarm,) = heard(falls)
    assert alarm.detector == "click_rate"
    assert alarm.reason.startswith("click rate fell from 0.2040 to 0.1")
    assert " after 510,000 events; ADWIN: " in alarm.reason


def test_after_a_fall_a_rise_back_is_heard() -> None:
    found = heard([window(n, ne=0.9 - 0.2 * (50 < n <= 100) + ripple(n)) for n in range(150)])
    assert [(alarm.detector, alarm.since) for alarm in found] == [("dense_loss", 101 * SIZE)]


def test_what_a_new_version_does_is_not_compared_with_what_the_old_one_did() -> None:
    def told(second: int) -> list[Window]:
        return [
            window(n, relative=0.001 + 0.01 * (n >= 50), versions=(1,) if n < 50 else (second,))
            for n in range(100)
        ]

    assert [alarm.detector for alarm in heard(told(second=1))] == ["relative_loss"]
    assert heard(told(second=2)) == []


def test_a_window_that_a_swap_falls_into_has_no_figure() -> None:
    found = [window(n, relative=0.001 + 0.5 * (n == 50), versions=(1,)) for n in range(50)]
    found += [window(50, relative=0.5, versions=(1, 2))]
    found += [window(n, relative=0.001, versions=(2,)) for n in range(51, 100)]
    assert heard(found) == []


def test_windows_without_a_figure_are_passed_over() -> None:
    holes = [window(n, ne=None if n % 2 else 0.75 + 0.2 * (n > 60) + ripple(n)) for n in range(120)]
    (alarm,) = heard(holes)
    assert alarm.since == 61 * SIZE


def test_exact_figures_of_twins_are_no_change() -> None:
    """A sparse model that predicts as dense does has an interval of no width."""
    none = Interval(mean=0.0, low=0.0, high=0.0)
    same = [
        window(n).model_copy(update={"models": {"sparse": score(0.75, 0.4, none)}})
        for n in range(50)
    ]
    assert heard(same) == []


def test_only_whole_windows_of_one_size_are_heard() -> None:
    jump, larger = (
        [window(n, ne=0.75 + 0.2 * (n > 50) + ripple(n), size=size) for n in range(100)]
        for size in (SIZE, 5 * SIZE)
    )
    assert len(heard(jump)) == 1
    assert heard(larger) == []
    assert heard([one.model_copy(update={"partial": True}) for one in jump]) == []
    told = heard(larger, config(window_events=5 * SIZE, detectors=("dense_loss",)))
    assert [alarm.since for alarm in told] == [51 * 5 * SIZE]


def test_detectors_that_are_not_asked_for_stay_silent() -> None:
    assert heard(stream(0, "click_rate"), config(detectors=("dense_loss",))) == []
    assert heard(stream(0, "click_rate"), config(detectors=())) == []


def test_closer_detectors_hear_more() -> None:
    told = config(detectors=("relative_loss",), page_hinkley_threshold=1.0)
    assert len(heard(stream(0), told)) > len(heard(stream(0)))


def batch(seed: int, price: float = 0.0) -> ClickBatch:
    rng = np.random.default_rng(seed)
    n = 500
    return ClickBatch(
        label=np.zeros(n, np.float32),
        weight=np.ones(n, np.float32),
        time_ms=np.zeros(n, np.int64),
        numeric=(rng.standard_normal((n, 2)) + np.array([price, 0.0])).astype(np.float32),
        categorical=np.empty((n, 0), np.int32),
    )


def played(
    alarms: Alarms, number: int, one: Window
) -> tuple[tuple[Stability, ...], tuple[Alarm, ...]]:
    """Let a window pass whose input jumps behind the fourth."""
    for at in range(20):
        alarms.add(batch(100 * number + at, price=2.0 if number >= 4 else 0.0))
    return alarms.close([one])


def test_a_feature_that_jumps_is_named_and_every_window_tells_how_far_each_is() -> None:
    alarms = Alarms(config(), SPEC)
    told = [played(alarms, number, window(number)) for number in range(7)]
    (alarm,) = [alarm for _, found in told for alarm in found]
    assert (alarm.detector, alarm.feature, alarm.count) == ("input", "price", 5 * SIZE)
    assert (alarm.since, alarm.threshold) == (4 * SIZE, 0.2)
    assert alarm.reason.startswith(
        "price is not distributed as in the events 1 to 10,000; population stability index: "
    )
    known = [[(s.end, sorted(s.psi)) for s in stability] for stability, _ in told]
    both = ["age", "price"]
    assert known[0] == []
    assert known[1:5] == [[(number * SIZE, both)] for number in (2, 3, 4, 5)]
    assert known[5:] == [[(6 * SIZE, ["age"])], [(7 * SIZE, both)]]


def test_restarted_behind_every_window_it_raises_the_same_alarms() -> None:
    adapter = TypeAdapter(AlarmsState)
    windows = stream(1, "dense_loss", at=40)[:70] + [
        one.model_copy(update={"click_rate": one.click_rate + 0.05})
        for one in stream(1, "relative_loss", at=140)[70:170]
    ]
    whole, state = Alarms(config(), SPEC), Alarms(config(), SPEC).state
    raised = 0
    for number, one in enumerate(windows):
        alarms = Alarms(config(), SPEC, adapter.validate_json(adapter.dump_json(state)))
        expected = played(whole, number, one)
        assert played(alarms, number, one) == expected
        raised += len(expected[1])
        state = alarms.state
        assert state == whole.state
    assert raised >= 4


def test_a_long_run_keeps_no_more_figures_than_it_needs() -> None:
    alarms = Alarms(config(detectors=("click_rate",)), SPEC)
    for number in range(3 * MAX_FIGURES):
        alarms.close([window(number)])
        assert len(alarms.state.series["click_rate"].values) <= MAX_FIGURES
