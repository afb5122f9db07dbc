from __future__ import annotations

import math
import tracemalloc
from datetime import UTC, datetime

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from stream.batch import (
    ClickBatch,
    ClickEvent,
    Reason,
    encode,
    encode_valid,
    hashing,
    standardise,
)
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature

SCHEMA = FeatureSchema(
    numeric=(
        NumericFeature(name="age", mean=30.0, scale=10.0),
        NumericFeature(name="price", log1p=True),
    ),
    categorical=(
        CategoricalFeature(name="site", buckets=100),
        CategoricalFeature(name="tags", buckets=20, max_values=3),
    ),
)


def event(
    label: int = 1,
    weight: float = 1.0,
    numeric: dict[str, float | None] | None = None,
    categorical: dict[str, str | list[str] | None] | None = None,
) -> ClickEvent:
    return ClickEvent.model_validate(
        {
            "event_id": "a",
            "event_time": datetime(2024, 5, 1, tzinfo=UTC),
            "label": label,
            "weight": weight,
            "numeric": numeric or {},
            "categorical": categorical or {},
        }
    )


def test_every_value_finds_its_column() -> None:
    batch = encode(
        [
            event(
                0,
                2.5,
                {"age": 45.0, "price": math.e - 1},
                {"site": "17", "tags": ["red", "new"]},
            )
        ],
        SCHEMA,
    )
    site = 2 + xxhash.xxh3_64(b"site=17").intdigest() % 98
    tags = [2 + xxhash.xxh3_64(f"tags={tag}".encode()).intdigest() % 18 for tag in ("red", "new")]
    assert (batch.label.tolist(), batch.weight.tolist()) == ([0.0], [2.5])
    assert batch.time_ms.tolist() == [1_714_521_600_000]
    assert batch.numeric.tolist() == [[1.5, 1.0]]
    assert batch.categorical.tolist() == [[site, *tags, 0]]


@pytest.mark.parametrize("empty", [{}, {"site": None, "tags": None}, {"tags": []}])
def test_missing_is_zero_for_numbers_and_bucket_one_for_names(
    empty: dict[str, str | list[str] | None],
) -> None:
    batch = encode([event(categorical=empty, numeric={"price": None})], SCHEMA)
    assert batch.numeric.tolist() == [[0.0, 0.0]]
    assert batch.categorical.tolist() == [[1, 1, 0, 0]]


def test_one_value_needs_no_list_and_a_list_of_one_is_one_value() -> None:
    alone = encode([event(categorical={"site": "a", "tags": "b"})], SCHEMA)
    listed = encode([event(categorical={"site": ["a"], "tags": ["b"]})], SCHEMA)
    assert alone.categorical.tolist() == listed.categorical.tolist()


def test_types_and_shapes_are_those_of_the_batch() -> None:
    batch = encode([event(), event()], SCHEMA)
    kinds = {name: str(getattr(batch, name).dtype) for name in ClickBatch.__slots__}
    assert kinds == {
        "label": "float32",
        "weight": "float32",
        "time_ms": "int64",
        "numeric": "float32",
        "categorical": "int32",
    }
    assert (batch.numeric.shape, batch.categorical.shape) == ((2, 2), (2, 4))


def test_no_events_make_an_empty_batch() -> None:
    batch = encode([], SCHEMA)
    assert (batch.numeric.shape, batch.categorical.shape) == ((0, 2), (0, 4))


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (event(numeric={"hight": 1.0}), Reason.UNKNOWN_FEATURE, "the schema has no 'hight'"),
        (event(categorical={"age": "9"}), Reason.UNKNOWN_FEATURE, "the schema has no 'age'"),
        (
            event(categorical={"tags": ["a", "b", "c", "d"]}),
            Reason.TOO_MANY_VALUES,
            "tags has 4 values, max_values is 3",
        ),
        (
            event(categorical={"site": ["a", "b"]}),
            Reason.TOO_MANY_VALUES,
            "site has 2 values, max_values is 1",
        ),
        (event(numeric={"price": -1.0}), Reason.NUMERIC, "price is not finite"),
        (event(numeric={"price": -2.0}), Reason.NUMERIC, "price is not finite"),
        (event(numeric={"age": 1e300}), Reason.NUMERIC, "age is not finite"),
        (
            event(numeric={"age": 3.4e38}),
            Reason.NUMERIC,
            "age is 3.4e+38, 3.4e+37 once standardised; the largest size that the schema takes is "
            "1e+06",
        ),
        (event(numeric={"age": -1.0001e7}), Reason.NUMERIC, "age is -1.0001e+07, -1.0001e+06 once"),
        (event(weight=1e300), Reason.WEIGHT, "weight is 1e+300, not a float32 above 0 and at most"),
        (event(weight=1.1e9), Reason.WEIGHT, "weight is 1.1e+09, not a float32 above 0"),
        (event(weight=1e-60), Reason.WEIGHT, "weight is 1e-60, not a float32 above 0"),
    ],
)
def test_an_event_that_does_not_fit_is_left_out_with_its_row_and_reason(
    bad: ClickEvent, reason: Reason, detail: str
) -> None:
    batch, faults = encode_valid([event(0), bad, event(1), bad], SCHEMA)
    assert batch.label.tolist() == [0.0, 1.0]
    assert [(fault.row, fault.reason) for fault in faults] == [(1, reason), (3, reason)]
    assert detail in faults[0].detail


def test_faults_come_in_order_whatever_found_them() -> None:
    late, early = event(numeric={"hight": 1.0}), event(weight=1e300)
    _, faults = encode_valid([early, event(), late, early], SCHEMA)
    assert [fault.row for fault in faults] == [0, 2, 3]


def test_encode_refuses_what_encode_valid_leaves_out() -> None:
    with pytest.raises(ValueError, match="event 'a' is not valid: unknown_feature"):
        encode([event(), event(numeric={"hight": 1.0})], SCHEMA)


@given(st.lists(st.floats(-1e6, 1e6) | st.none(), max_size=20))
def test_standardising_is_a_subtraction_and_a_division(values: list[float | None]) -> None:
    feature = NumericFeature(name="x", mean=3.0, scale=0.5)
    expected = [0.0 if v is None else (v - 3.0) / 0.5 for v in values]
    got = standardise(np.array(values, np.float64), feature)
    np.testing.assert_allclose(got, np.array(expected), rtol=1e-6)


def test_rows_are_encoded_alike_alone_and_together() -> None:
    events = [event(categorical={"site": str(i % 7), "tags": [str(i)]}) for i in range(50)]
    together = encode(events, SCHEMA)
    for row, one in enumerate(events):
        assert encode([one], SCHEMA).categorical[0].tolist() == together.categorical[row].tolist()


@pytest.mark.parametrize(("value", "valid"), [(50.0, True), (50.001, False), (-50.001, False)])
def test_the_schema_says_how_large_a_numeric_feature_may_be(value: float, valid: bool) -> None:
    feature = NumericFeature(name="x", scale=10.0, limit=5.0)
    schema = FeatureSchema(numeric=(feature,))
    batch, faults = encode_valid([event(numeric={"x": value})], schema)
    assert (len(batch), len(faults)) == ((1, 0) if valid else (0, 1))
    without = FeatureSchema(numeric=(feature.model_copy(update={"limit": 1e6}),))
    assert schema.digest == without.digest, "the same events are encoded in the same way"


def test_long_values_do_not_fill_the_memory() -> None:
    """3 000 values of 500 KB were kept, 1.5 GB of them."""
    bucket = hashing(CategoricalFeature(name="long", buckets=1_000))
    long = "x" * 500_000
    tracemalloc.start()
    for number in range(200):
        value = f"{number}{long}"
        assert bucket(value) == 2 + xxhash.xxh3_64(f"long={value}".encode()).intdigest() % 998
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20_000_000


def test_short_values_find_their_bucket_again_however_many_there_are() -> None:
    bucket = hashing(CategoricalFeature(name="short", buckets=1_000))
    first = [bucket(str(number)) for number in range(150_000)]
    assert [bucket(str(number)) for number in range(150_000)] == first
    assert bucket(None) == 1
