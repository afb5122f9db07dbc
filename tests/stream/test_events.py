from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from stream.batch import ClickEvent, Reason, explain

GOOD: dict[str, object] = {"event_id": "a", "event_time": "2024-05-01T12:00:00Z", "label": 1}


def parse(**changes: object) -> ClickEvent:
    return ClickEvent.model_validate_json(json.dumps({**GOOD, **changes}))


def test_an_event_without_features_weighs_one() -> None:
    event = parse()
    assert (event.weight, event.numeric, event.categorical) == (1.0, {}, {})


def test_a_time_without_a_zone_is_utc() -> None:
    assert parse(event_time="2024-05-01T12:00:00").event_time == datetime(
        2024, 5, 1, 12, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("time", "milliseconds"),
    [
        ("1970-01-01T00:00:00.001999Z", 1),
        ("1969-12-31T23:59:59.999500Z", -1),
        ("1970-01-01T01:00:00+01:00", 0),
        (1_714_564_800, 1_714_564_800_000),
    ],
)
def test_time_counts_whole_milliseconds_since_1970_rounded_down(
    time: object, milliseconds: int
) -> None:
    assert parse(event_time=time).time_ms == milliseconds


def test_a_zone_is_kept() -> None:
    zone = timezone(timedelta(hours=2))
    assert parse(event_time="2024-05-01T12:00:00+02:00").event_time.utcoffset() == zone.utcoffset(
        None
    )


def test_whole_numbers_become_text() -> None:
    event = parse(categorical={"site": 17, "tags": [1, "b"]}, event_id=5)
    assert event.categorical == {"site": "17", "tags": ["1", "b"]}
    assert event.event_id == "5"


def test_missing_values_are_allowed() -> None:
    event = parse(numeric={"price": None}, categorical={"site": None, "tags": []})
    assert event.numeric == {"price": None}
    assert event.categorical == {"site": None, "tags": []}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": 2}, Reason.LABEL),
        ({"label": "1"}, Reason.LABEL),
        ({"label": None}, Reason.LABEL),
        ({"weight": 0}, Reason.WEIGHT),
        ({"weight": -1}, Reason.WEIGHT),
        ({"weight": float("inf")}, Reason.WEIGHT),
        ({"event_time": "yesterday"}, Reason.TIME),
        ({"event_id": None}, Reason.EVENT_ID),
        ({"numeric": {"price": float("nan")}}, Reason.NUMERIC),
        ({"numeric": {"price": "cheap"}}, Reason.NUMERIC),
        ({"categorical": {"site": {}}}, Reason.CATEGORICAL),
        ({"categorical": {"site": [None]}}, Reason.CATEGORICAL),
        ({"campaign": 7}, Reason.UNKNOWN_FIELD),
    ],
    ids=str,
)
def test_what_is_wrong_has_a_reason_that_names_the_field(
    change: dict[str, object], reason: Reason
) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(**change)
    found, detail = explain(caught.value)
    assert found is reason
    assert detail.startswith(next(iter(change)))


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"null", b'{"event_id": "\xff"}', b"[" * 9999])
def test_what_is_no_json_object_is_unparsable(value: bytes) -> None:
    with pytest.raises(ValidationError) as caught:
        ClickEvent.model_validate_json(value)
    assert explain(caught.value)[0] is Reason.UNPARSABLE


def test_an_event_is_frozen() -> None:
    field = "label"
    with pytest.raises(ValidationError, match="frozen"):
        setattr(parse(), field, 0)
