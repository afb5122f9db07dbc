"""What files hold: a schema proposed from a sample of rows, and the share of rows that fit one."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.batch import Reason, log1p, printable
from stream.schema import RESERVED, UNITS, Columns, NumericFeature
from stream.sources.files import FileSource, RowEncoder, bytes_of, time_reader
from stream.sources.tables import (
    STANDARD_INPUT,
    DelimitedTable,
    FileRow,
    StandardInput,
    Table,
    find_files,
    open_table,
)

Floats = NDArray[np.float64]
MISSING_WORDS: Final = frozenset(
    ("NA", "N/A", "null", "NULL", "Null", "None", "none", "NaN", "nan", "\\N", "#N/A")
)
"""Words by which other programs write a missing value."""
_DELIMITERS: Final = "\t,;|"
_SEPARATORS: Final = "|;"
_LABELS: Final = ("label", "click", "clicked", "is_click", "is_clicked", "target", "y", "converted")
_TIMES: Final = re.compile(r"(time|date|hour|when|day|ts\b|_at\b)", re.IGNORECASE)
_IDS: Final = ("id", "event_id", "impression_id", "request_id", "row_id", "uuid")
_CLICKED: Final = frozenset(("1", "1.0", "true", "t", "yes", "y", "click", "clicked"))
_NOT_CLICKED: Final = frozenset(("0", "0.0", "-1", "-1.0", "false", "f", "no", "n"))
_CLICK_OR_NOT: Final = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}
"""What needs no ``labels``."""
_CODED: Final = re.compile(
    r"(^c[0-9]+$|id$|(^|_)(code|type|cat|category|zip|hash|user|item|movie|film|product|ad|advert|"
    r"advertiser|campaign|publisher|site|page|app|device|customer|query|keyword)s?$)",
    re.IGNORECASE,
)
_COUNTED: Final = re.compile(r"^i[0-9]+$", re.IGNORECASE)
_FORMATS: Final = (
    "%y%m%d%H",
    "%Y%m%d",
    "%Y%m%d%H",
    "%Y%m%d%H%M%S",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y",
    "%d/%b/%Y:%H:%M:%S %z",
)
_YEARS: Final = (datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
_FIGURE: Final = re.compile(r"(?<![\w.])[-+]?[0-9][0-9.e+-]*")
_MOSTLY: Final = 0.99
"""Share of the values of a column that decide what it is; the others are typing errors."""
_LIMIT: Final = NumericFeature.model_fields["limit"].default
"""The largest size of a valid value once it is standardised."""
_FEW: Final = 20
"""Different whole numbers that look like codes rather than amounts."""
_TWO: Final = 2
"""Values of a label."""
_BUCKETS_A_VALUE: Final = 8
_FEWEST_BUCKETS, _MOST_BUCKETS = 64, 2**20
_SKEWED: Final = 20.0
"""Of the largest value to the mean size, where ``log1p`` is proposed."""
_SHOWN: Final = 24
"""Characters of a value that are shown."""
_ORDERED: Final = 1_000
"""Values whose order in the file is looked at."""
_EXAMPLES: Final = 3
_SHARE_OF_LISTS: Final = 0.05


@dataclass
class ColumnSample:
    """What a sample of rows says of one column."""

    name: str
    values: Counter[str] = field(default_factory=Counter)
    """How often each value came, missing ones apart."""
    missing: Counter[str] = field(default_factory=Counter)
    """How often each word for a missing value came, ``""`` for an empty cell."""
    first: list[str] = field(default_factory=list)
    """The first values, in their order."""
    most_values: int = 1
    """In a cell that is a list."""
    late: int = 0
    """Values that came first in the second half of the sample."""

    def take(self, value: object, *, is_late: bool) -> None:
        """Take in one cell."""
        if isinstance(value, list):
            self.most_values = max(self.most_values, len(value))
            for one in value:
                self.take(one, is_late=is_late)
            return
        if value is None or value == "":
            self.missing[""] += 1
            return
        word = json.dumps(value) if isinstance(value, bool) else str(value)
        if word in MISSING_WORDS:
            self.missing[word] += 1
            return
        self.late += is_late and word not in self.values
        self.values[word] += 1
        if len(self.first) < _ORDERED:
            self.first.append(word)

    @property
    def count(self) -> int:
        """Values that are there."""
        return self.values.total()

    @cached_property
    def numbers(self) -> tuple[Floats, Floats] | None:
        """The different numbers, and how often each came; None where more than 1 % are none."""
        found = {value: float(value) for value in self.values if _is_number(value)}
        counts = np.array([self.values[value] for value in found], np.float64)
        if not found or counts.sum() < _MOSTLY * self.count:
            return None
        return np.array(list(found.values()), np.float64), counts

    @cached_property
    def is_whole(self) -> bool:
        """Whether the numbers are whole, and written as such, but for 1 % at most."""
        numbers = {one: count for one, count in self.values.items() if _is_number(one)}
        whole = sum(n for one, n in numbers.items() if re.fullmatch(r"-?[0-9]+", one))
        return bool(numbers) and whole >= _MOSTLY * sum(numbers.values())


@dataclass(frozen=True, slots=True)
class Sample:
    """The first rows of an input."""

    name: str
    layout: Columns
    """How the file is laid out, as far as that can be seen."""
    columns: Mapping[str, ColumnSample]
    rows: int
    is_whole: bool
    """The input has no more rows."""
    unreadable: int
    """Rows that have no cells."""


def take_sample(
    paths: Sequence[Path], rows: int, names: Sequence[str] = (), delimiter: str | None = None
) -> Sample:
    """Read the first rows of an input whose layout is not known.

    Parameters
    ----------
    paths
        As of :func:`stream.sources.tables.find_files`.
    rows
        How many at most.
    names
        Of the columns by position, where there is no header; ranges such as ``I1..I13`` are names.
    delimiter
        Between cells; None: as it looks.
    """
    files = find_files(paths)
    source = StandardInput() if files[0] == STANDARD_INPUT else files[0]
    layout = _layout(source, names, delimiter)
    tables = chain([open_table(source, layout)], (open_table(one, layout) for one in files[1:]))
    columns: dict[str, ColumnSample] = {}
    taken = unreadable = 0
    every = _rows(tables)
    for row in islice(every, rows):
        taken += 1
        if isinstance(row.cells, str) or row.cells is None:
            unreadable += 1
            continue
        for name, value in row.cells.items():
            if name not in columns:
                columns[name] = ColumnSample(name)
            columns[name].take(value, is_late=taken > rows // 2)
    shown = "standard input" if isinstance(source, StandardInput) else str(paths[0])
    return Sample(shown, layout, columns, taken, next(every, None) is None, unreadable)


def _rows(tables: Iterable[Table]) -> Iterator[FileRow]:
    for table in tables:
        table.columns()
        yield from table.rows()


def _layout(source: Path | StandardInput, names: Sequence[str], delimiter: str | None) -> Columns:
    """See how a file is laid out from its first line."""
    try:
        table = open_table(source, Columns(delimiter=delimiter))
    except ValueError:
        table = open_table(source, Columns(delimiter=delimiter or ","))
        delimiter = delimiter or ","
    if not isinstance(table, DelimitedTable):
        return Columns()
    first = table.first()
    if first is None:
        table.columns()
    line = "".join(first or ())
    if len(first or ()) <= 1 and (found := max(_DELIMITERS, key=line.count)) in line:
        delimiter = found
        first = replace(table, delimiter=found).first()
    if not names and not _is_header(first or ()):
        names = [f"column_{number}" for number in range(1, len(first or ()) + 1)]
    return Columns(delimiter=delimiter, names=tuple(names))


def _is_header(cells: Sequence[str]) -> bool:
    """Tell whether a first line names columns: different words, of which none is a number.

    >>> _is_header(["", "when", "click"]), _is_header(["1", "when", "click"])
    (True, False)
    """
    named = [cell for cell in cells[1:] if cell] + [cells[0]] if cells else []
    if len(named) < len(cells) or len(set(named)) < len(named):
        return False
    return not any(cell in MISSING_WORDS or _is_number(cell) for cell in named)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Roles:
    """Which columns are no features."""

    label: str
    labels: Mapping[str, int]
    time: str | None
    time_format: str
    event_id: str | None


def find_roles(sample: Sample, label: str | None = None, time: str | None = None) -> Roles:
    """Find the columns that hold label, time and id.

    Raises :class:`ValueError` where no column can be the label, or one that is named is not there.
    """
    for named in (label, time):
        if named is not None and named not in sample.columns:
            raise ValueError(
                f"{sample.name} has no column {named!r}; there: {', '.join(sample.columns)}"
            )
    label = label or _label(sample)
    found, time_format = _time(sample, label, time)
    ids = (c for c in sample.columns.values() if c.name not in (label, found))
    event_id = next((c.name for c in ids if c.name.lower() in _IDS and _all_differ(c)), None)
    return Roles(label, _labels(sample.columns[label]), found, time_format, event_id)


def _label(sample: Sample) -> str:
    """Find the column of the label: by its name, or the first of two values that look like one."""
    columns = sample.columns.values()
    two = [
        one
        for one in columns
        if 0 < len(one.values.keys() - _odd_labels(one)) <= _TWO
        and one.missing.total() <= (1 - _MOSTLY) * sample.rows
    ]
    by_name = [one for name in _LABELS for one in two if one.name.lower() == name]
    clicked = [
        one
        for one in two
        if len(one.values) == _TWO and not one.missing and _CLICKED & set(_lower(one))
    ]
    if not by_name and not clicked:
        raise ValueError(
            f"no column of {sample.name} looks like the label, with two values such as 0 and 1; "
            f"name it with --label; there: {', '.join(sample.columns)}"
        )
    return (by_name + clicked)[0].name


def _lower(one: ColumnSample) -> Iterator[str]:
    return (value.lower() for value in one.values)


def _odd_labels(one: ColumnSample) -> Counter[str]:
    """Return the words of a label, and how often each came, beside those that say click or none.

    None are odd where these do not cover nearly all rows: then the label is of another kind.
    """
    clicked, others = (
        {word for word in one.values if word.lower() in known} for known in (_CLICKED, _NOT_CLICKED)
    )
    odd = Counter({w: count for w, count in one.values.items() if w not in clicked | others})
    is_rare = odd.total() <= (1 - _MOSTLY) * one.count
    return odd if clicked and others and is_rare else Counter()


def _labels(one: ColumnSample) -> dict[str, int]:
    """Say what the words of a label mean; nothing where they are 0 and 1, a few odd ones apart.

    Of two words the one that says so is the click, else the rarer; of several numbers the upper
    half.
    """
    words = one.values.keys() - _odd_labels(one)
    if words <= _CLICK_OR_NOT.keys():
        return {}
    clicked = {word for word in words if word.lower() in _CLICKED}
    if words - clicked <= {word for word in words if word.lower() in _NOT_CLICKED} and clicked:
        """Each says what it is."""
    elif all(map(_is_number, words)) and len(words) != _TWO:
        ranked = sorted(words, key=float)
        clicked = {
            word for word in ranked if float(word) > (float(ranked[0]) + float(ranked[-1])) / 2
        }
    elif len(clicked) != 1:
        clicked = {min(words, key=lambda word: (one.values[word], word))}
    # A number that is none of a text is looked up without the zero.
    written = {word: word.removesuffix(".0") for word in words if _is_number(word)}
    return {
        form: int(word in clicked)
        for word in sorted(words)
        for form in dict.fromkeys((word, written.get(word, word)))
    }


def _all_differ(one: ColumnSample) -> bool:
    return one.count > 1 and len(one.values) == one.count


def _time(sample: Sample, label: str, asked: str | None) -> tuple[str | None, str]:
    """Find the column of the times and its format; None and ``none`` where there is none."""
    columns = [one for one in sample.columns.values() if one.name != label]
    if asked is not None:
        one = sample.columns[asked]
        found = _time_format(one)
        if found is None:
            raise ValueError(
                f"the times of {asked!r}, such as {_examples(one)}, are of no known format; write "
                "`time_format` yourself, as docs/events.md says"
            )
        return asked, found
    named = [one for one in columns if _TIMES.search(one.name)]
    others = [one for one in columns if one not in named]
    for one in named:
        found = _time_format(one)
        if found is not None:
            return one.name, found
    for one in others:
        found = _time_format(one)
        if found is None or not (found in UNITS or (found == "iso" and one.numbers is None)):
            continue
        counts = [float(value) for value in one.first if _reads(found)(value) and found in UNITS]
        if counts == sorted(counts) and len(one.values) > 1:
            return one.name, found
    return None, "none"


def _time_format(one: ColumnSample) -> str | None:
    """Return the first format that reads the first values, but for 1 %, as times of this age."""
    values = one.first[:_ORDERED]
    known = (*(() if one.numbers else ("iso",)), *UNITS, *_FORMATS)
    return next((f for f in known if values and _holds_for_most(_reads(f), values)), None)


def _holds_for_most(test: Callable[[str], bool], values: Sequence[str]) -> bool:
    wrong = (value for value in values if not test(value))
    return next(islice(wrong, int((1 - _MOSTLY) * len(values)), None), None) is None


def _reads(time_format: str) -> Callable[[str], bool]:
    """Return what tells whether a format reads a text as a time of this age."""
    read = time_reader(time_format)
    if time_format == "iso" or read is None:
        return _is_iso

    def reads(value: str) -> bool:
        moment = read(value)
        return isinstance(moment, datetime) and _YEARS[0] <= moment < _YEARS[1]

    return reads


def _is_iso(value: str) -> bool:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return False
    return _YEARS[0].year <= moment.year < _YEARS[1].year


def propose_schema(sample: Sample, label: str | None = None, time: str | None = None) -> str:
    """Write a schema in TOML that fits a sample, with what it is made of as comments.

    Parameters
    ----------
    sample
        The first rows.
    label, time
        The columns of label and time; None: as it looks.
    """
    if not sample.columns:
        raise ValueError(f"{sample.name} holds no rows; a schema is proposed from some")
    roles = find_roles(sample, label, time)
    for text in (*sample.columns, *roles.labels):
        if any("\udc80" <= one <= "\udcff" for one in text):
            raise ValueError(
                f"'{printable(text)}' in {sample.name} is no text in UTF-8: write the input in "
                "UTF-8, or, where only a column is called so, name the columns with --names"
            )
    taken = (roles.label, roles.time, roles.event_id)
    features = [one for one in sample.columns.values() if one.name not in taken]
    left = {one.name: why for one in features if (why := _no_feature(one))}
    features = [one for one in features if one.name not in left]
    numeric = [one for one in features if _is_amount(one)]
    categorical = [one for one in features if one not in numeric]
    separator = _separator(categorical)
    rows = f"{'all' if sample.is_whole else 'the first'} {sample.rows:,} rows"
    lines = [
        f"# Proposed by `resprout schema infer` from {rows} of {printable(sample.name)}.",
        "# Look it over: mean and scale are those of the sample, buckets are some 8 for a value.",
    ]
    for one in numeric:
        lines += ["", *_numeric_table(one, sample.rows)]
    for one in categorical:
        lines += ["", *_categorical_table(one, separator, sample)]
    if left:
        lines += ["", "# Not read:"]
        lines += [f"#   {_comment(name)}: {why}" for name, why in left.items()]
    lines += ["", *_columns_table(sample, roles, separator)]
    return "\n".join(lines)


def _no_feature(one: ColumnSample) -> str:
    """Say why a column is no feature; "" where it may be one."""
    if not one.values:
        return "always missing"
    if len(one.values) == 1 and not one.missing:
        return f"always {json.dumps(next(iter(one.values)))}"
    if one.numbers is None and len(one.values) >= _MOSTLY * one.count and one.count > _FEW:
        nearly = "" if _all_differ(one) else "nearly "
        return f"{nearly}every value differs, such as {_examples(one)}"
    return ""


def _is_amount(one: ColumnSample) -> bool:
    """Tell whether a column is a number, rather than a code written in digits."""
    if one.numbers is None or one.most_values > 1:
        return False
    if _COUNTED.search(one.name):
        return True
    coded = _CODED.search(one.name) is not None or len(one.values) <= _FEW
    return not (one.is_whole and coded)


def _numeric_table(one: ColumnSample, rows: int) -> Iterator[str]:
    values, counts = one.numbers or (np.zeros(1), np.ones(1))
    usual = _usual(values, counts)
    far = [f"{value:g}" for value in values[~usual]]
    wrong = _unlike(far, int(counts[~usual].sum()), "far beyond")
    strange = [value for value in one.values if not _is_number(value)]
    wrong += _unlike(strange, sum(one.values[value] for value in strange), "no numbers")
    values, counts = values[usual], counts[usual]
    low, high = float(values.min()), float(values.max())
    mean_size = float(np.average(np.abs(values), weights=counts))
    is_skewed = max(abs(low), abs(high)) > _SKEWED * mean_size
    yield "[[numeric]]"
    codes = "; if these are codes, make it [[categorical]]" if one.is_whole else ""
    yield f"name = {json.dumps(one.name)}  # {low:g} to {high:g}{_missing(one, rows)}{wrong}{codes}"
    if is_skewed:
        yield 'log1p = "signed"' if low <= -1 else "log1p = true"
        values = log1p(values, "signed" if low <= -1 else True)
    mean = float(np.average(values, weights=counts))
    scale = math.sqrt(float(np.average((values - mean) ** 2, weights=counts)))
    yield f"mean = {float(f'{mean:.4g}')}"
    yield f"scale = {float(f'{scale:.4g}') or 1.0}"


def _usual(values: Floats, counts: Floats) -> NDArray[np.bool_]:
    """Tell different numbers from those, 1 % at most, that would be beyond the limit of a feature.

    Nearly all values lie within a distance of the median; the others are far beyond where they are
    a million standard deviations of these away.
    """
    order = np.argsort(values)
    median = values[order][np.searchsorted(counts[order].cumsum(), counts.sum() / 2)]
    with np.errstate(over="ignore"):
        away = np.abs(values - median)
    near = np.argsort(away, kind="stable")
    near = near[counts[near].cumsum() - counts[near] < _MOSTLY * counts.sum()]
    mean = np.average(values[near], weights=counts[near])
    spread = math.sqrt(np.average((values[near] - mean) ** 2, weights=counts[near]))
    usual: NDArray[np.bool_] = away <= _LIMIT * (spread or max(abs(mean), 1.0))
    usual[near] = True
    return usual


def _unlike(values: Sequence[str], count: int, what: str) -> str:
    """Say how many values are unlike the others of their column; "" where none are."""
    shown = ", ".join(map(_comment, values[:_EXAMPLES]))
    return f"; {what}: {count:,}, such as {shown}" if values else ""


def _categorical_table(one: ColumnSample, separator: str, sample: Sample) -> Iterator[str]:
    several = _several(one, separator)
    values = {part for value in one.values for part in value.split(separator)} if several else ()
    different = len(values or one.values)
    wanted = 2 ** math.ceil(math.log2(max(_BUCKETS_A_VALUE * different + RESERVED, 1)))
    buckets = min(max(wanted, _FEWEST_BUCKETS), _MOST_BUCKETS)
    said = f"{different:,} values, such as {_examples(one)}{_missing(one, sample.rows)}"
    if not sample.is_whole and one.late * _FEW > len(one.values):
        said += f"; {one.late:,} of them came first in the second half: expect more"
    if one.numbers is not None and one.most_values == 1:
        said += "; if these are amounts, make it [[numeric]]"
    yield "[[categorical]]"
    yield f"name = {json.dumps(one.name)}  # {said}"
    yield f"buckets = {buckets}"
    if several or one.most_values > 1:
        yield f"max_values = {max(several, one.most_values)}"


def _separator(features: Sequence[ColumnSample]) -> str:
    """Return what stands between the values of cells, the first that any feature has."""
    return next((s for s in _SEPARATORS if any(_several(one, s) for one in features)), "|")


def _several(one: ColumnSample, separator: str) -> int:
    """Return how many values a cell has at most; 0 where it has one."""
    parted = sum(count for value, count in one.values.items() if separator in value)
    if parted < _SHARE_OF_LISTS * one.count or one.most_values > 1:
        return 0
    return max(value.count(separator) + 1 for value in one.values)


def _columns_table(sample: Sample, roles: Roles, separator: str) -> Iterator[str]:
    layout, columns = sample.layout, sample.columns
    words = sorted({word for one in columns.values() for word in one.missing if word})
    yield "[columns]"
    if layout.names:
        yield f"names = {json.dumps(layout.names)}  # by position: there is no header"
    if layout.delimiter is not None:
        yield f"delimiter = {json.dumps(layout.delimiter)}"
    if roles.time is None:
        yield 'time_format = "none"  # no times were found: events are in the order of the file'
    else:
        times, reads = columns[roles.time], _reads(roles.time_format)
        wrong = [value for value in times.values if not reads(value)]
        many = sum(times.values[value] for value in wrong)
        said = f"such as {_comment(next(filter(reads, times.first)))}"
        said += _missing(times, sample.rows) + _unlike(wrong, many, "no times of this age")
        yield f"event_time = {json.dumps(roles.time)}  # {said}"
        yield f"time_format = {json.dumps(roles.time_format)}"
    yield f"label = {json.dumps(roles.label)}  # {_described_label(columns[roles.label], roles)}"
    if roles.labels:
        mapped = ", ".join(
            f"{json.dumps(word)} = {is_click}" for word, is_click in roles.labels.items()
        )
        yield f"labels = {{ {mapped} }}"
    if roles.event_id is not None:
        yield f"event_id = {json.dumps(roles.event_id)}"
    if words:
        yield f"missing = {json.dumps(words)}"
    if any(_several(one, separator) for one in columns.values()):
        yield f"separator = {json.dumps(separator)}"


def _described_label(label: ColumnSample, roles: Roles) -> str:
    """Say how many are clicks, and what is no label: such rows become dead letters."""
    known, odd = roles.labels or _CLICK_OR_NOT, _odd_labels(label)
    clicks = sum(count for word, count in label.values.items() if known.get(word) == 1)
    said = f"{written_share(clicks, label.count)} clicks" if clicks else "there are no clicks"
    unusable = [f"{many:,} x {_comment(word)}" for word, many in odd.most_common(_EXAMPLES)]
    if missing := label.missing.total():
        unusable.append(f"{missing:,} x missing")
    if len(odd) > _EXAMPLES:
        unusable.append("others")
    return f"{said}; no label, so dead letters: {', '.join(unusable)}" if unusable else said


def written_share(part: int, whole: int, digits: int = 2) -> str:
    """Write a share in percent: only all of it is 100 %, and only nothing is 0 %.

    >>> written_share(3, 4), written_share(19_999, 20_000), written_share(1, 10**6, 1)
    ('75.00%', 'more than 99.99%', 'less than 0.1%')
    """
    share, least = part / whole if whole else 0.0, 10.0 ** -(digits + 2)
    if 0 < share < least:
        return f"less than {least:.{digits}%}"
    if 1 - least < share < 1:
        return f"more than {1 - least:.{digits}%}"
    return f"{share:.{digits}%}"


def _missing(one: ColumnSample, rows: int) -> str:
    share = 1 - one.count / rows if one.most_values == 1 else one.missing.total() / rows
    return f", {written_share(round(share * rows), rows, 1)} missing" if share > 0 else ""


def _examples(one: ColumnSample) -> str:
    return ", ".join(_comment(value) for value, _ in one.values.most_common(_EXAMPLES))


def _comment(text: str) -> str:
    """Write text of somebody else so that it ends no comment."""
    shown = printable(text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


@dataclass
class Misfit:
    """Rows that do not fit a schema for one reason."""

    reason: Reason
    detail: str
    """Of the first of them."""
    file: str
    line: int
    raw: bytes
    count: int = 0
    values: dict[str, int] = field(default_factory=dict)
    """How often each value of the cell that is wrong came, as it is shown."""


@dataclass
class Fit:
    """How far rows fit a schema."""

    rows: int = 0
    valid: int = 0
    clicks: int = 0
    first_ms: int | None = None
    """Event times, milliseconds since 1970."""
    last_ms: int | None = None
    backwards: int = 0
    """Events whose time is before that of the event above them."""
    misfits: dict[str, Misfit] = field(default_factory=dict)

    @property
    def invalid_ratio(self) -> float:
        """Share of rows that do not fit."""
        return 1 - self.valid / self.rows if self.rows else 0.0


def check_fit(source: FileSource, rows: int) -> Fit:
    """See how many of the first rows of an input are valid events, and why the others are not."""
    encode, fit, latest = RowEncoder(source.schema), Fit(), None
    for number in range(len(source.files)):
        table = iter(source.table(number).rows())
        while chunk := list(islice(table, min(source.records_events, rows - fit.rows))):
            batch, _, invalid = encode(chunk, fit.rows)
            fit.rows += len(chunk)
            fit.valid += len(batch)
            fit.clicks += int(batch.label.sum())
            for fault in invalid:
                what = f"{fault.reason}: {fault.detail}".replace(f" = {fault.value}: ", ": ", 1)
                row = chunk[fault.row]
                file = printable(source.name(number))
                first = Misfit(fault.reason, fault.detail, file, row.line, bytes_of(row))
                # Figures in a detail, other than in names, are those of its row.
                one = fit.misfits.setdefault(_FIGURE.sub("", what), first)
                one.count += 1
                if fault.value:
                    one.values[fault.value] = one.values.get(fault.value, 0) + 1
            if len(batch):
                times = batch.time_ms if latest is None else np.append(latest, batch.time_ms)
                fit.backwards += int((np.diff(times) < 0).sum())
                latest = batch.time_ms[-1:]
                low, high = int(batch.time_ms.min()), int(batch.time_ms.max())
                fit.first_ms = low if fit.first_ms is None else min(fit.first_ms, low)
                fit.last_ms = high if fit.last_ms is None else max(fit.last_ms, high)
    return fit
