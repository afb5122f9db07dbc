"""File replay: clicks from tables in files, or from standard input."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import chain, islice
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, Final, NamedTuple, cast

import numpy as np
from pydantic import ValidationError

from stream import topics
from stream.batch import (
    EPOCH,
    MILLISECOND,
    ClickBatch,
    ClickEvent,
    Reason,
    encode_valid,
    explain,
    first_of,
    printable,
)
from stream.codec import (
    END,
    columnar_record,
    continue_record,
    end_record,
    kind_of,
    raw_record,
)
from stream.log.api import LogStore, LogWriter, Record, StoredRecord
from stream.schema import UNITS, Columns, FeatureSchema
from stream.sources.tables import (
    STANDARD_INPUT,
    FileRow,
    JsonTable,
    StandardInput,
    Table,
    find_files,
    open_table,
    shown_path,
)

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Pause between two looks at files that are followed; so long a row of standard input waits for
others at most."""
_READ_AHEAD: Final = 1000
"""Rows of standard input that may wait to be taken."""
_LOOK_SHARE: Final = 10
"""A look takes at most a tenth of the time, however long the file."""
_PART_BYTES: Final = 1024 * 1024

_LABELS: Final[dict[object, int]] = {0: 0, 1: 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
_MICROSECOND: Final = timedelta(microseconds=1)
_TIMES: Final = 100_000
"""Texts whose times are kept at hand."""
_SHOWN: Final = 40
"""Characters of a cell that an error quotes."""


@dataclass
class FileSource:
    """Files of clicks, one after the other: CSV, TSV, JSON Lines (also packed) or Parquet.

    The files are checked at once, before any log is touched: :class:`FileNotFoundError` where one
    is not there, :class:`ValueError` where one cannot be read or lacks a column.

    Parameters
    ----------
    path
        A file, a folder, a pattern such as ``logs/*.csv``, ``-`` for standard input, or several of
        these; see :func:`stream.sources.tables.find_files`.
    schema
        The features, and how the files are laid out.
    records_events
        Rows of a file that go into one record.
    append
        Whether it may continue clicks that have ended: with what the last file has grown by, and
        with further files.
    follow
        Whether to wait for what is written to the last file, and for further files that a folder or
        pattern names after it. It does not end, and takes rows of the last file in whole records,
        once another row stands after them. It may continue clicks as well.

    Attributes
    ----------
    files
        In the order in which they are read.
    """

    path: Path | Sequence[Path]
    schema: FeatureSchema
    records_events: int = 500
    append: bool = False
    follow: bool = False
    files: tuple[Path, ...] = field(init=False)
    _contents: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    """As of :meth:`content`, of the first files."""
    _sizes: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    """As of :meth:`size`, by the number of the file."""
    _late: set[Path] = field(default_factory=set, init=False, repr=False, compare=False)
    """Files that came too late to be read in their place."""

    def __post_init__(self) -> None:
        if isinstance(self.path, str | Path):
            self.path = Path(self.path)
        self.files = find_files(self.path)
        if self.records_events < 1:
            raise ValueError(f"records_events is {self.records_events}; it must be at least 1")
        if self.follow and STANDARD_INPUT in self.files:
            raise ValueError("standard input ends when it ends and cannot be followed; name a file")
        for number in range(len(self.files)):
            self._check_columns(number)

    def _check_columns(self, number: int) -> None:
        """See that a file has the columns that the schema names."""
        table, columns = self.table(number), self.schema.columns or Columns()
        there = table.columns()
        if isinstance(table, JsonTable) and self.schema.columns is None:
            return
        needed = {
            use: getattr(columns, use) for use in ("event_time", "label", "event_id", "weight")
        }
        if columns.time_format == "none":
            del needed["event_time"]
        needed |= {f"feature {name}": columns.of(name) for name in self.schema.names}
        for use, column in needed.items():
            if column is not None and column not in there:
                hint = ', or say `time_format = "none"`' if use == "event_time" else ""
                raise ValueError(
                    f"{shown_path(self.files[number])} has no column {column!r} ({use}); there: "
                    f"{', '.join(there)}; the schema's [columns] table can name another{hint}"
                )

    @cached_property
    def _standard_input(self) -> StandardInput:
        return StandardInput()

    def table(self, number: int = 0) -> Table:
        """Open one of the files, by its number."""
        path, columns = self.files[number], self.schema.columns
        table = open_table(self._standard_input if path == STANDARD_INPUT else path, columns)
        if isinstance(table, JsonTable) and columns is None:
            return replace(table, parsed=False)
        return table

    def name(self, number: int) -> str:
        """Return what records call a file: its name, below the folder that holds all files."""
        if self.files[number] == STANDARD_INPUT:
            return shown_path(STANDARD_INPUT)
        above = os.path.commonpath([file.parent for file in self.files])
        return self.files[number].relative_to(above).as_posix()

    def content(self, number: int, size: int | None = None) -> str:
        """Return a digest of the bytes of all files up to this one, 16 hex digits.

        A file that is added at the end leaves those of the others as they were. Standard input,
        which is not there yet, has none.

        Parameters
        ----------
        number
            Of the file.
        size
            Bytes of it that count; None: :meth:`size`.
        """
        if self.files[number] == STANDARD_INPUT:
            return ""
        if size is None and number < len(self._contents):
            return self._contents[number]
        digest = _digest(self.files[number], self.size(number) if size is None else size)
        if number:
            chained = f"{self.content(number - 1)} {digest}".encode()
            digest = hashlib.sha256(chained).hexdigest()[:16]
        if size is None:
            self._contents.append(digest)
        return digest

    def size(self, number: int) -> int:
        """Return the bytes that a file had when this was asked first; 0 of standard input."""
        path = self.files[number]
        if number not in self._sizes:
            self._sizes[number] = 0 if path == STANDARD_INPUT else path.stat().st_size
        return self._sizes[number]

    def count_rows(self, most: int) -> int:
        """Count the rows of all files, valid or not, and no more than ``most``.

        Those of standard input are not known, and count as so many.
        """
        if STANDARD_INPUT in self.files:
            return most
        tables = [self.table(number) for number in range(len(self.files))]
        plain = (replace(t, parsed=False) if isinstance(t, JsonTable) else t for t in tables)
        return sum(1 for _ in islice(chain.from_iterable(t.rows() for t in plain), most))

    def look_again(self) -> None:
        """Find the files that have come since, after those that are known."""
        last, found = self.files[-1], find_files(self.path)
        fresh = found[found.index(last) + 1 :] if last in found else ()
        late = [one for one in found if one not in (*self.files, *fresh)]
        if late and not self._late:
            log.warning("%s comes before files that are read, and is left out", late[0])
        self._late.update(late)
        self.files = (*self.files, *fresh)
        for number in range(len(self.files) - len(fresh), len(self.files)):
            self._check_columns(number)

    def continues(self, last: StoredRecord) -> bool:
        """Whether more follows the end record of what the log holds."""
        final = len(self.files) - 1
        known = ((last.header("file") or b"").decode(), (last.header("content") or b"").decode())
        return self.follow or (self.append and known != (self.name(final), self.content(final)))

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
            number = 0 if last is None else self._number_of(last)
            return FileFeed(self, writer, number, last)
        except BaseException:
            writer.close()
            raise

    def _number_of(self, last: StoredRecord) -> int:
        """Return the file that the newest record of a log is of; refuse a log of something else."""
        file, schema, content = (
            (last.header(name) or b"").decode() for name in ("file", "schema", "content")
        )
        names = [self.name(number) for number in range(len(self.files))]
        continues = self.append or self.follow
        if file not in names and not (file and continues):
            origin = f"the file {file}" if file else "another input"
            raise ValueError(
                f"the clicks log holds events of {origin}, not of {_few(names)}; "
                f"use another state folder{', or --append' if file else ''}"
            )
        if file not in names and kind_of(last) != END:
            raise ValueError(
                f"the clicks log has not come to the end of {file}: let it end, without --follow, "
                f"before {_few(names)} is appended"
            )
        if schema != self.schema.digest:
            raise ValueError(
                f"the clicks log was begun with schema {schema}, this one is "
                f"{self.schema.digest}; use another state folder"
            )
        if file not in names:
            return 0
        number = names.index(file)
        there = self.content(number)
        has_grown = content != there and self._has_grown(number, last)
        if has_grown and not continues:
            raise ValueError(
                f"{self.files[number]} has changed since the clicks log was begun with it (content "
                f"{content} was, {there} is): it has grown, and --append continues with what is new"
            )
        if there and content != there and not has_grown:
            before = f", or one of the {number} before it," if number else ""
            raise ValueError(
                f"{self.files[number]}{before} has changed since the clicks log was begun with it "
                f"(content {content} was, {there} is): start afresh, use another state folder, or "
                "give it the file as it was"
            )
        if kind_of(last) == END and number + 1 < len(self.files) and not continues:
            raise ValueError(
                f"the clicks log ended with {file}, and {_few(names[number + 1 :])} would follow; "
                "--append continues with it, or use another state folder"
            )
        return number

    def _has_grown(self, number: int, last: StoredRecord) -> bool:
        """Whether a file begins with what it was, in whole lines."""
        path, size = self.files[number], int((last.header("bytes") or b"0").decode())
        if path == STANDARD_INPUT or not 0 < size < path.stat().st_size:
            return False
        with path.open("rb") as file:
            file.seek(size - 1)
            is_cut = b"\n" in file.read(2) or path.suffix in (".gz", ".zst")
        return is_cut and self.content(number, size) == (last.header("content") or b"").decode()


def _digest(path: Path, left: int) -> str:
    """Return a digest of the first so many bytes of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while left and (part := file.read(min(left, _PART_BYTES))):
            found.update(part)
            left -= len(part)
    return found.hexdigest()[:16]


def _few(names: Sequence[str]) -> str:
    """Name the first of several.

    >>> _few(["a.csv"]), _few(["a.csv", "b.csv", "c.csv"])
    ('a.csv', 'a.csv and 2 more')
    """
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


class InvalidRow(NamedTuple):
    """A row of a table that is no valid event."""

    row: int
    """Index among those that were looked at."""
    reason: Reason
    detail: str
    value: str = ""
    """The cell that is wrong, as the detail quotes it; "" where it quotes none."""


class RowEncoder:
    """Turns rows of a table into a batch of events, and says which are none, and why.

    Parameters
    ----------
    schema
        The features, and how the table is laid out.

    Examples
    --------
    >>> from stream.schema import NumericFeature
    >>> encoder = RowEncoder(FeatureSchema(numeric=(NumericFeature(name="price"),)))
    >>> good = {"event_time": "2026-05-01", "label": "1", "price": "2.5"}
    >>> batch, rows, invalid = encoder(
    ...     [FileRow(2, b"", good), FileRow(3, b"", good | {"label": "x"})]
    ... )
    >>> batch.numeric.tolist(), rows, invalid[0].detail
    ([[2.5]], [0], "label = 'x': Input should be 0 or 1 (...)")
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self._schema = schema
        self._columns = columns = schema.columns or Columns()
        self._missing = frozenset(("", *columns.missing))
        self._nan_is_missing = any(word.lower() == "nan" for word in columns.missing)
        self._time = time_reader(columns.time_format)
        self._numeric = [(one.name, columns.of(one.name)) for one in schema.numeric]
        self._categorical = [
            (one.name, columns.of(one.name), one.max_values) for one in schema.categorical
        ]

    def __call__(
        self, rows: Sequence[FileRow], before: int = 0
    ) -> tuple[ClickBatch, list[int], list[InvalidRow]]:
        """Encode rows.

        Parameters
        ----------
        rows
            The rows.
        before
            Rows of the input before these, which count where there is no column of times.

        Returns
        -------
        The valid events, the index of each in ``rows``, and the others, in order.
        """
        events: list[ClickEvent] = []
        at: list[int] = []
        invalid: list[InvalidRow] = []
        for row, found in enumerate(rows):
            try:
                if isinstance(found.cells, str):
                    invalid.append(InvalidRow(row, Reason.UNPARSABLE, found.cells))
                    continue
                events.append(self._event(found, before + row))
                at.append(row)
            except ValidationError as error:
                invalid.append(InvalidRow(row, *self._explained(error, found)))
        batch, faults = encode_valid(events, self._schema)
        if faults:
            invalid += [InvalidRow(at[row], reason, detail) for row, reason, detail in faults]
            skipped = {at[fault.row] for fault in faults}
            at = [row for row in at if row not in skipped]
        return batch, at, sorted(invalid)

    def _event(self, row: FileRow, number: int) -> ClickEvent:
        """Validate one row. Raises :class:`pydantic.ValidationError`."""
        if row.cells is None:
            return ClickEvent.model_validate_json(row.raw or b"")
        cells, columns = cast("Mapping[str, object]", row.cells), self._columns
        if self._time is None:
            time: object = EPOCH + number * MILLISECOND
        else:
            time = self._time(cells.get(columns.event_time))
        event: dict[str, Any] = {
            "event_id": str(row.line) if columns.event_id is None else cells.get(columns.event_id),
            "event_time": time,
            "label": self._label(cells.get(columns.label)),
        }
        if time is None or event["label"] not in (0, 1):
            # It is wrong already, most likely: then nothing is done about its features.
            ClickEvent.model_validate(event)
        event |= {
            "numeric": {name: self._cell(cells.get(column)) for name, column in self._numeric},
            "categorical": {
                name: _values(self._cell(cells.get(column)), columns.separator, most)
                for name, column, most in self._categorical
            },
        }
        if columns.weight is not None:
            event["weight"] = cells.get(columns.weight)
        return ClickEvent.model_validate(event)

    def _cell(self, value: object) -> object:
        """Return None where a value is missing."""
        if isinstance(value, str):
            return None if value in self._missing else value
        if self._nan_is_missing and isinstance(value, float) and math.isnan(value):
            return None
        return value

    def _label(self, value: object) -> object:
        """Return 0 and 1 however a file writes them; anything else stays what it is."""
        if self._columns.labels:
            word = _word(value)
            return self._columns.labels.get(word, self._columns.labels.get(word.lower()))
        return _LABELS.get(value, value) if isinstance(value, str | int | float) else value

    def _explained(self, error: ValidationError, row: FileRow) -> tuple[Reason, str, str]:
        """Say what is wrong with the cells of a row: the column, its value, the way out."""
        first = first_of(error)
        (reason, detail), where = explain(error, first), first["loc"]
        if row.cells is None or not where:
            return reason, detail, ""
        cells, columns = cast("Mapping[str, object]", row.cells), self._columns
        is_feature = where[0] in ("numeric", "categorical") and len(where) > 1
        column = columns.of(str(where[1])) if is_feature else getattr(columns, str(where[0]))
        value, what = _shown(cells.get(column)), detail.partition(": ")[2]
        hint = ""
        if reason == Reason.LABEL:
            what = f"none of {', '.join(columns.labels)}" if columns.labels else what
            hint = " (`labels` under [columns] says what other words mean)"
        elif reason == Reason.TIME:
            hint = f" (`time_format` under [columns] is {columns.time_format})"
        elif reason == Reason.NUMERIC and isinstance(cells.get(column), str):
            hint = " (`missing` under [columns] names the words for a missing value)"
        return reason, f"{column} = {value}: {what}{hint}", value


def _values(value: object, separator: str, most: int) -> object:
    """Split a cell of several values."""
    if isinstance(value, bool):
        return _word(value)
    if most > 1 and isinstance(value, str):
        return [part for part in value.split(separator) if part]
    return value


def _word(value: object) -> str:
    """Write a label as a schema names it.

    >>> _word(True), _word(-1.0), _word("yes")
    ('true', '-1', 'yes')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _shown(value: object) -> str:
    is_odd = isinstance(value, str) and not value.isprintable()
    text = f"'{printable(str(value))}'" if is_odd else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def time_reader(time_format: str) -> Callable[[object], object] | None:
    """Return what turns a cell into a time; what is none becomes None, and is found invalid.

    >>> time_reader("%y%m%d%H")(14102100)
    datetime.datetime(2014, 10, 21, 0, 0, tzinfo=datetime.timezone.utc)
    """
    if time_format == "none":
        return None
    if time_format == "iso":
        return lambda value: value
    if time_format in UNITS:
        unit = UNITS[time_format] * _MICROSECOND

        def counted(value: object) -> datetime | None:
            with suppress(ValueError, OverflowError):
                if isinstance(value, str | int | float):
                    return EPOCH + float(value) * unit
            return None

        return counted

    @lru_cache(_TIMES)
    def formatted(text: str) -> datetime | None:
        with suppress(ValueError, OverflowError):
            moment = datetime.strptime(text, time_format)  # noqa: DTZ007
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return None

    return lambda value: formatted(_word(value))


class _Arriving:
    """Rows that come when they come: a thread waits for them, and nobody else does."""

    def __init__(self, rows: Iterator[FileRow]) -> None:
        self._come: Queue[FileRow | BaseException | None] = Queue(_READ_AHEAD)
        self._held: list[FileRow] = []
        self._since = 0.0
        self.has_ended = False
        Thread(target=self._read, args=(rows,), daemon=True).start()

    def _read(self, rows: Iterator[FileRow]) -> None:
        try:
            for row in rows:
                self._come.put(row)
            self._come.put(None)
        except BaseException as error:
            self._come.put(error)

    def take(self, most: int) -> list[FileRow]:
        """Return so many rows, those of a second, or the last; nothing where there are fewer."""
        while len(self._held) < most and not self.has_ended:
            try:
                found = self._come.get_nowait()
            except Empty:
                break
            if isinstance(found, BaseException):
                raise found
            if found is None:
                self.has_ended = True
                break
            if not self._held:
                self._since = time.monotonic()
            self._held.append(found)
        is_due = time.monotonic() - self._since >= LOOK_SECONDS
        if len(self._held) < most and not self.has_ended and not is_due:
            return []
        taken, self._held = self._held, []
        return taken


class FileFeed:
    """Files on their way into the ``clicks`` log.

    Rows go in chunks of ``records_events``, counted from the start of each file, so that a replay
    that was killed leaves the same records as one that was not; of standard input, those that came
    within a second go at its end. A row that is no valid event
    becomes a raw record of its own, in its place.

    Where the log has ended and there is more, it says at once that the input continues: whoever
    reads the log from then on does not take it for ended.

    Every record says how far its file has been read, for whoever continues: ``file``, ``rows`` of
    it, ``content`` up to this file, ``bytes`` of it that this is of, and ``before``, the rows of
    the files before it. Of standard input, ``content`` is a digest of the rows so far: the same
    input, sent again, is continued.

    Parameters
    ----------
    source
        The files.
    writer
        Of the log.
    number
        The file that the newest record is of.
    last
        The newest record; None: the log is empty.
    """

    def __init__(
        self, source: FileSource, writer: LogWriter, number: int, last: StoredRecord | None
    ) -> None:
        def header(name: str) -> str:
            return ((last.header(name) if last is not None else None) or b"").decode()

        self._source, self._writer = source, writer
        self.flush, self.close = writer.flush, writer.close
        self._encode = RowEncoder(source.schema)
        self._schema = ("schema", source.schema.digest.encode())
        is_end = last is not None and kind_of(last) == END
        self._ended = is_end and last is not None and not source.continues(last)
        self._time_ms = last.record.time_ms if last is not None else 0
        self._latest: np.int64 | None = None
        self._backwards = False
        self._look_at, self._looked_bytes = 0.0, -1
        self._arriving: _Arriving | None = None
        rows, before = int(header("rows") or 0), int(header("before") or 0)
        if last is not None and header("file") != source.name(number):
            rows, before = 0, before + rows
        self._open(number, before)
        if not self._ended:
            self._skip(rows, header("content"))
        if is_end and not self._ended:
            log.info("the clicks continue with %s after row %s", source.name(number), f"{rows:,}")
            writer.append([continue_record(self._time_ms, self._headers())])
            writer.flush()

    def _open(self, number: int, before: int) -> None:
        """Begin a file."""
        self._number, self._before, self._done = number, before, 0
        self._name = self._source.name(number).encode("utf-8", "surrogateescape")
        self._bytes = ("bytes", b"%d" % self._source.size(number))
        self._rows: Iterator[FileRow] = self._source.table(number).rows()
        self._content = self._source.content(number)
        self._digest = None if self._content else hashlib.sha256()

    def _skip(self, rows: int, content: str) -> None:
        """Go where the log ends; standard input must be what it was."""
        for row in islice(self._rows, rows):
            self._pass([row])
        if self._digest is not None and rows and (self._done, self._content) != (rows, content):
            raise ValueError(
                f"standard input differs from what the clicks log was begun with: its first {rows} "
                f"rows give {self._content or 'nothing'}, they gave {content}; send the same input "
                "again, or use another state folder"
            )
        self._done = rows

    def step(self) -> int | None:
        """Append the next chunk and return its rows; None once the end record is written."""
        if self._ended:
            return None
        size, source, rows, want = self._source.records_events, self._source, list[FileRow](), 0
        while not rows:
            want = size - self._done % size
            rows = self._next(want)
            if self._number + 1 == len(source.files):
                break
            if not rows:
                self._open(self._number + 1, self._before + self._done)
        is_last = self._number + 1 == len(source.files)
        more = source.follow or (self._arriving is not None and not self._arriving.has_ended)
        self._ended = is_last and not more and len(rows) < want
        if not rows and not self._ended:
            return 0
        records = self._records(rows)
        if self._ended:
            records.append(end_record(self._time_ms, self._headers()))
        self._writer.append(records)
        if self._ended:
            self._writer.flush()
        return len(rows) or None

    def _next(self, most: int) -> list[FileRow]:
        """Read the rows of the next record; of a file that is followed all of them, or none.

        Where there are not so many, it looks for further files. Of standard input, see
        :class:`_Arriving`.
        """
        if self._source.files[self._number] == STANDARD_INPUT:
            self._arriving = self._arriving or _Arriving(self._rows)
            return self._arriving.take(most)
        if not self._source.follow or self._number + 1 < len(self._source.files):
            return list(islice(self._rows, most))
        path, now = self._source.files[self._number], time.monotonic()
        if now < self._look_at:
            return []
        size = path.stat().st_size
        if size < max(self._looked_bytes, self._source.size(self._number)):
            raise ValueError(
                f"{path} has become shorter while it is followed: let it grow only, and append a "
                "new file by its own name"
            )
        found = list(islice(self._rows, most + 1)) if size != self._looked_bytes else []
        if len(found) > most:
            self._rows = chain(found[most:], self._rows)
            return found[:most]
        # The last row may be half written: what is there is read again, once there is more.
        self._rows = islice(self._source.table(self._number).rows(), self._done, None)
        self._source.look_again()
        ended = time.monotonic()
        self._look_at = ended + max(LOOK_SECONDS, _LOOK_SHARE * (ended - now))
        self._looked_bytes = size
        if self._number + 1 < len(self._source.files):
            self._look_at, self._looked_bytes = 0.0, -1
            return list(islice(self._rows, most))
        return []

    def _records(self, rows: Sequence[FileRow]) -> list[Record]:
        """Turn a chunk into records: columnar ones, parted by a raw one for each invalid row."""
        batch, valid, invalid = self._encode(rows, self._before + self._done)
        self._look_at_times(batch, rows, valid)
        records: list[Record] = []
        row = begin = 0
        for fault in [*invalid, None]:
            until = len(rows) if fault is None else fault.row
            self._pass(rows[row:until])
            if until > row:
                part = batch[begin : begin + until - row]
                begin += until - row
                self._time_ms = int(part.time_ms[0])
                records.append(columnar_record(part, self._source.schema, self._headers()))
            if fault is not None:
                self._pass(rows[until : until + 1])
                headers = (*self._headers(), ("line", b"%d" % rows[until].line))
                raw, why = bytes_of(rows[until]), (fault.reason, fault.detail)
                records.append(raw_record(raw, why, headers, self._time_ms))
            row = until + 1
        return records

    def _look_at_times(
        self, batch: ClickBatch, rows: Sequence[FileRow], valid: Sequence[int]
    ) -> None:
        """Say once where event times run backwards; nothing depends on it."""
        if self._backwards or not len(batch):
            return
        first = self._latest if self._latest is not None else batch.time_ms[0]
        times = np.concatenate([[first], batch.time_ms])
        self._latest = times[-1]
        back = np.flatnonzero(np.diff(times) < 0)
        if len(back):
            self._backwards, at = True, int(back[0])
            earlier, later = (_iso(int(one)) for one in (times[at + 1], times[at]))
            log.warning(
                "%s, line %d: the event time %s is before that of the event above it, %s; events "
                "are learned in the order of the file, and this is said once",
                self._source.name(self._number),
                rows[valid[at]].line,
                earlier,
                later,
            )

    def _pass(self, rows: Sequence[FileRow]) -> None:
        """Count rows that are done with."""
        self._done += len(rows)
        if self._digest is not None and rows:
            for row in rows:
                self._digest.update(row.raw or b"")
                self._digest.update(b"\n")
            self._content = self._digest.hexdigest()[:16]

    def _headers(self) -> tuple[tuple[str, bytes], ...]:
        """Say how far the file has been read, for whoever continues."""
        headers = (
            ("file", self._name),
            ("rows", b"%d" % self._done),
            self._schema,
            ("content", self._content.encode()),
            self._bytes,
        )
        return (*headers, ("before", b"%d" % self._before)) if self._before else headers


def _iso(milliseconds: int) -> str:
    return (EPOCH + milliseconds * MILLISECOND).isoformat()


def bytes_of(row: FileRow) -> bytes:
    """Return a row as it stands in the file; of Parquet, as JSON."""
    if row.raw is not None:
        return row.raw
    return json.dumps(row.cells, default=str, ensure_ascii=False).encode("utf-8", "surrogatepass")
