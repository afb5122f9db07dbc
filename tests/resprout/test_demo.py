from __future__ import annotations

import pytest

from resprout.cli.commands import LAYER, changes
from resprout.settings import Settings, load


def test_the_twin_runs_along() -> None:
    assert load(LAYER).settings.evaluator.models == ("dense", "sparse", "never_rebuilt")


@pytest.mark.parametrize("scale", [0.01, 0.5, 3.0])
def test_a_scale_never_shortens_the_time_to_mature(scale: float) -> None:
    asked = Settings()
    events = changes(asked, scale=scale)["stream.generator.events"]
    assert events > asked.pruner.first_mask_events
    assert set(changes(asked, scale=scale)) == {"stream.generator.events"}


def test_an_endless_stream_stays_endless() -> None:
    endless = load(arguments={"stream.generator.events": None}).settings
    assert changes(endless, scale=2.0) == {}


def test_drift_begins_where_the_first_mask_is_cut() -> None:
    asked = Settings()
    (drift,) = changes(asked, drift="churn")["stream.generator.drifts"]
    assert drift == {"kind": "churn", "begin": asked.pruner.first_mask_events}


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="it must be a number above 0"):
        changes(Settings(), scale=scale)


def test_the_default_drift_begins_where_the_first_mask_is_cut() -> None:
    asked = Settings()
    assert [drift["begin"] for drift in asked.stream.generator.drifts] == [
        asked.pruner.first_mask_events
    ]
