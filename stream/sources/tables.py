"""Files as rows: CSV, TSV, JSON Lines and Parquet, by their suffix."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Final, NamedTuple, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

_LOOKED_AT: Final = 1000
"""Lines of JSON whose keys count as the columns of the file."""
_PARQUET_ROWS: Final = 4096


class FileRow(NamedTuple):
    """One row of a file."""

    line: int
    """Where it begins, from 1, the header counted; in Parquet the number of the row."""
    raw: bytes | None
    """As it stands in the file; None in Parquet, where it does not stand in one place."""
    cells: Mapping[str, object] | str | None
    """By column; a text says why there are none, None that they were not asked for."""


class Table(Protocol):
    """A file that can be read row by row, as often as one likes."""

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns, after a look at the file's beginning."""

    def rows(self) -> Iterator[FileRow]:
        """Read all rows, in order."""


def open_table(path: Path) -> Table:
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
        with _text(self.path) as file:
            header = next(csv.reader(file, delimiter=self.delimiter), None)
        if header is None:
            raise ValueError(f"{self.path} is empty; its first line must name the columns")
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise ValueError(f"{self.path} has two columns {twice[0]!r}; rename one of them")
        return tuple(header)

    def rows(self) -> Iterator[FileRow]:
        """Read the rows below the header; empty lines are passed over."""
        with _text(self.path) as file:
            lines = _Lines(file)
            reader = csv.reader(lines, delimiter=self.delimiter)
            header = next(reader, [])
            lines.take()
            while (cells := _next(reader)) is not None:
                line, raw = lines.take()
                if isinstance(cells, str):
                    yield FileRow(line, raw, cells)
                elif len(cells) == len(header):
                    yield FileRow(line, raw, dict(zip(header, cells, strict=True)))
                elif cells:
                    yield FileRow(line, raw, f"{len(cells)} cells under {len(header)} columns")


@dataclass(frozen=True, slots=True)
class JsonTable:
    """JSON Lines: an object a line."""

    path: Path

    def columns(self) -> tuple[str, ...]:
        """Return all keys of the first thousand lines."""
        names: dict[str, None] = {}
        for row in islice(self.rows(), _LOOKED_AT):
            if isinstance(row.cells, dict):
                names |= dict.fromkeys(row.cells)
        return tuple(names)

    def rows(self) -> Iterator[FileRow]:
        """Read the lines; empty ones are passed over."""
        for line, raw in _json_lines(self.path):
            try:
                cells = json.loads(raw)
            except (ValueError, RecursionError) as error:
                yield FileRow(line, raw, f"no JSON: {error}")
                continue
            yield FileRow(line, raw, cells if isinstance(cells, dict) else "no JSON object")

    def lines(self) -> Iterator[FileRow]:
        """Read the lines unparsed."""
        for line, raw in _json_lines(self.path):
            yield FileRow(line, raw, None)


@dataclass(frozen=True, slots=True)
class ParquetTable:
    """Parquet; lists become several values."""

    path: Path

    def columns(self) -> tuple[str, ...]:
        """Return the names in the file's schema."""
        with _parquet(self.path) as file:
            return tuple(file.schema_arrow.names)

    def rows(self) -> Iterator[FileRow]:
        """Read the rows."""
        line = 0
        with _parquet(self.path) as file:
            names = file.schema_arrow.names
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for cells in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                    line += 1
                    yield FileRow(line, None, dict(zip(names, cells, strict=True)))


def _bytes(path: Path) -> IO[bytes]:
    """Open a file that may be gzipped."""
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _text(path: Path) -> io.TextIOWrapper:
    """Open text; bytes that are not UTF-8 survive as surrogates."""
    return io.TextIOWrapper(_bytes(path), "utf-8-sig", "surrogateescape", newline="")


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file: {error}; write it anew") from error


class _Lines:
    """Lines on their way to a CSV reader, which does not say what it took."""

    def __init__(self, file: Iterable[str]) -> None:
        self._file = file
        self._begin = 1
        self._taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self._taken.append(line)
            yield line

    def take(self) -> tuple[int, bytes]:
        """Return what was read since the last call: the number of its first line, its bytes."""
        begin, text = self._begin, "".join(self._taken)
        self._begin += len(self._taken)
        self._taken.clear()
        return begin, text.rstrip("\r\n").encode("utf-8", "surrogateescape")


def _next(reader: Iterator[list[str]]) -> list[str] | str | None:
    """Return the next row, why there is none, or None at the end."""
    try:
        return next(reader, None)
    except csv.Error as error:
        return f"no row: {error}"


def _json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with _bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line.rstrip(b"\r\n")
