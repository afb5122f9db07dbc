"""Tables in files: rows of CSV, TSV, JSON Lines or Parquet, each with its line and its bytes."""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import os
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from stream.schema import Columns

STANDARD_INPUT: Final = Path("-")
"""The path that stands for standard input."""
_LOOKED_AT: Final = 1000
"""Lines of JSON whose keys count as the columns of the file."""
_PARQUET_ROWS: Final = 4096
_DELIMITERS: Final = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_JSON: Final = (".jsonl", ".ndjson")
_PACKED: Final = (".gz", ".zst")


class FileRow(NamedTuple):
    """One row of a file."""

    line: int
    """Where it begins, from 1, the header counted; in Parquet the number of the row."""
    raw: bytes | None
    """As it stands in the file; None in Parquet, where it does not stand in one place."""
    cells: Mapping[str, object] | str | None
    """By column; a text says why there are none, None that they were not asked for."""


def shown_path(path: Path) -> str:
    """Return what a person calls a file.

    >>> shown_path(Path("clicks.csv")), shown_path(STANDARD_INPUT)
    ('clicks.csv', 'standard input')
    """
    return "standard input" if path == STANDARD_INPUT else str(path)


def find_files(given: Path | Sequence[Path]) -> tuple[Path, ...]:
    """Return the files that paths, folders and globs name, in the order in which they are read.

    A folder stands for all files below it whose names do not begin with ``.`` or ``_``. The files
    of a folder or a glob are sorted by path, numbers by their value: ``day_9`` before ``day_10``.

    Raises :class:`FileNotFoundError` where a path names none, and :class:`ValueError` where one is
    no regular file, or is named twice.

    Examples
    --------
    >>> find_files(Path("absent.csv"))
    Traceback (most recent call last):
    ...
    FileNotFoundError: no file absent.csv to replay; check its name
    """
    paths = [Path(given)] if isinstance(given, str | Path) else [Path(one) for one in given]
    found = [file for path in paths for file in _files_of(path)]
    if not found:
        raise FileNotFoundError("no file to replay is named; name at least one")
    twice = next((file for file in found if found.count(file) > 1), None)
    if twice is not None:
        raise ValueError(f"{shown_path(twice)} is named twice; an input holds each file once")
    if STANDARD_INPUT in found and len(found) > 1:
        raise ValueError("standard input (-) and files cannot be one input; name one of them")
    return tuple(found)


def _files_of(path: Path) -> list[Path]:
    if path == STANDARD_INPUT or path.is_file():
        return [path]
    if path.is_dir():
        below = (file for file in path.rglob("*") if file.is_file())
        found = [f for f in below if not f.relative_to(path).as_posix().startswith((".", "_"))]
        found = [file for file in found if not file.name.startswith((".", "_"))]
        if not found:
            raise FileNotFoundError(f"the folder {path} holds no file to replay; check its name")
    elif glob.has_magic(str(path)):
        found = [Path(one) for one in glob.glob(str(path), recursive=True) if Path(one).is_file()]
        if not found:
            raise FileNotFoundError(f"no file matches {path}; check the pattern")
    elif path.exists():
        # A file is read more than once: its columns, its digest, its rows.
        raise ValueError(
            f"{path} is no regular file{' and is empty' if path == Path(os.devnull) else ''}; name "
            "a file, or send what it gives to standard input, whose name is -"
        )
    else:
        raise FileNotFoundError(f"no file {path} to replay; check its name")
    return sorted(found, key=_by_number)


def _by_number(path: Path) -> list[str | int]:
    """Sort numbers in names by their value."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [int(one) if number % 2 else one for number, one in enumerate(parts)]


class PackedFile:
    """The bytes of a file, unpacked where its suffix says that they are packed."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def open(self) -> IO[bytes]:
        """Open it at its beginning."""
        match self.path.suffix:
            case ".gz":
                return cast("IO[bytes]", gzip.open(self.path))
            case ".zst":
                packed = pa.CompressedInputStream(pa.OSFile(str(self.path)), "zstd")
                return cast("IO[bytes]", io.BufferedReader(packed))
        return self.path.open("rb")

    head = open
    """For a look at the first rows."""


def _standard_input() -> IO[bytes]:
    """Open standard input. Raises :class:`ValueError` where it is closed."""
    if sys.stdin is None:
        raise ValueError("standard input is closed; send the rows to it, or name a file")
    try:
        # A buffer of our own: a thread that waits in one of Python's lets no interpreter end.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except (AttributeError, io.UnsupportedOperation):
        return sys.stdin.buffer


class StandardInput:
    """Standard input: the first line can be looked at, and the rows are read once."""

    name = shown_path(STANDARD_INPUT)

    def __init__(self, stream: IO[bytes] | None = None) -> None:
        self._stream: IO[bytes] | None = _standard_input() if stream is None else stream
        self._first = self._stream.readline()

    @property
    def is_json(self) -> bool:
        """Whether it begins as an object of JSON does."""
        return self._first.lstrip().startswith(b"{")

    def head(self) -> IO[bytes]:
        """Look at the first line."""
        return io.BytesIO(self._first)

    def open(self) -> IO[bytes]:
        """Open it at its beginning, once."""
        if self._stream is None:
            raise ValueError("standard input has been read; it cannot be read twice")
        stream, self._stream = self._stream, None
        return io.BufferedReader(_Chained(self._first, stream))


class _Chained(io.RawIOBase):
    """Some bytes, and after them a stream."""

    def __init__(self, first: bytes, rest: IO[bytes]) -> None:
        self._first, self._rest = first, rest

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        found, self._first = self._first[: len(into)], self._first[len(into) :]
        if not found:
            read = getattr(self._rest, "read1", self._rest.read)
            found = read(len(into))
        into[: len(found)] = found
        return len(found)


Bytes = PackedFile | StandardInput


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Name the file that cannot be read to its end."""
    try:
        yield
    except (EOFError, OSError, zlib.error, pa.ArrowException) as error:
        raise OSError(
            f"{name} cannot be read to its end ({error}); check it, or write it anew"
        ) from error


def open_table(source: Path | StandardInput, columns: Columns | None = None) -> Table:
    """Choose how to read a file, by its suffix and the layout that a schema names.

    Text with a ``delimiter`` or ``names`` of its own may have any suffix. Standard input is JSON
    Lines where it begins with ``{``, else delimited text.

    >>> open_table(Path("clicks.xlsx"))
    Traceback (most recent call last):
    ...
    ValueError: cannot read clicks.xlsx: unknown suffix '.xlsx'; known: .csv, .csv.gz, .csv.zst,
        .jsonl, ..., .tsv.zst, .txt, .txt.gz, .txt.zst; `delimiter` under [columns] in the schema
        lets text have any suffix
    """
    layout = columns or Columns()
    if isinstance(source, StandardInput):
        if source.is_json:
            return JsonTable(source)
        return _delimited(source, layout, ",")
    suffix = source.suffix
    if suffix in _PACKED:
        suffix = source.with_suffix("").suffix
    if suffix in _JSON:
        return JsonTable(PackedFile(source))
    if suffix == ".parquet" and suffix == source.suffix:
        return ParquetTable(source)
    if suffix in _DELIMITERS or (suffix != ".parquet" and (layout.delimiter or layout.names)):
        return _delimited(PackedFile(source), layout, _DELIMITERS.get(suffix, ","))
    shown = "".join(source.suffixes[-2:]) if source.suffix in _PACKED else source.suffix
    text = [one + packed for one in (*_DELIMITERS, *_JSON) for packed in ("", *_PACKED)]
    known = ", ".join(sorted([*text, ".parquet"]))
    raise ValueError(
        f"cannot read {source}: unknown suffix {shown!r}; known: {known}; `delimiter` under "
        "[columns] in the schema lets text have any suffix"
    )


def _delimited(source: Bytes, layout: Columns, otherwise: str) -> DelimitedTable:
    return DelimitedTable(source, layout.delimiter or otherwise, layout.quote, layout.names)


class _Lines:
    """Lines of a text; those of a row that turns out to be none can be read again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        """Of the row being read; the CSV reader does not say it."""
        self.number = 0
        """Of the last line taken, from 1."""
        self.ended_inside = False
        """The text ended where the reader asked for one more line of a row."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines, None)
        if line is None:
            self.ended_inside = bool(self.taken)
            raise StopIteration
        self.taken.append(line)
        self.number += 1
        return line

    def begin_row(self) -> int:
        """Begin a row, and return the number of its line."""
        self.taken.clear()
        self.ended_inside = False
        return self.number + 1

    def keep_first(self) -> None:
        """Put all lines of this row but its first back."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        del self.taken[1:]


@dataclass(frozen=True, slots=True)
class DelimitedTable:
    """Text in UTF-8, a row a line, cells quoted as RFC 4180 has it.

    A cell in quotes may hold line breaks. Where such a row is none by the letter of RFC 4180, or
    has the wrong number of cells, a quote was opened and not closed: then its first line alone is
    no row, and the lines after it are read again.
    """

    source: Bytes
    delimiter: str
    quote: str = '"'
    """Empty: a quote is a character like any other."""
    names: tuple[str, ...] = ()
    """The columns by position, where the file has no header; an empty name is a column that is not
    read."""

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns: the first line, where they are not given."""
        first = self.first()
        if self.names:
            if first is not None and len(first) != len(self.names):
                raise ValueError(
                    f"{self.source.name} has {len(first)} cells in its first line, `names` under "
                    f"[columns] in the schema has {len(self.names)}: name each column by its "
                    "position (I1..I13 names thirteen), or set `delimiter`"
                )
            return tuple(name for name in self.names if name)
        if first is None:
            raise ValueError(
                f"{self.source.name} is empty; its first line must name the columns, or `names` "
                "under [columns] in the schema"
            )
        twice = sorted({name for name in first if name and first.count(name) > 1})
        if twice:
            raise ValueError(
                f"{self.source.name} has two columns {twice[0]!r}; rename one of them, or, where "
                "it has no header, name its columns with `names` under [columns] in the schema"
            )
        return tuple(name for name in first if name)

    def first(self) -> list[str] | None:
        """Return the cells of the first line, whatever they are; None where there is none."""
        with _readable(self.source.name), self._text(self.source.head()) as file:
            found: list[str] | None = next(self._reader(file), None)
            return found

    def rows(self) -> Iterator[FileRow]:
        """Read the rows, below the header if there is one; empty lines are passed over."""
        with _readable(self.source.name), self._text(self.source.open()) as file:
            lines = _Lines(iter(file))
            reader = self._reader(lines)
            header: list[str] = [*(self.names or next(reader, ()))]
            used = [(at, name) for at, name in enumerate(header) if name]
            width, all_used = len(header), len(used) == len(header)
            while True:
                begin, fault, cells = lines.begin_row(), "", None
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    fault = f"no row: {error}"
                if cells is None and not fault:
                    return
                if len(lines.taken) > 1 or lines.ended_inside:
                    fault = self._unclosed(lines, cells, width)
                elif cells and len(cells) != width:
                    fault = f"{len(cells)} cells under {width} columns"
                if fault:
                    yield FileRow(begin, _raw(lines.taken), fault)
                elif cells:
                    named = zip(header, cells, strict=True) if all_used else _pick(used, cells)
                    yield FileRow(begin, _raw(lines.taken), dict(named))

    def _unclosed(self, lines: _Lines, cells: Sequence[str] | None, width: int) -> str:
        """Say why a row of several lines is none, and leave it its first line; "" where it is."""
        if cells is not None and len(cells) == width and not lines.ended_inside:
            try:
                if len(list(self._reader(lines.taken, strict=True))) == 1:
                    return ""
            except csv.Error:
                """It is no row by the letter."""
        last = lines.number
        lines.keep_first()
        return (
            f"no row: a quote is opened here and not closed as it must be (looked for through line "
            f'{last}); where quotes mean nothing, set `quote = ""` under [columns]'
        )

    def _reader(self, lines: Any, *, strict: bool = False) -> Any:
        style: dict[str, Any] = {"delimiter": self.delimiter, "strict": strict}
        style |= {"quotechar": self.quote} if self.quote else {"quoting": csv.QUOTE_NONE}
        return csv.reader(lines, **style)

    def _text(self, file: IO[bytes]) -> io.TextIOWrapper:
        """Read bytes as text; those that are not UTF-8 survive as surrogates."""
        return io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")


def _raw(lines: Sequence[str]) -> bytes:
    return "".join(lines).rstrip("\r\n").encode("utf-8", "surrogateescape")


def _pick(used: Sequence[tuple[int, str]], cells: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((name, cells[at]) for at, name in used)


@dataclass(frozen=True, slots=True)
class JsonTable:
    """JSON Lines: an object a line."""

    source: Bytes
    parsed: bool = True
    """Whether the cells of the rows are asked for."""

    def columns(self) -> tuple[str, ...]:
        """Return all keys of the first thousand lines; of standard input, those of the first."""
        with _readable(self.source.name), self.source.head() as file:
            rows = islice(self._rows(file, parsed=True), _LOOKED_AT)
            found = [row.cells for row in rows if isinstance(row.cells, dict)]
        return tuple(dict.fromkeys(name for cells in found for name in cells))

    def rows(self) -> Iterator[FileRow]:
        """Read the lines; empty ones are passed over."""
        with _readable(self.source.name), self.source.open() as file:
            yield from self._rows(file, parsed=self.parsed)

    def _rows(self, file: IO[bytes], *, parsed: bool) -> Iterator[FileRow]:
        for number, line in enumerate(file, start=1):
            if line.strip():
                raw = line.rstrip(b"\r\n")
                yield FileRow(number, raw, self._cells(raw) if parsed else None)

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
        with _readable(str(self.path)), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for cells in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                    line += 1
                    yield FileRow(line, None, dict(zip(names, cells, strict=True)))


Table = DelimitedTable | JsonTable | ParquetTable
