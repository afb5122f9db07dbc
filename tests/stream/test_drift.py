from __future__ import annotations

import pytest
from pydantic import ValidationError

from stream.sources.drift import BUILT_IN, World, build, world_at


def test_gradual_moves_one_network_a_period_and_stops_at_its_end() -> None:
    drift = build({"kind": "gradual", "begin": 100, "end": 300, "period_events": 400})
    concepts = [drift.apply(World(), count).concept for count in (0, 100, 200, 300, 900)]
    assert concepts == [0.0, 0.0, 0.25, 0.5, 0.5]


def test_abrupt_jumps_once_or_again_and_again() -> None:
    once = build({"kind": "abrupt", "begin": 100})
    again = build({"kind": "abrupt", "begin": 100, "every_events": 50})
    counts = (99, 100, 149, 150, 200)
    assert [once.apply(World(), c).concept for c in counts] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert [again.apply(World(), c).concept for c in counts] == [0.0, 1.0, 1.0, 2.0, 3.0]


def test_recurring_comes_back() -> None:
    drift = build({"kind": "recurring", "begin": 10, "end": 50, "period_events": 20})
    concepts = [drift.apply(World(), count).concept for count in (9, 10, 19, 20, 29, 30, 50)]
    assert concepts == [0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]


def test_click_rate_swings_around_where_it_began() -> None:
    drift = build({"kind": "click-rate", "begin": 0, "period_events": 400, "amplitude": 0.5})
    swing = [drift.apply(World(), count).log_odds for count in (0, 100, 200, 300, 400)]
    assert swing == pytest.approx([0.0, 0.5, 0.0, -0.5, 0.0], abs=1e-12)


def test_drifts_compose() -> None:
    drifts = [
        build({"kind": "gradual", "period_events": 100}),
        build({"kind": "churn", "period_events": 200}),
        build({"kind": "none"}),
    ]
    assert world_at(drifts, 50) == World(concept=0.5, churned=0.25)


@pytest.mark.parametrize(
    ("options", "stretch", "runs"),
    [
        ({"kind": "gradual", "begin": 100}, (0, 100), False),
        ({"kind": "gradual", "begin": 100}, (50, 101), True),
        ({"kind": "gradual", "begin": 100, "end": 200}, (200, 300), False),
        ({"kind": "abrupt", "begin": 100}, (100, 150), True),
        ({"kind": "abrupt", "begin": 100}, (101, 150), False),
        ({"kind": "abrupt", "begin": 0}, (0, 50), True),
        ({"kind": "abrupt", "begin": 100, "every_events": 30}, (125, 131), True),
        ({"kind": "none"}, (0, 100), False),
    ],
)
def test_a_drift_knows_where_it_runs(
    options: dict[str, object], stretch: tuple[int, int], runs: bool
) -> None:
    assert build(options).active(*stretch) is runs


@pytest.mark.parametrize("kind", BUILT_IN)
def test_nothing_moves_before_a_drift_begins(kind: str) -> None:
    assert build({"kind": kind, "begin": 1_000}).apply(World(), 999) == World()


def test_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="unknown drift 'sudden'; known: abrupt, churn"):
        build({"kind": "sudden"})


def test_a_drift_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValidationError, match="cannot end at 5 before it begins at 10"):
        build({"kind": "gradual", "begin": 10, "end": 5})
