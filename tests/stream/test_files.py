from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream import topics
from stream.batch import ClickBatch, ClickEvent, Reason, encode
from stream.codec import END, Invalid, end_record, kind_of
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


def killed_after_any_record(source: FileSource, folder: Path) -> list[Record]:
    """Replay to the end, and again killed after each record: every log is that of the first."""
    whole = LocalLogStore(folder / "whole")
    replay(source, whole)
    expected = [stored.record for stored in records(whole)]
    for kept in range(len(expected) + 1):
        home = LocalLogStore(folder / f"killed-{kept}")
        writer = home.writer(topics.CLICKS)
        writer.append(expected[:kept])
        writer.close()
        replay(source, home)
        assert [stored.record for stored in records(home)] == expected
    return expected


def test_a_replay_killed_after_any_record_goes_on_to_the_same_log(tmp_path: Path) -> None:
    rows = [{**row, "clicked": 2} if n in {0, 4, 11, 12} else row for n, row in enumerate(FLAT)]
    source = FileSource(write_csv(tmp_path / "clicks.csv", rows), SCHEMA, 5)
    expected = killed_after_any_record(source, tmp_path)
    assert expected[-1].headers[0] == ("kind", b"end")


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


def plain(tmp_path: Path, text: str | bytes, name: str = "clicks.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def schema_of(columns: Mapping[str, object], **more: object) -> FeatureSchema:
    """One number and one category, in columns of their names."""
    return FeatureSchema.model_validate(
        {
            "numeric": [{"name": "x"}],
            "categorical": [{"name": "site", "buckets": 90}],
            "columns": columns,
            **more,
        }
    )


def replayed(
    path: Path | Sequence[Path], schema: FeatureSchema, logs: Path
) -> tuple[ClickBatch, list[Invalid]]:
    home = LocalLogStore(logs)
    replay(FileSource(path, schema, 5), home)
    return read(home, schema)


def test_bytes_that_are_not_utf8_are_a_dead_letter_where_the_cell_is_used(tmp_path: Path) -> None:
    lines = [b"event_time,label,x,site,comment", b"0,1,1,a,b", b"0,1,1,\xffa,b", b"0,0,2,b,caf\xe9"]
    path = plain(tmp_path, b"\n".join([*lines, b"0\xff,1,1,a,b", b"0,0,1\xff,a,b"]))
    columns = {"time_format": "iso"}
    batch, invalid = replayed(path, schema_of(columns), tmp_path / "logs")
    assert batch.numeric[:, 0].tolist() == [1.0, 2.0]
    assert [(i.reason, i.line, i.raw) for i in invalid] == [
        (Reason.CATEGORICAL, 3, lines[2]),
        (Reason.TIME, 5, b"0\xff,1,1,a,b"),
        (Reason.NUMERIC, 6, b"0,0,1\xff,a,b"),
    ]
    assert "site is no text in UTF-8: it has \\xff at character 1" in invalid[0].detail


def test_an_unclosed_quote_is_a_dead_letter_and_no_event_is_lost(tmp_path: Path) -> None:
    rows = [f"2026-01-01,{n % 2},{n},s{n}" for n in range(30)]
    rows[7] = rows[7].replace(",s", ',"s')
    path = plain(tmp_path, "\n".join(["event_time,label,x,site", *rows]))
    batch, invalid = replayed(path, schema_of({}), tmp_path / "logs")
    assert batch.numeric[:, 0].tolist() == [n for n in range(30) if n != 7]
    assert [(i.reason, i.line, i.raw) for i in invalid] == [
        (Reason.UNPARSABLE, 9, rows[7].encode())
    ]
    assert "a quote is opened here" in invalid[0].detail


def test_a_file_without_header_gives_the_same_events(tmp_path: Path) -> None:
    assert SCHEMA.columns is not None
    whole = write_csv(tmp_path / "clicks.tsv").read_bytes()
    path = plain(tmp_path, whole.partition(b"\n")[2], "clicks.txt")
    names = ("at", "clicked", "w", "age", "page", "tags", "")
    columns = SCHEMA.columns.model_copy(update={"names": names})
    schema = SCHEMA.model_copy(update={"columns": columns})
    batch, invalid = replayed(path, schema, tmp_path / "logs")
    assert invalid == []
    assert_all_there(batch)


def test_a_criteo_file_is_said_in_a_few_lines(tmp_path: Path) -> None:
    rows = [["1", *"12345", "", *"7890123", *[f"{n:08x}" for n in range(25)], ""], ["0"] * 40]
    path = plain(tmp_path, "".join("\t".join(row) + "\n" for row in rows), "train.txt")
    schema = FeatureSchema.model_validate(
        {
            "numeric": [{"name": "I1..I13", "log1p": "signed"}],
            "categorical": [{"name": "C1..C26", "buckets": 1000}],
            "columns": {"names": ["label", "I1..I13", "C1..C26"], "time_format": "none"},
        }
    )
    batch, invalid = replayed(path, schema, tmp_path / "logs")
    assert (batch.numeric.shape, batch.categorical.shape) == ((2, 13), (2, 26))
    assert invalid == []
    values = [0 if cell == "" else math.log(1 + int(cell)) for cell in rows[0][1:14]]
    np.testing.assert_allclose(batch.numeric[0], values, rtol=1e-6)
    assert (batch.label.tolist(), batch.time_ms.tolist()) == ([1.0, 0.0], [0, 1])


@pytest.mark.parametrize(
    ("time_format", "written", "iso"),
    [
        ("%y%m%d%H", "14102117", "2014-10-21T17:00:00"),
        ("%d/%b/%Y:%H:%M:%S %z", "21/Oct/2014:17:00:00 +0200", "2014-10-21T15:00:00"),
        ("seconds", "1413910800", "2014-10-21T17:00:00"),
        ("milliseconds", "1413910800250", "2014-10-21T17:00:00.25"),
        ("microseconds", "1413910800250000", "2014-10-21T17:00:00.25"),
        ("iso", "2014-10-21 17:00", "2014-10-21T17:00:00"),
    ],
)
def test_times_are_read_as_the_schema_says(
    tmp_path: Path, time_format: str, written: str, iso: str
) -> None:
    path = plain(tmp_path, f"when,label,x,site\n{written},1,2,a\nsoon,1,2,a\n")
    columns = {"event_time": "when", "time_format": time_format}
    batch, invalid = replayed(path, schema_of(columns), tmp_path / "logs")
    since = datetime.fromisoformat(iso) - datetime(1970, 1, 1)  # noqa: DTZ001
    assert batch.time_ms.tolist() == [round(since.total_seconds() * 1_000)]
    assert [i.reason for i in invalid] == [Reason.TIME]
    assert "when = 'soon': " in invalid[0].detail
    assert f"`time_format` under [columns] is {time_format}" in invalid[0].detail


def test_a_number_in_parquet_may_be_a_formatted_time(tmp_path: Path) -> None:
    rows = [{"hour": hour, "label": 1, "x": 1.0, "site": "a"} for hour in (14102117, 14102118)]
    path = write_parquet(tmp_path / "clicks.parquet", rows)
    columns = {"event_time": "hour", "time_format": "%y%m%d%H"}
    batch, _ = replayed(path, schema_of(columns), tmp_path / "logs")
    assert np.diff(batch.time_ms).tolist() == [3_600_000]


def test_labels_may_be_other_words(tmp_path: Path) -> None:
    lines = ["no", "YES", "-1", "1", "maybe", "1.0", ""]
    path = plain(tmp_path, "label,x,site\n" + "".join(f"{word},1,a\n" for word in lines))
    columns = {"labels": {"yes": 1, "no": 0, "-1": 0, "1": 1}, "time_format": "none"}
    batch, invalid = replayed(path, schema_of(columns), tmp_path / "logs")
    assert batch.label.tolist() == [0, 1, 0, 1]
    assert [(i.reason, i.line) for i in invalid] == [(Reason.LABEL, n) for n in (6, 7, 8)]
    assert invalid[0].detail.startswith("label = 'maybe': none of yes, no, -1, 1 (`labels` under")


def test_labels_of_json_are_mapped_by_how_they_are_written(tmp_path: Path) -> None:
    values: list[object] = [True, False, -1, -1.0, "x", None]
    rows = [{"label": value, "x": 1, "site": "a"} for value in values]
    columns = {"labels": {"true": 1, "false": 0, "-1": 0}, "time_format": "none"}
    path = write_json(tmp_path / "clicks.jsonl", rows)
    batch, invalid = replayed(path, schema_of(columns), tmp_path / "logs")
    assert (batch.label.tolist(), len(invalid)) == ([1, 0, 0, 0], 2)


def test_words_for_a_missing_value_are_those_that_the_schema_names(tmp_path: Path) -> None:
    path = plain(tmp_path, "label,x,site\n1,NA,a\n1,2,\\N\n1,,\n1,nan,a\n")
    columns = {"missing": ["NA", "\\N"], "time_format": "none"}
    schema = schema_of(columns, numeric=[{"name": "x", "mean": 1.0}])
    batch, invalid = replayed(path, schema, tmp_path / "logs")
    assert batch.numeric[:, 0].tolist() == [0, 1, 0]
    site = schema.categorical[0]
    assert batch.categorical[:, 0].tolist() == [site.bucket("a"), 1, 1]
    assert [(i.reason, i.line) for i in invalid] == [(Reason.NUMERIC, 5)]
    assert "x = 'nan': " in invalid[0].detail
    assert "(`missing` under [columns] names the words for a missing value)" in invalid[0].detail


def test_a_number_that_log1p_does_not_take_names_the_signed_form(tmp_path: Path) -> None:
    path = plain(tmp_path, "label,x,site\n1,-3,a\n1,1e300,a\n")
    for form, left in ((True, 0), ("signed", 1)):
        schema = schema_of({"time_format": "none"}, numeric=[{"name": "x", "log1p": form}])
        logs = tmp_path / f"{form}"
        batch, invalid = replayed(path, schema, logs)
        assert len(batch) == left + 1
        if form is True:
            assert 'it is -3, and log1p takes numbers above -1 (log1p = "signed" takes any)' in (
                invalid[0].detail
            )
        else:
            assert batch.numeric[0, 0] == pytest.approx(-math.log(4))
    _, (huge,) = replayed(
        plain(tmp_path, "label,x,site\n1,1e300,a\n"),
        schema_of({"time_format": "none"}),
        tmp_path / "huge",
    )
    assert "it is 1e+300, too large for float32" in huge.detail


def test_times_that_run_backwards_are_said_once_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = plain(
        tmp_path, "event_time,label,x,site\n" + "".join(f"{9 - n},1,{n},a\n" for n in range(9))
    )
    with caplog.at_level(logging.WARNING, "stream"):
        batch, _ = replayed(path, schema_of({"time_format": "seconds"}), tmp_path / "logs")
    assert batch.numeric[:, 0].tolist() == [*range(9)]
    (said,) = caplog.messages
    assert said.startswith("clicks.csv, line 3: the event time 1970-01-01T00:00:08+00:00 is before")


def days(tmp_path: Path, count: int = 3) -> list[Path]:
    """Files of 7, 8, 9... rows, whose numbers go on from one to the next."""
    paths, number = [], 0
    (tmp_path / "in").mkdir(exist_ok=True)
    for day in range(count):
        rows = [f"{n % 2},{n},s{n}" for n in range(number, number + 7 + day)]
        number += len(rows)
        text = "\n".join(["label,x,site", *rows])
        paths.append(plain(tmp_path / "in", text, f"day_{day + 9}.csv"))
    return paths


def test_of_several_things_that_are_wrong_the_first_field_is_named(tmp_path: Path) -> None:
    """The order is that of the fields of an event, whatever is looked at first."""
    schema = schema_of({"event_time": "when", "time_format": "seconds", "event_id": "id"})
    text = "id,when,label,x,site\na,soon,2,y,s\nb,1,2,y,s\nc,1,1,y,s\nd,1,,y,s\n"
    _, invalid = replayed(plain(tmp_path, text), schema, tmp_path / "logs")
    assert [one.reason for one in invalid] == ["time", "label", "numeric", "label"]


ORDERED = schema_of({"time_format": "none"})


def test_several_files_are_one_input(tmp_path: Path) -> None:
    paths = days(tmp_path)
    bad = paths[1].read_text().replace("1,9,", "2,9,")
    paths[1].write_text(bad)
    inputs: list[Path | Sequence[Path]] = [paths, tmp_path / "in", tmp_path / "in" / "day_*.csv"]
    found = [
        replayed(given, ORDERED, tmp_path / f"logs{number}") for number, given in enumerate(inputs)
    ]
    for batch, invalid in found:
        assert batch.numeric[:, 0].tolist() == [n for n in range(24) if n != 9]
        assert batch.time_ms.tolist() == [n for n in range(24) if n != 9]
        assert [(i.file, i.line) for i in invalid] == [("day_10.csv", 4)]


def test_files_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        (tmp_path / "week" / day).mkdir(parents=True)
        plain(tmp_path / "week" / day, "label,x,site\n2,1,a\n", "clicks.csv")
    _, invalid = replayed(tmp_path / "week", ORDERED, tmp_path / "logs")
    assert [i.file for i in invalid] == ["monday/clicks.csv", "tuesday/clicks.csv"]


def test_several_files_killed_after_any_record_go_on_to_the_same_log(tmp_path: Path) -> None:
    source = FileSource(days(tmp_path), ORDERED, 4)
    killed_after_any_record(source, tmp_path)


def test_a_changed_file_among_several_is_named_and_one_more_leaves_the_others_as_they_were(
    tmp_path: Path,
) -> None:
    paths = days(tmp_path)
    home = LocalLogStore(tmp_path / "logs")
    feed = FileSource(paths, ORDERED, 4).attach(home)
    for _ in range(4):
        feed.step()
    feed.close()
    paths[0].write_text(paths[0].read_text().replace("1,3,", "0,3,"))
    with pytest.raises(ValueError, match=r"day_10\.csv, or one of the 1 before it, has changed"):
        FileSource(paths, ORDERED, 4).attach(home)
    days(tmp_path, 4)
    replay(FileSource(tmp_path / "in", ORDERED, 4), home)
    assert read(home, ORDERED)[0].numeric[:, 0].tolist() == [*range(34)]


def test_a_file_after_the_end_of_the_input_is_refused(tmp_path: Path) -> None:
    home, paths = LocalLogStore(tmp_path / "logs"), days(tmp_path)
    replay(FileSource(paths[:2], ORDERED), home)
    with pytest.raises(ValueError, match=r"ended with day_10\.csv, and day_11\.csv would follow"):
        FileSource(paths, ORDERED).attach(home)
    home.writer(topics.CLICKS).close()


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Send something to standard input."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))


def test_standard_input_sent_again_is_continued_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "label,x,site\n" + "".join(f"{n % 3},{n},a\n" for n in range(23))
    whole = LocalLogStore(tmp_path / "whole")
    piped(monkeypatch, text)
    replay(FileSource(Path("-"), ORDERED, 4), whole)
    expected = [stored.record for stored in records(whole)]
    assert {i.file for i in read(whole, ORDERED)[1]} == {"standard input"}
    for kept in range(len(expected) + 1):
        home = LocalLogStore(tmp_path / f"killed-{kept}")
        writer = home.writer(topics.CLICKS)
        writer.append(expected[:kept])
        writer.close()
        piped(monkeypatch, text)
        replay(FileSource(Path("-"), ORDERED, 4), home)
        assert [stored.record for stored in records(home)] == expected


def test_another_standard_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = LocalLogStore(tmp_path / "logs")
    text = "label,x,site\n" + "".join(f"1,{n},a\n" for n in range(23))
    piped(monkeypatch, text)
    feed = FileSource(Path("-"), ORDERED, 4).attach(home)
    feed.step()
    feed.close()
    for other in (text.replace(",2,", ",7,"), "label,x,site\n1,0,a\n"):
        piped(monkeypatch, other)
        with pytest.raises(ValueError, match="standard input differs from what the clicks log was"):
            FileSource(Path("-"), ORDERED, 4).attach(home)
    home.writer(topics.CLICKS).close()


def test_rows_of_a_slow_pipe_are_taken_when_they_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step waits for a row, and the log is the same as of a pipe that is not slow."""
    read_end, write_end = os.pipe()
    with open(read_end) as stdin, open(write_end, "wb", buffering=0) as pipe:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("stream.sources.files.LOOK_SECONDS", 0.05)
        pipe.write(b"label,x,site\n")
        home = LocalLogStore(tmp_path / "slow")
        feed = FileSource(Path("-"), ORDERED, 4).attach(home)

        def taken(wanted: int) -> list[int]:
            found: list[int] = []
            while sum(found) < wanted:
                found += [one] if (one := feed.step() or 0) else []
            return found

        assert feed.step() == 0
        pipe.write(b"1,0,a\n0,1,a\n0,2")
        assert taken(2) == [2]
        assert feed.step() == 0
        pipe.write(b",a\n" + b"".join(b"%d,%d,a\n" % (n % 2, n) for n in range(3, 23)))
        assert sum(taken(21)) == 21
        pipe.close()
        while feed.step() is not None:
            """The end comes through the thread that reads."""
        feed.close()
    assert feed.step() is None
    batch, invalid = read(home, ORDERED)
    assert batch.numeric[:, 0].tolist() == [*range(23)]
    assert (invalid, [kind_of(one) for one in records(home)][-1]) == ([], END)


def test_a_fault_of_standard_input_ends_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            raise OSError("it is broken")

    broken = Broken(b"label,x,site\n1,1,a\n")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=broken))
    with pytest.raises(OSError, match=r"standard input cannot be read to its end \(it is broken\)"):
        replay(FileSource(Path("-"), ORDERED), LocalLogStore(tmp_path / "logs"))
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ValueError, match="standard input is closed; send the rows to it"):
        FileSource(Path("-"), ORDERED)
