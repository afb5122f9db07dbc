"""File replay: clicks from CSV, TSV, JSON Lines or Parquet."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from stream import topics
from stream.batch import EPOCH, ClickEvent, Reason, encode_valid, explain
from stream.codec import (
    END,
    columnar_record,
    continue_record,
    end_record,
    kind_of,
    raw_record,
)
from stream.log.api import LogStore, LogWriter, Record, StoredRecord
from stream.schema import Columns, FeatureSchema

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Pause between two looks at a file that is followed."""
_LOOK_SHARE: Final = 10
"""A look takes at most a tenth of the time, however long the file."""
_LOOKED_AT: Final = 1000
"""Lines of JSON whose keys count as the columns of the file."""
_PARQUET_ROWS: Final = 4096
_PART_BYTES: Final = 1024 * 1024
_UNITS = {"seconds": timedelta(seconds=1), "milliseconds": timedelta(milliseconds=1)}
_LABELS: dict[object, int] = {0: 0, 1: 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}


class FileRow(NamedTuple):
    """One row of a file."""

    line: int
    """Where it begins, from 1, the header counted; in Parquet the number of the row."""
    raw: bytes | None
    """As it stands in the file; None in Parquet, where it does not stand in one place."""
    cells: Mapping[str, object] | str | None
    """By column; a text says why there are none, None that they were not asked for."""


def open_table(path: Path) -> DelimitedTable | JsonTable | ParquetTable:
    """Choose how to read a file, by its suffix.

    >>> open_table(Path("clicks.xlsx"))
    Traceback (most recent call last):
    ...
    ValueError: cannot read clicks.xlsx: unknown suffix '.xlsx'; known: .csv, .csv.gz, .jsonl,
        .jsonl.gz, .ndjson, .ndjson.gz, .parquet, .tsv, .tsv.gz
    """
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    match suffix.removesuffix(".gz"):
        case ".csv":
            return DelimitedTable(path, ",")
        case ".tsv":
            return DelimitedTable(path, "\t")
        case ".jsonl" | ".ndjson":
            return JsonTable(path)
        case ".parquet" if suffix == ".parquet":
            return ParquetTable(path)
    text = (".csv", ".tsv", ".jsonl", ".ndjson")
    known = ", ".join(sorted([*text, *(f"{one}.gz" for one in text), ".parquet"]))
    raise ValueError(f"cannot read {path}: unknown suffix {suffix!r}; known: {known}")


@dataclass(frozen=True, slots=True)
class DelimitedTable:
    """CSV or TSV in UTF-8, with a header and cells quoted as RFC 4180 has it."""

    path: Path
    delimiter: str

    def columns(self) -> tuple[str, ...]:
        """Return the header."""
        with self._text() as file:
            header = next(csv.reader(file, delimiter=self.delimiter), None)
        if header is None:
            raise ValueError(f"{self.path} is empty; its first line must name the columns")
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise ValueError(f"{self.path} has two columns {twice[0]!r}; rename one of them")
        return tuple(header)

    def rows(self) -> Iterator[FileRow]:
        """Read the rows below the header; empty lines are passed over."""
        taken: list[str] = []

        def lines() -> Iterator[str]:
            """Note what the CSV reader takes, which does not say it."""
            for line in file:
                taken.append(line)
                yield line

        with self._text() as file:
            reader = csv.reader(lines(), delimiter=self.delimiter)
            header = next(reader, [])
            while True:
                taken.clear()
                begin, fault, cells = reader.line_num + 1, "", None
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    fault = f"no row: {error}"
                if cells and len(cells) != len(header):
                    fault = f"{len(cells)} cells under {len(header)} columns"
                if cells is None and not fault:
                    return
                if cells or fault:
                    raw = "".join(taken).rstrip("\r\n").encode("utf-8", "surrogateescape")
                    yield FileRow(begin, raw, fault or dict(zip(header, cells or (), strict=True)))

    def _text(self) -> io.TextIOWrapper:
        """Open the file; bytes that are not UTF-8 survive as surrogates."""
        return io.TextIOWrapper(_bytes(self.path), "utf-8-sig", "surrogateescape", newline="")


@dataclass(frozen=True, slots=True)
class JsonTable:
    """JSON Lines: an object a line."""

    path: Path
    parsed: bool = True
    """Whether the cells of the rows are asked for."""

    def columns(self) -> tuple[str, ...]:
        """Return all keys of the first thousand lines."""
        rows = islice(self.rows(), _LOOKED_AT)
        found = [row.cells for row in rows if isinstance(row.cells, dict)]
        return tuple(dict.fromkeys(name for cells in found for name in cells))

    def rows(self) -> Iterator[FileRow]:
        """Read the lines; empty ones are passed over."""
        with _bytes(self.path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    raw = line.rstrip(b"\r\n")
                    yield FileRow(number, raw, self._cells(raw) if self.parsed else None)

    def _cells(self, line: bytes) -> dict[str, object] | str:
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            return f"no JSON: {error}"
        return cells if isinstance(cells, dict) else "no JSON object"


@dataclass(frozen=True, slots=True)
class ParquetTable:
    """Parquet; lists become several values."""

    path: Path

    def columns(self) -> tuple[str, ...]:
        """Return the names in the file's schema."""
        try:
            return tuple(pq.read_schema(self.path).names)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{self.path} is not a whole Parquet file: {error}; write it anew"
            ) from error

    def rows(self) -> Iterator[FileRow]:
        """Read the rows."""
        names, line = self.columns(), 0
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for cells in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                    line += 1
                    yield FileRow(line, None, dict(zip(names, cells, strict=True)))


def _bytes(path: Path) -> IO[bytes]:
    """Open a file that may be gzipped."""
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


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
    append: bool = False
    """Whether it may continue clicks that have ended: with what the file has grown by, or as a
    further file."""
    follow: bool = False
    """Whether to wait for what is written to the file. It does not end, and takes rows in whole
    records, once another row stands after them. It may continue clicks as well."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {self.path} to replay; check its name")
        if self.records_events < 1:
            raise ValueError(f"records_events is {self.records_events}; it must be at least 1")
        table, columns = open_table(self.path), self.schema.columns or Columns()
        there = table.columns()
        if isinstance(table, JsonTable) and self.schema.columns is None:
            return
        needed = {
            use: getattr(columns, use) for use in ("event_time", "label", "event_id", "weight")
        }
        needed |= {f"feature {name}": columns.of(name) for name in self.schema.names}
        for use, column in needed.items():
            if column is not None and column not in there:
                raise ValueError(
                    f"{self.path} has no column {column!r} ({use}); there: {', '.join(there)}; "
                    "the schema's [columns] table can name another"
                )

    def count_rows(self, most: int) -> int:
        """Count the rows, valid or not, and no more than ``most``."""
        table = open_table(self.path)
        if isinstance(table, JsonTable):
            table = replace(table, parsed=False)
        return sum(1 for _ in islice(table.rows(), most))

    @property
    def content(self) -> str:
        """Digest of the file's bytes, 16 hex digits."""
        return self.digest(self.path.stat().st_size)

    def digest(self, size: int) -> str:
        """Return a digest of the first so many bytes of the file, 16 hex digits."""
        found = hashlib.sha256()
        with self.path.open("rb") as file:
            while part := file.read(min(size, _PART_BYTES)):
                found.update(part)
                size -= len(part)
        return found.hexdigest()[:16]

    def attach(self, store: LogStore) -> FileFeed:
        """Continue where the ``clicks`` log of ``store`` ends.

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

    def continues(self, last: StoredRecord) -> bool:
        """Whether more follows the end record of what the log holds."""
        known = (last.header("file"), last.header("content"))
        has_more = known != (self.path.name.encode(), self.content.encode())
        return self.follow or (self.append and has_more)

    def _check_same(self, last: StoredRecord) -> None:
        """Refuse a log whose newest record came from somewhere else."""
        file, schema, content = (
            (last.header(name) or b"").decode() for name in ("file", "schema", "content")
        )
        continues = self.append or self.follow
        if file != self.path.name and not (file and continues):
            origin = f"the file {file}" if file else "another input"
            raise ValueError(
                f"the clicks log holds events of {origin}, not of {self.path.name}; use another "
                f"state folder{', or --append' if file else ''}"
            )
        if file != self.path.name and kind_of(last) != END:
            raise ValueError(
                f"the clicks log has not come to the end of {file}: let it end, without --follow, "
                f"before {self.path.name} is appended"
            )
        if schema != self.schema.digest:
            raise ValueError(
                f"the clicks log was begun with schema {schema}, this one is "
                f"{self.schema.digest}; use another state folder"
            )
        has_changed = file == self.path.name and content != self.content
        has_grown = has_changed and self._has_grown(last)
        if has_changed and not (has_grown and continues):
            way_out = "start afresh, use another state folder, or give it the file as it was"
            if has_grown:
                way_out = "it has grown, and --append continues with what is new"
            raise ValueError(
                f"{self.path} has changed since the clicks log was begun with it (content "
                f"{content} was, {self.content} is): {way_out}"
            )

    def _has_grown(self, last: StoredRecord) -> bool:
        """Whether the file begins with what it was, in whole lines."""
        size = int((last.header("bytes") or b"0").decode())
        if not 0 < size < self.path.stat().st_size:
            return False
        with self.path.open("rb") as file:
            file.seek(size - 1)
            is_cut = b"\n" in file.read(2) or self.path.suffix == ".gz"
        return is_cut and self.digest(size) == (last.header("content") or b"").decode()


class FileFeed:
    """A file on its way into the ``clicks`` log.

    Where that log has ended and there is more, it says at once that the input continues: whoever
    reads the log from then on does not take it for ended.

    Rows go in chunks of ``records_events``, counted from the start of the file, so that a replay
    that was killed leaves the same records as one that was not. A row that is no valid event
    becomes a raw record of its own, in its place.
    """

    def __init__(self, source: FileSource, writer: LogWriter, last: StoredRecord | None) -> None:
        self._source, self._writer = source, writer
        self.flush, self.close = writer.flush, writer.close
        self._bytes = source.path.stat().st_size
        self._content = source.digest(self._bytes)
        self._done = self._time_ms = 0
        self._ended = False
        self._look_at, self._looked_bytes = 0.0, -1
        table = open_table(source.path)
        if isinstance(table, JsonTable) and source.schema.columns is None:
            table = replace(table, parsed=False)
        self._table = table
        if last is not None:
            self._resume(last)
        self._rows: Iterator[FileRow] = islice(table.rows(), self._done, None)

    def _resume(self, last: StoredRecord) -> None:
        """Continue after the newest record of the log."""
        source, is_same = self._source, last.header("file") == self._source.path.name.encode()
        self._time_ms = last.record.time_ms
        if is_same:
            self._done = int((last.header("rows") or b"0").decode())
        if kind_of(last) != END:
            return
        self._ended = not source.continues(last)
        if self._ended:
            return
        log.info("the clicks continue with %s after row %d", source.path.name, self._done)
        self._writer.append([continue_record(self._time_ms, self._headers())])
        self._writer.flush()

    def _next(self, most: int) -> list[FileRow]:
        """Read the rows of the next record; of a file that is followed all of them, or none."""
        if not self._source.follow:
            return list(islice(self._rows, most))
        now, size = time.monotonic(), self._source.path.stat().st_size
        if now < self._look_at or size == self._looked_bytes:
            return []
        if size < max(self._looked_bytes, self._bytes):
            raise ValueError(
                f"{self._source.path} has become shorter while it is followed: let it grow only, "
                "and append a new file by its own name"
            )
        found = list(islice(self._rows, most + 1))
        if len(found) > most:
            self._rows = chain(found[most:], self._rows)
            return found[:most]
        # The last row may be half written: what is there is read again, once there is more.
        self._rows = islice(self._table.rows(), self._done, None)
        ended = time.monotonic()
        self._look_at = ended + max(LOOK_SECONDS, _LOOK_SHARE * (ended - now))
        self._looked_bytes = size
        return []

    def step(self) -> int | None:
        """Append the next chunk and return its rows; None once the end record is written."""
        if self._ended:
            return None
        size = self._source.records_events
        want = size - self._done % size
        rows = self._next(want)
        if not rows and self._source.follow:
            return 0
        records = self._records(rows)
        if len(rows) < want:
            records.append(end_record(self._time_ms, self._headers()))
            self._ended = True
        self._writer.append(records)
        if self._ended:
            self._writer.flush()
        return len(rows) or None

    def _records(self, rows: Sequence[FileRow]) -> list[Record]:
        """Turn a chunk into records: columnar ones, parted by a raw one for each invalid row."""
        schema = self._source.schema
        events: list[ClickEvent] = []
        at: list[int] = []
        faults: dict[int, tuple[Reason, str]] = {}
        for row, found in enumerate(rows):
            try:
                if isinstance(found.cells, str):
                    faults[row] = (Reason.UNPARSABLE, found.cells)
                else:
                    events.append(self._event(found.line, found.raw, found.cells))
                    at.append(row)
            except ValidationError as error:
                faults[row] = explain(error)
        batch, bad = encode_valid(events, schema)
        faults |= {at[row]: (reason, detail) for row, reason, detail in bad}
        records: list[Record] = []
        start, taken = self._done, 0
        for before, row in enumerate([*sorted(faults), len(rows)]):
            self._done = start + row
            if row - before > taken:
                part = batch[taken : row - before]
                taken = row - before
                self._time_ms = int(part.time_ms[0])
                records.append(columnar_record(part, schema, self._headers()))
            if row < len(rows):
                self._done += 1
                line, raw, cells = rows[row]
                if raw is None:
                    raw = json.dumps(cells, default=str, ensure_ascii=False).encode()
                headers = (*self._headers(), ("line", str(line).encode()))
                records.append(raw_record(raw, faults[row], headers, self._time_ms))
        return records

    def _event(
        self, line: int, raw: bytes | None, cells: Mapping[str, object] | None
    ) -> ClickEvent:
        """Validate one row. Raises :class:`pydantic.ValidationError`."""
        if cells is None:
            return ClickEvent.model_validate_json(raw or b"")
        schema = self._source.schema
        columns = schema.columns or Columns()
        label = cells.get(columns.label)
        features = {name: cells.get(columns.of(name)) for name in schema.names}
        event: dict[str, Any] = {
            "event_id": str(line) if columns.event_id is None else cells.get(columns.event_id),
            "event_time": _time(cells.get(columns.event_time), columns.time_format),
            # 0 and 1 however a file writes them; anything else stays what it is.
            "label": _LABELS.get(label, label) if isinstance(label, (str, int, float)) else label,
            "numeric": {
                one.name: None if features[one.name] == "" else features[one.name]
                for one in schema.numeric
            },
            "categorical": {
                one.name: _values(features[one.name], columns.separator, one.max_values)
                for one in schema.categorical
            },
        }
        if columns.weight is not None:
            event["weight"] = cells.get(columns.weight)
        return ClickEvent.model_validate(event)

    def _headers(self) -> tuple[tuple[str, bytes], ...]:
        """Say how far the file has been read, for whoever continues."""
        return (
            ("file", self._source.path.name.encode()),
            ("rows", str(self._done).encode()),
            ("schema", self._source.schema.digest.encode()),
            ("content", self._content.encode()),
            ("bytes", str(self._bytes).encode()),
        )


def _values(value: object, separator: str, most: int) -> object:
    """Split a cell of several values."""
    if value == "" or value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if most > 1 and isinstance(value, str):
        return [part for part in value.split(separator) if part]
    return value


def _time(value: object, time_format: str) -> object:
    """Turn a count since 1970 into a time; what is none stays as it is, and is found invalid."""
    if time_format == "iso":
        return value
    with suppress(ValueError, OverflowError):
        if isinstance(value, (str, int, float)):
            return EPOCH + float(value) * _UNITS[time_format]
    return None
