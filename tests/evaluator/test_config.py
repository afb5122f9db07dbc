from __future__ import annotations

import pytest
from pydantic import ValidationError

from evaluator.config import AlarmsConfig, EvaluatorConfig


@pytest.mark.parametrize("models", [(), ("sparse",), ("sparse", "dense"), ("dense", "dense")])
def test_dense_comes_first_and_each_model_once(models: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="name dense first and each once"):
        EvaluatorConfig(models=models)


@pytest.mark.parametrize("windows", [(), (500, 500)])
def test_each_window_size_is_named_once(windows: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="name at least one size and each once"):
        EvaluatorConfig(windows=windows)


def test_a_window_holds_at_least_one_event() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        EvaluatorConfig(windows=(0,))


@pytest.mark.parametrize("segments", [("site", "site"), ((),), (("a", "b"), ("a", "b"))])
def test_each_segmentation_names_features_and_is_there_once(segments: tuple[object, ...]) -> None:
    with pytest.raises(ValidationError, match="name features, and each once"):
        EvaluatorConfig.model_validate({"segments": segments})


def test_segmentations_may_come_as_lists() -> None:
    config = EvaluatorConfig.model_validate({"segments": ["site", ["site", "hour"]]})
    assert config.segments == ("site", ("site", "hour"))


def test_alarms_look_at_windows_that_there_are() -> None:
    assert EvaluatorConfig(windows=(500, 200)).alarm_events == 200
    assert (
        EvaluatorConfig(windows=(500, 200), alarms=AlarmsConfig(window_events=500)).alarm_events
        == 500
    )
    with pytest.raises(ValidationError, match=r"window_events is 100, none of the windows"):
        EvaluatorConfig(
            windows=(500, 200), alarms=AlarmsConfig.model_validate({"window_events": 100})
        )


def test_each_detector_is_named_once() -> None:
    with pytest.raises(ValidationError, match="detectors are input, input; name each once"):
        EvaluatorConfig(alarms=AlarmsConfig.model_validate({"detectors": ("input", "input")}))


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(ValidationError, match="dense_loss"):
        EvaluatorConfig(alarms=AlarmsConfig.model_validate({"detectors": ("weather",)}))


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        EvaluatorConfig.model_validate({"window": (500,)})
