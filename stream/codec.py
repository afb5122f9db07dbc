"""Click records: what a record of the ``clicks`` log holds, and which of its events are valid.

The header ``kind`` says what the value is: ``json`` (or no header: one
:class:`~stream.batch.ClickEvent`), ``columnar`` (a batch), ``raw`` (a line of a file that is no
event; headers ``file``, ``line``, ``reason``, ``detail``), ``end`` (a finite input ends here) or
``continue`` (nothing; it says that an input that had ended goes on, as any record after it does).
Validity is a pure function of the bytes and the schema, so that all readers skip the same events.
"""

from __future__ import annotations

import base64
import hashlib
import json
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from xxhash import xxh3_128_digest

from stream.batch import (
    ClickBatch,
    ClickEvent,
    Fault,
    Reason,
    describe_number,
    describe_weight,
    encode_valid,
    explain,
    fitting,
    printable,
)
from stream.columnar import SchemaMismatchError, Views, gather, opened, to_bytes
from stream.log.api import Headers, Record, StoredRecord
from stream.messages import DeadLetter, Position, dump
from stream.schema import FeatureSchema

KIND: Final = "kind"
JSON: Final = b"json"
COLUMNAR: Final = b"columnar"
RAW: Final = b"raw"
END: Final = b"end"
CONTINUE: Final = b"continue"
_LINE_DIGITS: Final = 18
_DETAIL: Final = 500
"""Characters of a detail at most: it may quote a name that the event itself brings."""
_LETTER_BYTES: Final = 4_096
"""What a dead letter takes at most beside the event's bytes and headers."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """An event that is not valid, where it stands and why."""

    partition: int
    offset: int
    row: int
    """Inside a columnar record; 0 in any other."""
    reason: Reason
    detail: str
    raw: bytes
    """The bytes as they came; of a columnar record, the row as JSON."""
    file: str | None = None
    line: int | None = None
    headers: Headers = ()
    """Of the record."""

    @property
    def place(self) -> Position:
        """Record and row."""
        return Position(self.offset, self.row)


class RecentIds:
    """The ids of the valid JSON events at the last so many offsets of a partition.

    An event is a duplicate if one with its id stands at one of them, whether that was a duplicate
    itself or not. So whether it is depends on these records alone, not on where reading began.

    Parameters
    ----------
    offsets
        How far back they reach.

    Examples
    --------
    >>> recent = RecentIds(10)
    >>> [recent.add(*one) for one in (("a", 0), ("b", 4), ("a", 10), ("b", 15))]
    [None, None, 0, None]
    """

    def __init__(self, offsets: int) -> None:
        self._offsets = offsets
        # Hashes take the same memory however long the ids are.
        self._known: OrderedDict[bytes, int] = OrderedDict()

    def add(self, event_id: str, offset: int) -> int | None:
        """Take the next event in, and return where its id stood last, None if nowhere."""
        key, known = xxh3_128_digest(event_id.encode("utf-8", "surrogatepass")), self._known
        while known and next(iter(known.values())) < offset - self._offsets:
            known.popitem(last=False)
        found = known.pop(key, None)
        known[key] = offset
        return found


@dataclass(frozen=True, slots=True)
class Decoded:
    """The events of consecutive records of one partition, valid and invalid."""

    begin: int
    """Where the reading of the records began; the first may stand after it."""
    next_offset: int
    """Where the next read begins."""
    batch: ClickBatch
    """The ``n`` valid events."""
    places: NDArray[np.int64]
    """Shape (n, 2), the record that each stands in, and the row inside it."""
    invalid: tuple[Invalid, ...] = ()
    """In the order of the log."""
    end: bool = False
    """An input ends after these; more may follow, where somebody has continued it."""

    def position(self, row: int) -> Position:
        """Return where a valid event stands."""
        return Position(*self.places[row].tolist())

    def count_before(self, place: Position) -> int:
        """Count the valid events before a place."""
        return bisect_left(range(len(self.places)), place, key=self.position)

    def since(self, place: Position) -> Decoded:
        """Return what stands from a place on, as views."""
        if place <= (self.begin, 0):
            return self
        rows = slice(self.count_before(place), None)
        return replace(
            self,
            begin=place.offset,
            batch=self.batch[rows],
            places=self.places[rows],
            invalid=tuple(one for one in self.invalid if one.place >= place),
        )


def json_record(event: ClickEvent, headers: Headers = ()) -> Record:
    """Make a record of one event."""
    value = event.model_dump_json(exclude_defaults=True).encode()
    return Record(value, ((KIND, JSON), *headers), event.time_ms)


def columnar_record(batch: ClickBatch, schema: FeatureSchema, headers: Headers = ()) -> Record:
    """Make a record of a batch of at least one event; its time is that of the first."""
    time_ms = int(batch.time_ms[0])
    return Record(to_bytes(batch, schema.digest), ((KIND, COLUMNAR), *headers), time_ms)


def raw_record(
    value: bytes, fault: tuple[Reason, str], headers: Headers, time_ms: int = 0
) -> Record:
    """Make a record of bytes that are no valid event; ``headers`` name ``file`` and ``line``."""
    reason, detail = fault
    why = (("reason", reason.encode()), ("detail", printable(detail).encode()))
    return Record(value, ((KIND, RAW), *why, *headers), time_ms)


def end_record(time_ms: int = 0, headers: Headers = ()) -> Record:
    """Make the record that ends an input."""
    return Record(b"", ((KIND, END), *headers), time_ms)


def continue_record(time_ms: int = 0, headers: Headers = ()) -> Record:
    """Make the record that says that an input goes on after its end."""
    return Record(b"", ((KIND, CONTINUE), *headers), time_ms)


def kind_of(stored: StoredRecord) -> bytes:
    """Say what a record holds."""
    return stored.header(KIND) or JSON


_Valid = tuple[ClickBatch, NDArray[np.int64]]
"""The valid events of some records, and their places."""


def decode(
    records: Sequence[StoredRecord],
    schema: FeatureSchema,
    begin: int | None = None,
    recent: RecentIds | None = None,
) -> Decoded:
    """Decode consecutive records, at least one, up to the first that ends the input.

    Those of one kind that follow each other are decoded together, which is much the faster way.
    ``begin`` is where the reading of them began; None: at the first. ``recent`` finds duplicates
    and takes the events in; None: they are events like any other.

    >>> from stream.schema import NumericFeature
    >>> schema = FeatureSchema(numeric=(NumericFeature(name="price"),))
    >>> decode([StoredRecord(0, 7, 8, Record(b"{"))], schema).invalid[0].reason.value
    'unparsable'
    """
    valid: list[_Valid] = []
    invalid: list[Invalid] = []
    ended, next_offset = False, records[-1].next_offset
    for kind, run in groupby(records, kind_of):
        if kind == END:
            ended, next_offset = True, next(run).next_offset
            break
        if kind == JSON:
            valid.append(_decode_json(list(run), schema, invalid, recent))
        elif kind == COLUMNAR:
            valid += _decode_columnar(list(run), schema, invalid)
        elif kind == RAW:
            invalid += map(_raw, run)
        else:
            invalid += _unknown(kind, run)
    if not valid:
        nothing = ClickBatch.empty(schema.numeric_count, schema.column_count)
        valid.append((nothing, np.empty((0, 2), np.int64)))
    batch, places = valid[0]
    if len(valid) > 1:
        batch = ClickBatch.concat([one for one, _ in valid])
        places = np.concatenate([one for _, one in valid])
    first = records[0].offset if begin is None else begin
    invalid.sort(key=lambda one: one.place)
    return Decoded(first, next_offset, batch, places, tuple(invalid), ended)


def _decode_json(
    records: Sequence[StoredRecord],
    schema: FeatureSchema,
    invalid: list[Invalid],
    recent: RecentIds | None,
) -> _Valid:
    """Decode records of one JSON event each."""
    events, sources = [], []
    for stored in records:
        try:
            events.append(ClickEvent.model_validate_json(stored.record.value))
            sources.append(stored)
        except ValidationError as error:
            invalid.append(_whole(stored, *explain(error)))
    batch, faults = encode_valid(events, schema)
    invalid += (_whole(sources[row], reason, detail) for row, reason, detail in faults)
    skipped = {fault.row for fault in faults}
    kept = [row for row in range(len(sources)) if row not in skipped]
    if recent is not None:
        before = [recent.add(events[row].event_id, sources[row].offset) for row in kept]
        for row, offset in zip(kept, before, strict=True):
            if offset is not None:
                detail = f"event_id stands at offset {offset} already: {events[row].event_id!r}"
                invalid.append(_whole(sources[row], Reason.DUPLICATE, detail))
        if any(offset is not None for offset in before):
            batch = batch[np.array([offset is None for offset in before], bool)]
            kept = [row for row, offset in zip(kept, before, strict=True) if offset is None]
    places = [(sources[row].offset, 0) for row in kept]
    return batch, np.array(places, np.int64).reshape(-1, 2)


def _decode_columnar(
    records: Sequence[StoredRecord], schema: FeatureSchema, invalid: list[Invalid]
) -> list[_Valid]:
    """Decode columnar records, and check all their rows at once."""
    found: list[Views] = []
    sources = []
    for stored in records:
        try:
            checked = found[-1].layout if found else None
            found.append(opened(stored.record.value, schema, checked))
            sources.append(stored)
        except ValueError as error:
            is_other = isinstance(error, SchemaMismatchError)
            reason = Reason.SCHEMA if is_other else Reason.UNPARSABLE
            invalid.append(_whole(stored, reason, str(error)))
    if not found:
        return []
    batch = gather(found, schema)
    places, rows = np.empty((len(batch), 2), np.int64), np.arange(len(batch))
    begin = 0
    for stored, views in zip(sources, found, strict=True):
        end = begin + len(views.columns["label"])
        places[begin:end, 0] = stored.offset
        places[begin:end, 1] = rows[: end - begin]
        begin = end
    faults = _faults(batch, schema)
    if faults:
        by_offset = {stored.offset: stored for stored in sources}
        for row, reason, detail in faults:
            offset, at = places[row].tolist()
            whole = _whole(by_offset[offset], reason, detail)
            invalid.append(replace(whole, row=at, raw=_row_json(batch, row)))
        good = ~np.isin(rows, [fault.row for fault in faults])
        batch, places = batch[good], places[good]
    return [(batch, places)]


def _faults(batch: ClickBatch, schema: FeatureSchema) -> list[Fault]:
    """Find the rows of columnar records that are not valid, and what is wrong first with each."""
    buckets, (fits, heavy) = batch.categorical, fitting(batch, schema)
    known = (buckets >= 0) & (buckets < schema.column_buckets)
    checks = (
        (Reason.LABEL, (batch.label == 0) | (batch.label == 1)),
        (Reason.WEIGHT, heavy),
        (Reason.NUMERIC, fits),
        (Reason.CATEGORICAL, known),
    )
    first: dict[int, Fault] = {}
    for reason, passed in checks:
        if not passed.all():
            for row, *at in np.argwhere(~passed).tolist():
                if row not in first:
                    first[row] = Fault(row, reason, _detail(reason, batch, schema, row, *at))
    return list(first.values())


def _detail(
    reason: Reason, batch: ClickBatch, schema: FeatureSchema, row: int, column: int = 0
) -> str:
    """Say what is wrong with a row of a columnar record."""
    if reason == Reason.WEIGHT:
        return describe_weight(float(batch.weight[row]))
    if reason == Reason.NUMERIC:
        return describe_number(schema.numeric[column], float(batch.numeric[row, column]))
    return "label is not 0 or 1" if reason == Reason.LABEL else "a bucket is outside its feature"


def _row_json(batch: ClickBatch, row: int) -> bytes:
    """Write a row as JSON."""
    click = {name: getattr(batch, name)[row].tolist() for name in ClickBatch.__slots__}
    return json.dumps(click).encode()


def _whole(stored: StoredRecord, reason: Reason, detail: str) -> Invalid:
    """Call a whole record invalid."""
    value, headers, _ = stored.record
    return Invalid(stored.partition, stored.offset, 0, reason, detail, value, headers=headers)


def _unknown(kind: bytes, run: Iterable[StoredRecord]) -> Iterator[Invalid]:
    """Call records of a kind that there is not invalid; ``continue`` holds no event."""
    if kind != CONTINUE:
        name = printable(kind.decode(errors="surrogateescape"))
        detail = f"unknown kind '{name}'; known: json, columnar, raw, end, continue"
        yield from (_whole(stored, Reason.UNPARSABLE, detail) for stored in run)


def _raw(stored: StoredRecord) -> Invalid:
    """Take the reason, file and line of a raw record from its headers."""
    reason, detail, file, line = (
        printable((stored.header(name) or b"").decode(errors="surrogateescape"))
        for name in ("reason", "detail", "file", "line")
    )
    known = reason in Reason.__members__.values()
    return replace(
        _whole(stored, Reason(reason) if known else Reason.UNPARSABLE, detail),
        file=file or None,
        line=int(line) if line.isdecimal() and len(line) <= _LINE_DIGITS else None,
    )


def not_learned(
    stored: StoredRecord, row: int, schema: FeatureSchema, models: Sequence[str]
) -> Invalid:
    """Describe a valid event of a record that some models could not learn.

    >>> from stream.schema import NumericFeature
    >>> schema = FeatureSchema(numeric=(NumericFeature(name="price"),))
    >>> not_learned(StoredRecord(0, 7, 8, Record(b"{}")), 0, schema, ["dense"]).detail
    'what dense would have learned from it is not finite; it was predicted and scored all the same'
    """
    who = " and ".join(models)
    detail = f"what {who} would have learned from it is not finite"
    whole = _whole(
        stored, Reason.NOT_LEARNED, f"{detail}; it was predicted and scored all the same"
    )
    if kind_of(stored) != COLUMNAR:
        return whole
    found = decode([stored], schema)
    at = found.count_before(Position(stored.offset, row))
    return replace(whole, row=row, raw=_row_json(found.batch, at))


def dead_letter(invalid: Invalid, max_bytes: int | None = None) -> DeadLetter:
    """Turn an invalid event into the message that the ``deadletters`` log keeps.

    Where the message would be larger than ``max_bytes``, it has the first of the event's bytes, how
    many these are and their hash.

    >>> from stream.batch import Reason
    >>> letter = dead_letter(Invalid(0, 7, 2, Reason.LABEL, "label is not 0 or 1", b"2"))
    >>> letter.key, letter.reason, letter.raw
    ('dead_letter/0/7/2', 'label', 'Mg==')
    """
    detail = invalid.detail
    letter = DeadLetter(
        reason=invalid.reason.value,
        detail=detail if len(detail) <= _DETAIL else f"{detail[: _DETAIL - 1]}…",
        partition=invalid.partition,
        offset=invalid.offset,
        row=invalid.row,
        file=invalid.file,
        line=invalid.line,
        raw=base64.b64encode(invalid.raw).decode(),
        headers=tuple((name, base64.b64encode(v).decode()) for name, v in invalid.headers),
    )
    written = len(letter.raw) + sum(len(name) + len(value) for name, value in letter.headers)
    # Far from the limit, nothing is written only to see how long it is.
    if max_bytes is None or 8 * written + _LETTER_BYTES <= max_bytes:
        return letter
    return letter if len(dump(letter)) <= max_bytes else _in_part(letter, invalid.raw, max_bytes)


def _in_part(letter: DeadLetter, raw: bytes, max_bytes: int) -> DeadLetter:
    """Keep of a dead letter what a record takes: first the headers, then bytes of the event."""
    sha256 = hashlib.sha256(raw).hexdigest()
    letter = letter.model_copy(update={"raw": "", "raw_bytes": len(raw), "raw_sha256": sha256})
    if len(dump(letter)) > max_bytes:
        letter = letter.model_copy(update={"headers": ()})
    kept = max(0, max_bytes - len(dump(letter))) // 4 * 3
    return letter.model_copy(update={"raw": base64.b64encode(raw[:kept]).decode()})
