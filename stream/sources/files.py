"""File replay: clicks from CSV, TSV, JSON Lines or Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from stream import topics
from stream.batch import encode_valid
from stream.codec import END, columnar_record, end_record, kind_of, raw_record
from stream.events import EPOCH, ClickEvent, Fault, Reason, explain
from stream.log.api import LogStore, LogWriter, Record, StoredRecord
from stream.schema import Columns, FeatureSchema
from stream.sources.tables import FileRow, JsonTable, open_table

_UNITS = {"seconds": timedelta(seconds=1), "milliseconds": timedelta(milliseconds=1)}
_LABELS: dict[object, int] = {0: 0, 1: 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of clicks, by suffix CSV, TSV, JSON Lines (each also gzipped) or Parquet.

    The file is checked at once, before any log is touched: :class:`FileNotFoundError` where it is
    not there, :class:`ValueError` where it cannot be read or lacks a column.
    """

    path: Path
    schema: FeatureSchema
    records_events: int = 500
    """Rows of the file that go into one record."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {self.path} to replay; check its name")
        if self.records_events < 1:
            raise ValueError(f"records_events is {self.records_events}; it must be at least 1")
        table = open_table(self.path)
        there = table.columns()
        if isinstance(table, JsonTable) and self.schema.columns is None:
            return
        for column, use in _needed(self.schema):
            if column not in there:
                raise ValueError(
                    f"{self.path} has no column {column!r} ({use}); there: {', '.join(there)}; "
                    "the schema's [columns] table can name another"
                )

    @property
    def content(self) -> str:
        """Digest of the file's bytes, 16 hex digits."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def attach(self, store: LogStore) -> FileFeed:
        """Go on where the ``clicks`` log of ``store`` ends.

        A log of another input or of several partitions is refused: a file has one order.
        """
        writer = store.writer(topics.CLICKS)
        try:
            with closing(store.reader(topics.CLICKS)) as reader:
                if reader.partitions != (0,):
                    raise ValueError(
                        f"the clicks log has {len(reader.partitions)} partitions; a file is "
                        "replayed into one of partition 0 alone: make it anew with one"
                    )
                last = reader.last(0)
            if last is not None:
                self._check_same(last)
        except BaseException:
            writer.close()
            raise
        return FileFeed(self, writer, last)

    def _check_same(self, last: StoredRecord) -> None:
        """Refuse a log whose newest record came from somewhere else."""
        names = ("file", "schema", "content")
        found = {name: (last.header(name) or b"").decode() for name in names}
        if found["file"] != self.path.name:
            origin = f"the file {found['file']}" if found["file"] else "another input"
            raise ValueError(
                f"the clicks log holds events of {origin}, not of {self.path.name}; "
                "use another state folder"
            )
        if found["schema"] != self.schema.digest:
            raise ValueError(
                f"the clicks log was begun with schema {found['schema']}, this one is "
                f"{self.schema.digest}; use another state folder"
            )
        if found["content"] != self.content:
            raise ValueError(
                f"{self.path} has changed since the clicks log was begun with it (content "
                f"{found['content']} was, {self.content} is): start afresh, use another state "
                "folder, or give it the file as it was"
            )


class _Mapping:
    """Which column of a file becomes what of an event."""

    def __init__(self, schema: FeatureSchema) -> None:
        columns = schema.columns or Columns()
        self._columns = columns
        self._numeric = [(f.name, columns.of(f.name)) for f in schema.numeric]
        self._categorical = [
            (f.name, columns.of(f.name), columns.separator if f.max_values > 1 else None)
            for f in schema.categorical
        ]

    def event(self, row: FileRow) -> ClickEvent:
        """Validate one row. Raises :class:`pydantic.ValidationError`."""
        if not isinstance(row.cells, Mapping):
            return ClickEvent.model_validate_json(row.raw or b"")
        cells, columns = row.cells, self._columns
        event: dict[str, object] = {
            "event_id": str(row.line) if columns.event_id is None else cells.get(columns.event_id),
            "event_time": _time(cells.get(columns.event_time), columns.time_format),
            "label": _label(cells.get(columns.label)),
            "numeric": {name: _cell(cells.get(column)) for name, column in self._numeric},
            "categorical": {
                name: _values(cells.get(column), separator)
                for name, column, separator in self._categorical
            },
        }
        if columns.weight is not None:
            event["weight"] = cells.get(columns.weight)
        return ClickEvent.model_validate(event)


class FileFeed:
    """A file on its way into the ``clicks`` log.

    Rows go in chunks of ``records_events``, counted from the start of the file, so that a replay
    that was killed leaves the same records as one that was not. A row that is no valid event
    becomes a raw record of its own, in its place.
    """

    def __init__(self, source: FileSource, writer: LogWriter, last: StoredRecord | None) -> None:
        self._source = source
        self._writer = writer
        self._ended = last is not None and kind_of(last) == END
        self._done = int((last.header("rows") or b"0").decode()) if last is not None else 0
        self._time_ms = last.record.time_ms if last is not None else 0
        self._rows = islice(_rows(source), self._done, None)
        self._mapping = _Mapping(source.schema)
        self._content = source.content

    def step(self) -> int | None:
        """Append the next chunk and return its rows; None once the end record is written."""
        if self._ended:
            return None
        size = self._source.records_events
        want = size - self._done % size
        rows = list(islice(self._rows, want))
        records = self._records(rows)
        if len(rows) < want:
            records.append(end_record(self._time_ms, self._headers()))
            self._ended = True
        self._writer.append(records)
        if self._ended:
            self._writer.flush()
        return len(rows) or None

    def flush(self) -> None:
        """Return once all that was appended survives a crash."""
        self._writer.flush()

    def close(self) -> None:
        """Flush, and let the next writer in."""
        self._writer.close()

    def _records(self, rows: Sequence[FileRow]) -> list[Record]:
        """Turn a chunk into records: columnar ones, parted by a raw one for each invalid row."""
        schema = self._source.schema
        events, at, faults = self._events(rows)
        batch, bad = encode_valid(events, schema)
        faults |= {at[fault.row]: Fault(at[fault.row], *fault[1:]) for fault in bad}
        valid = np.array([row not in faults for row in range(len(rows))], np.int64)
        before = [0, *np.cumsum(valid).tolist()]
        records, begin, start = [], 0, self._done
        for row in [*sorted(faults), len(rows)]:
            self._done = start + row
            if row > begin:
                part = batch[before[begin] : before[row]]
                self._time_ms = int(part.time_ms[0])
                records.append(columnar_record(part, schema, self._headers()))
            if row < len(rows):
                self._done += 1
                line = ("line", str(rows[row].line).encode())
                why = (faults[row].reason, faults[row].detail)
                headers = (*self._headers(), line)
                records.append(raw_record(_raw(rows[row]), why, headers, self._time_ms))
            begin = row + 1
        return records

    def _events(
        self, rows: Sequence[FileRow]
    ) -> tuple[list[ClickEvent], list[int], dict[int, Fault]]:
        """Validate rows: the events, the row of each, and by row what is wrong with the others."""
        events, at, faults = [], [], {}
        for row, found in enumerate(rows):
            if isinstance(found.cells, str):
                faults[row] = Fault(row, Reason.UNPARSABLE, found.cells)
                continue
            try:
                events.append(self._mapping.event(found))
                at.append(row)
            except ValidationError as error:
                faults[row] = Fault(row, *explain(error))
        return events, at, faults

    def _headers(self) -> tuple[tuple[str, bytes], ...]:
        """Say how far the file has been read, for whoever goes on."""
        return (
            ("file", self._source.path.name.encode()),
            ("rows", str(self._done).encode()),
            ("schema", self._source.schema.digest.encode()),
            ("content", self._content.encode()),
        )


def _rows(source: FileSource) -> Iterator[FileRow]:
    table = open_table(source.path)
    if isinstance(table, JsonTable) and source.schema.columns is None:
        return table.lines()
    return table.rows()


def _needed(schema: FeatureSchema) -> Iterator[tuple[str, str]]:
    """Name the columns that a file must have, and what each is for."""
    columns = schema.columns or Columns()
    yield columns.event_time, "event_time"
    yield columns.label, "label"
    if columns.event_id is not None:
        yield columns.event_id, "event_id"
    if columns.weight is not None:
        yield columns.weight, "weight"
    for name in schema.names:
        yield columns.of(name), f"feature {name}"


def _cell(value: object) -> object:
    """Take an empty cell as missing."""
    return None if value == "" else value


def _values(value: object, separator: str | None) -> object:
    """Split a cell of several values."""
    if value == "" or value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if separator is not None and isinstance(value, str):
        return [part for part in value.split(separator) if part]
    return value


def _label(value: object) -> object:
    """Take 0 and 1 however a file writes them; anything else stays what it is."""
    return _LABELS.get(value, value) if isinstance(value, (str, int, float)) else value


def _time(value: object, time_format: str) -> object:
    """Turn a count since 1970 into a time; what is none stays as it is, and is found invalid."""
    if time_format == "iso":
        return value
    with suppress(ValueError, OverflowError):
        if isinstance(value, (str, int, float)):
            return EPOCH + float(value) * _UNITS[time_format]
    return None


def _raw(row: FileRow) -> bytes:
    """Return the bytes of a row, for Parquet its cells as JSON."""
    if row.raw is not None:
        return row.raw
    return json.dumps(row.cells, default=str, ensure_ascii=False).encode()
