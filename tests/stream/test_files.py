from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream import topics
from stream.batch import ClickBatch, ClickEvent, Reason, encode
from stream.codec import Invalid, end_record
from stream.log import Record, StoredRecord
from stream.log.local import LocalLogStore
from stream.reader import ClickReader
from stream.schema import CategoricalFeature, Columns, FeatureSchema, NumericFeature
from stream.sources import Source
from stream.sources.files import FileSource

SCHEMA = FeatureSchema(
    numeric=(NumericFeature(name="age"),),
    categorical=(
        CategoricalFeature(name="site", buckets=90),
        CategoricalFeature(name="tags", buckets=90, max_values=3),
    ),
    columns=Columns(
        event_time="at",
        time_format="seconds",
        label="clicked",
        weight="w",
        features={"site": "page"},
    ),
)
EVENTS = [
    ClickEvent.model_validate(
        {
            "event_id": str(n),
            "event_time": n * 60,
            "label": n % 2,
            "weight": 1 + n % 3,
            "numeric": {"age": None if n % 4 == 0 else n},
            "categorical": {
                "site": None if n % 5 == 0 else f"s{n % 7}",
                "tags": [f"t{k}" for k in range(n % 4)],
            },
        }
    )
    for n in range(23)
]
FLAT: list[dict[str, object]] = [
    {
        "at": n * 60,
        "clicked": n % 2,
        "w": 1 + n % 3,
        "age": EVENTS[n].numeric["age"],
        "page": EVENTS[n].categorical["site"],
        "tags": EVENTS[n].categorical["tags"],
        "comment": "not used",
    }
    for n in range(23)
]


def as_text(row: Mapping[str, object]) -> dict[str, object]:
    """Write a row as CSV would hold it."""
    tags = row["tags"]
    return {**row, "tags": "|".join(tags) if isinstance(tags, list) else tags}


def write_csv(path: Path, rows: Sequence[Mapping[str, object]] = FLAT) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FLAT[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows(as_text(row) for row in rows)
    return path


def write_json(path: Path, rows: Sequence[Mapping[str, object]] = FLAT) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, object]] = FLAT) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def write_gzip(path: Path) -> Path:
    plain = write_csv(path.with_name("plain.csv"))
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def replay(source: FileSource, home: LocalLogStore) -> int:
    feed = source.attach(home)
    events = 0
    while (count := feed.step()) is not None:
        events += count
    feed.close()
    return events


def read(home: LocalLogStore, schema: FeatureSchema = SCHEMA) -> tuple[ClickBatch, list[Invalid]]:
    """Return all valid events as one batch, and the others."""
    reader = ClickReader(home.reader(topics.CLICKS), schema, 10_000)
    invalid: list[Invalid] = []
    reader.on_invalid(invalid.extend)
    found = reader.next()
    assert reader.ended
    nothing = ClickBatch.empty(schema.numeric_count, schema.column_count)
    return nothing if found is None else found.batch, invalid


def records(home: LocalLogStore) -> Sequence[StoredRecord]:
    return home.reader(topics.CLICKS).read(0, 0, 1000)


def assert_all_there(batch: ClickBatch, schema: FeatureSchema = SCHEMA) -> None:
    expected = encode(EVENTS, schema)
    for name in ClickBatch.__slots__:
        np.testing.assert_array_equal(getattr(batch, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("clicks.csv", write_csv),
        ("clicks.tsv", write_csv),
        ("clicks.jsonl", write_json),
        ("clicks.ndjson", write_json),
        ("clicks.parquet", write_parquet),
        ("clicks.csv.gz", write_gzip),
    ],
)
def test_every_format_gives_the_same_events(
    tmp_path: Path, name: str, write: Callable[[Path], Path]
) -> None:
    home = LocalLogStore(tmp_path / "logs")
    assert replay(FileSource(write(tmp_path / name), SCHEMA, 5), home) == 23
    batch, invalid = read(home)
    assert invalid == []
    assert_all_there(batch)


def test_without_columns_a_json_line_is_a_whole_event(tmp_path: Path) -> None:
    schema = SCHEMA.model_copy(update={"columns": None})
    path = tmp_path / "clicks.jsonl"
    path.write_text("".join(event.model_dump_json() + "\n" for event in EVENTS))
    home = LocalLogStore(tmp_path / "logs")
    replay(FileSource(path, schema), home)
    assert_all_there(read(home, schema)[0], schema)


def test_without_columns_a_csv_bears_the_names_of_fields_and_features(tmp_path: Path) -> None:
    schema = FeatureSchema(numeric=(NumericFeature(name="age"),))
    path = tmp_path / "clicks.csv"
    path.write_text("event_time,label,age\n2024-05-01T00:00:00Z,1,4.5\n")
    home = LocalLogStore(tmp_path / "logs")
    replay(FileSource(path, schema), home)
    batch, _ = read(home, schema)
    assert (batch.time_ms.tolist(), batch.numeric.tolist()) == ([1_714_521_600_000], [[4.5]])


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [("1714521600123", 1_714_521_600_123), ("0", 0), ("-1.0", -1)],
)
def test_milliseconds_are_taken_as_such(tmp_path: Path, written: str, milliseconds: int) -> None:
    columns = Columns(time_format="milliseconds")
    schema = FeatureSchema(numeric=(NumericFeature(name="age"),), columns=columns)
    path = tmp_path / "clicks.csv"
    path.write_text(f"event_time,label,age\n{written},1,4.5\n")
    home = LocalLogStore(tmp_path / "logs")
    replay(FileSource(path, schema), home)
    assert read(home, schema)[0].time_ms.tolist() == [milliseconds]


def test_parquet_may_hold_times_flags_and_whole_numbers(tmp_path: Path) -> None:
    schema = FeatureSchema(
        categorical=(
            CategoricalFeature(name="mobile", buckets=90),
            CategoricalFeature(name="site", buckets=90),
        )
    )
    row = {"event_time": datetime(2024, 5, 1), "label": True, "mobile": False, "site": 17}  # noqa: DTZ001
    home = LocalLogStore(tmp_path / "logs")
    replay(FileSource(write_parquet(tmp_path / "clicks.parquet", [row]), schema), home)
    batch, invalid = read(home, schema)
    mobile, site = schema.categorical
    assert invalid == []
    assert (batch.time_ms.tolist(), batch.label.tolist()) == ([1_714_521_600_000], [1.0])
    assert batch.categorical.tolist() == [[mobile.bucket("false"), site.bucket("17")]]


BAD: list[tuple[dict[str, object], Reason]] = [
    ({"clicked": 2}, Reason.LABEL),
    ({"clicked": None}, Reason.LABEL),
    ({"age": float("nan")}, Reason.NUMERIC),
    ({"w": 0}, Reason.WEIGHT),
    ({"at": None}, Reason.TIME),
    ({"at": 1e40}, Reason.TIME),
    ({"tags": ["a", "b", "c", "d"]}, Reason.TOO_MANY_VALUES),
]


@pytest.mark.parametrize(
    ("name", "write", "first_line"),
    [
        ("clicks.csv", write_csv, 2),
        ("clicks.jsonl", write_json, 1),
        ("clicks.parquet", write_parquet, 1),
    ],
)
def test_bad_rows_become_raw_records_in_their_place(
    tmp_path: Path,
    name: str,
    write: Callable[[Path, Sequence[Mapping[str, object]]], Path],
    first_line: int,
) -> None:
    rows = list(FLAT[:3])
    for change, _ in BAD:
        rows += [{**FLAT[1], **change}, FLAT[2]]
    rows = [{**row, "at": None if row["at"] is None else float(str(row["at"]))} for row in rows]
    home = LocalLogStore(tmp_path / "logs")
    replay(FileSource(write(tmp_path / name, rows), SCHEMA, 6), home)
    batch, invalid = read(home)
    assert len(batch) == 3 + len(BAD)
    assert [i.reason for i in invalid] == [reason for _, reason in BAD]
    assert [i.line for i in invalid] == [first_line + 3 + 2 * k for k in range(len(BAD))]
    assert {i.file for i in invalid} == {name}
    assert all(i.raw for i in invalid)


def test_a_broken_json_line_is_kept_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "clicks.jsonl"
    path.write_text(f'{json.dumps(FLAT[0])}\n{{"at": 1, "clicked"\n{json.dumps(FLAT[1])}\n')
    home = LocalLogStore(tmp_path / "logs")
    replay(FileSource(path, SCHEMA), home)
    batch, invalid = read(home)
    assert len(batch) == 2
    assert [(i.reason, i.line, i.raw) for i in invalid] == [
        (Reason.UNPARSABLE, 2, b'{"at": 1, "clicked"')
    ]


def test_a_row_of_nothing_but_bad_rows_leaves_no_columnar_record(tmp_path: Path) -> None:
    rows = [{**FLAT[0], "clicked": 2}] * 3
    home = LocalLogStore(tmp_path / "logs")
    replay(FileSource(write_csv(tmp_path / "clicks.csv", rows), SCHEMA), home)
    assert [r.header("kind") for r in records(home)] == [b"raw"] * 3 + [b"end"]


def test_a_file_of_a_header_alone_ends_at_once(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path / "logs")
    feed = FileSource(write_csv(tmp_path / "clicks.csv", []), SCHEMA).attach(home)
    assert feed.step() is None
    assert feed.step() is None
    feed.close()
    assert [r.header("kind") for r in records(home)] == [b"end"]


def test_a_replay_killed_after_any_record_goes_on_to_the_same_log(tmp_path: Path) -> None:
    rows = [{**row, "clicked": 2} if n in {0, 4, 11, 12} else row for n, row in enumerate(FLAT)]
    source = FileSource(write_csv(tmp_path / "clicks.csv", rows), SCHEMA, 5)
    whole = LocalLogStore(tmp_path / "whole")
    replay(source, whole)
    expected = [stored.record for stored in records(whole)]
    assert expected[-1].headers[0] == ("kind", b"end")
    for kept in range(len(expected) + 1):
        home = LocalLogStore(tmp_path / f"killed-{kept}")
        writer = home.writer(topics.CLICKS)
        writer.append(expected[:kept])
        writer.close()
        replay(source, home)
        assert [stored.record for stored in records(home)] == expected


def test_what_was_appended_can_be_read_before_the_end(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path / "logs")
    feed = FileSource(write_csv(tmp_path / "clicks.csv"), SCHEMA, 5).attach(home)
    assert feed.step() == 5
    feed.flush()
    assert len(records(home)) == 1
    feed.close()


def test_a_file_is_a_source(tmp_path: Path) -> None:
    source: Source = FileSource(write_csv(tmp_path / "clicks.csv"), SCHEMA)
    assert source.schema is SCHEMA


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.csv to replay"):
        FileSource(tmp_path / "absent.csv", SCHEMA)


@pytest.mark.parametrize(
    ("name", "write"),
    [("clicks.csv", write_csv), ("clicks.jsonl", write_json), ("clicks.parquet", write_parquet)],
)
def test_a_wrong_column_is_named_with_those_that_are_there(
    tmp_path: Path, name: str, write: Callable[[Path], Path]
) -> None:
    columns = Columns(event_time="at", label="lable", features={"site": "page"})
    schema = SCHEMA.model_copy(update={"columns": columns})
    message = r"has no column 'lable' \(label\); there: at, clicked, w, age, page"
    with pytest.raises(ValueError, match=message):
        FileSource(write(tmp_path / name), schema)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"event_time": "when"}, r"'when' \(event_time\)"),
        ({"event_id": "id"}, r"'id' \(event_id\)"),
        ({"weight": "weight"}, r"'weight' \(weight\)"),
        ({"features": {}}, r"'site' \(feature site\)"),
    ],
)
def test_every_column_that_is_needed_is_looked_for(
    tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    assert SCHEMA.columns is not None
    wrong = SCHEMA.model_copy(update={"columns": SCHEMA.columns.model_copy(update=columns)})
    with pytest.raises(ValueError, match=message):
        FileSource(write_csv(tmp_path / "clicks.csv"), wrong)


def test_a_truncated_parquet_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "clicks.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="is not a whole Parquet file"):
        FileSource(path, SCHEMA)


def test_records_without_events_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="records_events is 0; it must be at least 1"):
        FileSource(write_csv(tmp_path / "clicks.csv"), SCHEMA, 0)


def test_a_log_of_another_file_is_refused_and_let_go(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path / "logs")
    replay(FileSource(write_csv(tmp_path / "monday.csv"), SCHEMA), home)
    tuesday = FileSource(write_csv(tmp_path / "tuesday.csv"), SCHEMA)
    with pytest.raises(ValueError, match=r"holds events of the file monday\.csv, not of tuesday"):
        tuesday.attach(home)
    home.writer(topics.CLICKS).close()


def test_a_log_of_another_input_is_refused(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path / "logs")
    writer = home.writer(topics.CLICKS)
    writer.append([Record(b"{}"), end_record()])
    writer.close()
    source = FileSource(write_csv(tmp_path / "clicks.csv"), SCHEMA)
    with pytest.raises(ValueError, match=r"holds events of another input, not of clicks\.csv"):
        source.attach(home)


def test_a_log_begun_with_another_schema_is_refused(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path / "logs")
    path = write_csv(tmp_path / "clicks.csv")
    replay(FileSource(path, SCHEMA), home)
    other = SCHEMA.model_copy(update={"numeric": ()})
    other = FeatureSchema.model_validate(other.model_dump())
    with pytest.raises(ValueError, match=f"begun with schema {SCHEMA.digest}, this one is"):
        FileSource(path, other).attach(home)


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    home, path = LocalLogStore(tmp_path / "logs"), write_csv(tmp_path / "clicks.csv")
    replay(FileSource(path, SCHEMA), home)
    assert replay(FileSource(path, SCHEMA), home) == 0
    write_csv(path, [*FLAT, FLAT[0]])
    with pytest.raises(ValueError, match=r"clicks\.csv has changed since the clicks log was begun"):
        FileSource(path, SCHEMA).attach(home)


def test_a_path_may_be_a_text(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "clicks.csv")
    assert FileSource(cast(Path, str(path)), SCHEMA).path == path


def test_a_log_of_several_partitions_is_refused(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path / "logs")
    home.create({topics.CLICKS: 2})
    source = FileSource(write_csv(tmp_path / "clicks.csv"), SCHEMA)
    with pytest.raises(ValueError, match="has 2 partitions; a file is replayed into one of partit"):
        source.attach(home)
    home.writer(topics.CLICKS).close()
