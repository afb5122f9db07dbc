from __future__ import annotations

from evaluator.calibration import calibration


def test_promising_twice_the_clicks_that_come_is_a_calibration_of_two() -> None:
    assert calibration(predicted=8.0, observed=4.0) == 2


def test_without_clicks_there_is_none() -> None:
    assert calibration(predicted=0.1, observed=0.0) is None
