from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stream.batch import Reason, json_schema
from stream.codec import COLUMNAR, CONTINUE, END, JSON, RAW, decode
from stream.log import Record, StoredRecord
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature

GOOD: dict[str, object] = {"event_id": "a", "event_time": "2024-05-01T12:00:00Z", "label": 1}
FEATURES = FeatureSchema(
    numeric=(NumericFeature(name="price", log1p=True), NumericFeature(name="age")),
    categorical=(
        CategoricalFeature(name="site", buckets=50),
        CategoricalFeature(name="tags", buckets=50, max_values=2),
    ),
)
TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def fits(value: object, schema: Mapping[str, Any]) -> bool:
    """Check a value against as much of JSON Schema as the schema of an event uses."""
    known = {"anyOf", "type", "enum", "pattern", "exclusiveMinimum", "items", "maxItems"}
    known |= {"properties", "required", "additionalProperties"}
    said = {"$schema", "title", "description", "default", "examples"}
    assert schema.keys() <= known | said
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    kinds = schema.get("type", list(TYPES))
    types = [
        kind for name in ([kinds] if isinstance(kinds, str) else kinds) for kind in TYPES[name]
    ]
    return type(value) in types and value in schema.get("enum", [value]) and _parts(value, schema)


def _parts(value: object, schema: Mapping[str, Any]) -> bool:
    if isinstance(value, str):
        return bool(re.search(schema.get("pattern", ""), value))
    if isinstance(value, int | float):
        return bool(value > schema.get("exclusiveMinimum", -float("inf")))
    if isinstance(value, list):
        short = len(value) <= schema.get("maxItems", len(value))
        return short and all(fits(one, schema.get("items", {})) for one in value)
    return not isinstance(value, dict) or _members(value, schema)


def _members(value: Mapping[str, object], schema: Mapping[str, Any]) -> bool:
    named, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    if not value.keys() >= set(schema.get("required", [])):
        return False
    if others is False and not value.keys() <= named.keys():
        return False
    return all(fits(one, named.get(name, others)) for name, one in value.items())


def is_taken(document: object) -> bool:
    """Say what the codec decides about a record."""
    stored = StoredRecord(0, 0, 1, Record(json.dumps(document).encode()))
    return len(decode([stored], FEATURES).batch) == 1


VALID: list[dict[str, object]] = [
    {},
    {"event_id": 17},
    {"event_id": 1.5},
    {"event_time": "2024-05-01"},
    {"event_time": "2024-05-01 12:00"},
    {"event_time": "2024-05-01T12:00:00.123456+02:00"},
    {"event_time": "2024-05-01t12:00:00z"},
    {"event_time": 1714564800},
    {"event_time": 1714564800.5},
    {"event_time": -1},
    {"event_time": 1767225600000},
    {"label": 0},
    {"weight": 2},
    {"weight": 0.1},
    {"numeric": {"price": 1, "age": -3.5}},
    {"numeric": {"price": None}},
    {"numeric": {}, "categorical": {}},
    {"categorical": {"site": "a"}},
    {"categorical": {"site": 17}},
    {"categorical": {"site": None, "tags": None}},
    {"categorical": {"site": ["a"], "tags": []}},
    {"categorical": {"tags": ["a", 2]}},
]
BAD: list[dict[str, object]] = [
    {"event_id": None},
    {"event_id": True},
    {"event_id": ["a"]},
    {"event_time": "yesterday"},
    {"event_time": "12:00"},
    {"event_time": "01.05.2024"},
    {"event_time": None},
    {"event_time": True},
    {"label": 2},
    {"label": "1"},
    {"label": 0.5},
    {"label": None},
    {"weight": 0},
    {"weight": -1},
    {"weight": None},
    {"numeric": None},
    {"numeric": []},
    {"numeric": {"price": "cheap"}},
    {"numeric": {"price": -1}},
    {"numeric": {"prize": 1}},
    {"numeric": {"site": 1}},
    {"numeric": {"age": [1]}},
    {"categorical": None},
    {"categorical": {"site": {}}},
    {"categorical": {"site": True}},
    {"categorical": {"site": ["a", "b"]}},
    {"categorical": {"tags": ["a", "b", "c"]}},
    {"categorical": {"tags": [None]}},
    {"categorical": {"tags": [["a"]]}},
    {"categorical": {"price": "1"}},
    {"campaign": 7},
]
INVALID: list[object] = [
    "a",
    [],
    None,
    {"event_id": "a", "label": 1},
    {"event_time": 0, "label": 1},
    {"event_id": "a", "event_time": 0},
    *(GOOD | bad for bad in BAD),
]
LENIENT: list[dict[str, object]] = [
    {"numeric": {"price": "9.5"}},
    {"weight": "2"},
    {"event_time": "1714564800"},
    {"numeric": {"age": True}},
    {"label": True},
]
"""Taken, though the JSON Schema refuses them."""
BEYOND: list[dict[str, object]] = [
    {"event_time": "2024-02-30"},
    {"event_time": "2024-05-01T25:00"},
    {"event_time": 10**15},
    {"numeric": {"age": 1e39}},
    {"weight": 1e39},
    {"weight": 1e-60},
]
"""Refused, though the JSON Schema cannot say so."""


@pytest.mark.parametrize("change", VALID, ids=str)
def test_what_the_json_schema_takes_is_a_valid_event(change: dict[str, object]) -> None:
    document = GOOD | change
    assert fits(document, json_schema(FEATURES))
    assert fits(document, json_schema())
    assert is_taken(document)


@pytest.mark.parametrize("document", INVALID, ids=str)
def test_what_the_json_schema_refuses_is_no_valid_event(document: object) -> None:
    assert not fits(document, json_schema(FEATURES))
    assert not is_taken(document)


@pytest.mark.parametrize("change", LENIENT, ids=str)
def test_some_events_are_taken_though_the_json_schema_refuses_them(
    change: dict[str, object],
) -> None:
    assert not fits(GOOD | change, json_schema(FEATURES))
    assert is_taken(GOOD | change)


@pytest.mark.parametrize("change", BEYOND, ids=str)
def test_some_events_are_refused_though_the_json_schema_cannot_say_so(
    change: dict[str, object],
) -> None:
    assert fits(GOOD | change, json_schema(FEATURES))
    assert not is_taken(GOOD | change)


def test_without_a_feature_schema_any_name_fits() -> None:
    document = GOOD | {"numeric": {"x": 1}, "categorical": {"y": ["a"] * 9}}
    assert fits(document, json_schema())
    assert not fits(document, json_schema(FEATURES))
    assert not fits(GOOD | {"numeric": {"x": "cheap"}}, json_schema())


def test_the_examples_of_the_json_schema_are_valid() -> None:
    ours, anything = json_schema(FEATURES), json_schema()
    (example,) = ours["examples"]
    assert fits(example, ours)
    assert is_taken(example)
    assert example["numeric"].keys() | example["categorical"].keys() == set(FEATURES.names)
    assert fits(anything["examples"][0], anything)
    assert json.loads(json.dumps(ours)) == ours


DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text("utf-8")


def table(head: str) -> dict[str, list[str]]:
    """Read a table of the page: the cells of each row, by the first."""
    lines = DOCUMENT[DOCUMENT.index(f"| {head} |") :].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return {re.findall(r"`(\w+)`", row[0])[0]: row[1:] for row in rows}


def test_the_page_of_events_shows_the_example_of_the_json_schema() -> None:
    example = DOCUMENT.partition("```json\n")[2].partition("```")[0]
    assert json.loads(example) == json_schema()["examples"][0]


def test_the_page_of_events_has_the_fields_of_the_json_schema_in_its_words() -> None:
    schema = json_schema()
    assert table("field") == {
        name: ["yes" if name in schema["required"] else "no", told["description"]]
        for name, told in schema["properties"].items()
    }


def test_the_page_of_events_names_all_reasons_and_kinds() -> None:
    assert list(table("reason")) == [reason.value for reason in Reason]
    assert list(table("header `kind`")) == [
        one.decode() for one in (JSON, COLUMNAR, RAW, END, CONTINUE)
    ]
