from __future__ import annotations

import json

import numpy as np
import pytest

from stream.batch import Reason
from stream.codec import (
    Decoded,
    columnar_record,
    decode,
    end_record,
    json_record,
    raw_record,
)
from stream.log import Record, StoredRecord
from stream.messages import Position
from stream.schema import FeatureSchema, NumericFeature
from tests.stream import clicklog
from tests.stream.clicklog import SCHEMA

OFFSET = 7


def decoded_of(record: Record) -> Decoded:
    return decode([StoredRecord(0, OFFSET, OFFSET + 1, record)], SCHEMA)


def reasons(decoded: Decoded) -> list[tuple[Position, Reason]]:
    return [(invalid.place, invalid.reason) for invalid in decoded.invalid]


def test_a_json_record_holds_one_event() -> None:
    decoded = decoded_of(json_record(clicklog.event(3)))
    assert decoded.batch.numeric.tolist() == [[3.0]]
    assert decoded.places.tolist() == [[OFFSET, 0]]
    assert not decoded.end


def test_a_record_without_a_kind_is_json() -> None:
    value = json_record(clicklog.event(3)).value
    assert decoded_of(Record(value)).batch.numeric.tolist() == [[3.0]]


def test_a_json_record_bears_its_event_time() -> None:
    assert json_record(clicklog.event(3)).time_ms == 3000


def test_a_columnar_record_holds_its_rows() -> None:
    decoded = decoded_of(clicklog.columnar(10, 4))
    assert decoded.batch.numeric[:, 0].tolist() == [10, 11, 12, 13]
    assert decoded.places.tolist() == [[OFFSET, row] for row in range(4)]
    assert decoded.invalid == ()


def test_an_end_record_ends_the_input() -> None:
    decoded = decoded_of(end_record())
    assert (decoded.end, len(decoded.batch), decoded.invalid) == (True, 0, ())


def test_bad_rows_of_a_columnar_record_are_left_out_one_by_one() -> None:
    batch = clicklog.batch(0, 9)
    batch.label[1] = 2
    batch.label[2] = np.nan
    batch.weight[3] = 0
    batch.weight[4] = np.inf
    batch.numeric[5] = np.nan
    batch.categorical[6] = 50
    batch.categorical[7] = -1
    batch.label[7] = -1
    decoded = decoded_of(columnar_record(batch, SCHEMA))
    assert decoded.places[:, 1].tolist() == [0, 8]
    assert decoded.batch.time_ms.tolist() == [0, 8000]
    assert reasons(decoded) == [
        (Position(OFFSET, 1), Reason.LABEL),
        (Position(OFFSET, 2), Reason.LABEL),
        (Position(OFFSET, 3), Reason.WEIGHT),
        (Position(OFFSET, 4), Reason.WEIGHT),
        (Position(OFFSET, 5), Reason.NUMERIC),
        (Position(OFFSET, 6), Reason.CATEGORICAL),
        (Position(OFFSET, 7), Reason.LABEL),
    ]


def test_a_bad_row_is_kept_as_json() -> None:
    invalid = decoded_of(clicklog.columnar(5, 2, bad=[1])).invalid[0]
    assert json.loads(invalid.raw) == {
        "label": 2.0,
        "weight": 1.0,
        "time_ms": 6000,
        "numeric": [6.0],
        "categorical": [2],
    }


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        (Record(b'{"event_id":'), Reason.UNPARSABLE, "Invalid JSON"),
        (
            Record(b'{"event_id": "a", "event_time": 0, "label": 2}'),
            Reason.LABEL,
            "label: Input should be 0 or 1",
        ),
        (
            Record(b'{"event_id": "a", "event_time": 0, "label": 1, "numeric": {"x": NaN}}'),
            Reason.NUMERIC,
            "numeric.x: Input should be a finite number",
        ),
        (
            Record(b'{"event_id": "a", "event_time": 0, "label": 1, "numeric": {"y": 1}}'),
            Reason.UNKNOWN_FEATURE,
            "the schema has no 'y'",
        ),
        (Record(b"torn", (("kind", b"columnar"),)), Reason.UNPARSABLE, "not an Arrow stream"),
        (Record(b"", (("kind", b"xml"),)), Reason.UNPARSABLE, "unknown kind 'xml'; known: json"),
    ],
)
def test_a_record_that_cannot_be_used_is_one_invalid_event(
    record: Record, reason: Reason, detail: str
) -> None:
    decoded = decoded_of(record)
    assert len(decoded.batch) == 0
    assert reasons(decoded) == [(Position(OFFSET, 0), reason)]
    assert detail in decoded.invalid[0].detail
    assert decoded.invalid[0].raw == record.value


def test_a_columnar_record_of_another_schema_is_invalid_as_a_whole() -> None:
    other = FeatureSchema(numeric=(NumericFeature(name="y"),))
    stored = StoredRecord(0, OFFSET, OFFSET + 1, clicklog.columnar(0, 3))
    decoded = decode([stored], other)
    assert reasons(decoded) == [(Position(OFFSET, 0), Reason.SCHEMA)]
    assert SCHEMA.digest in decoded.invalid[0].detail


def test_a_raw_record_brings_its_reason_file_and_line() -> None:
    headers = (("file", b"clicks.csv"), ("line", b"12"))
    invalid = decoded_of(raw_record(b"1,2", (Reason.LABEL, "label is 2"), headers)).invalid[0]
    assert (invalid.reason, invalid.detail) == (Reason.LABEL, "label is 2")
    assert (invalid.file, invalid.line, invalid.raw) == ("clicks.csv", 12, b"1,2")


def test_a_raw_record_without_a_known_reason_is_unparsable() -> None:
    invalid = decoded_of(Record(b"?", (("kind", b"raw"), ("reason", b"mood")))).invalid[0]
    assert (invalid.reason, invalid.file, invalid.line) == (Reason.UNPARSABLE, None, None)


def test_many_json_records_decode_as_each_alone() -> None:
    values = [json_record(clicklog.event(n)) for n in range(6)]
    values[2] = Record(b"{")
    values[4] = Record(b'{"event_id": "a", "event_time": 0, "label": 1, "numeric": {"y": 1}}')
    stored = [StoredRecord(0, 10 * n, 10 * n + 10, value) for n, value in enumerate(values)]
    together = decode(stored, SCHEMA)
    alone = [decode([one], SCHEMA) for one in stored]
    assert together.places[:, 0].tolist() == [0, 10, 30, 50]
    assert together.batch.numeric.tolist() == [
        row for d in alone for row in d.batch.numeric.tolist()
    ]
    assert together.invalid == tuple(invalid for d in alone for invalid in d.invalid)


def test_many_columnar_records_decode_as_each_alone() -> None:
    """With a row and a record among them that are not valid, in the order in which they stand."""
    values = [clicklog.columnar(4 * n, 4, bad=bad) for n, bad in enumerate([(), (2,), (), (0,)])]
    values.insert(2, Record(b"torn", values[0].headers))
    stored = [StoredRecord(0, 10 * n, 10 * n + 10, value) for n, value in enumerate(values)]
    together = decode(stored, SCHEMA)
    alone = [decode([one], SCHEMA) for one in stored]
    assert [(one.offset, one.row) for one in together.invalid] == [(10, 2), (20, 0), (40, 0)]
    assert together.invalid == tuple(invalid for d in alone for invalid in d.invalid)
    for name in ("label", "weight", "time_ms", "numeric", "categorical"):
        rows = [row for d in alone for row in getattr(d.batch, name).tolist()]
        assert getattr(together.batch, name).tolist() == rows
    assert together.places.tolist() == [place for d in alone for place in d.places.tolist()]


def test_a_raw_record_with_an_absurd_line_has_none() -> None:
    headers = (("kind", b"raw"), ("reason", b"label"), ("line", b"9" * 5_000))
    assert decoded_of(Record(b"?", headers)).invalid[0].line is None


def test_a_json_record_takes_headers_of_ones_own() -> None:
    record = json_record(clicklog.event(3), (("count", b"4"),))
    assert record.headers == (("kind", b"json"), ("count", b"4"))


def test_a_list_of_one_or_none_is_a_value_or_missing_also_where_there_can_be_one_only() -> None:
    event = clicklog.event(3)
    one, none = (event.model_copy(update={"categorical": {"site": v}}) for v in (["3"], []))
    alone, listed, empty = (decoded_of(json_record(each)).batch for each in (event, one, none))
    assert listed.categorical.tolist() == alone.categorical.tolist()
    assert empty.categorical.tolist() == [[1]]
