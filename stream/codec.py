"""Click records: what a record of the ``clicks`` log holds, and which of its events are valid.

The header ``kind`` says what the value is: ``json`` (or no header: one
:class:`~stream.events.ClickEvent`), ``columnar`` (a batch), ``raw`` (a line of a file that is no
event; headers ``file``, ``line``, ``reason``, ``detail``) or ``end`` (a finite input ends here).
Validity is a pure function of the bytes and the schema, so that all readers skip the same events.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from stream.batch import ClickBatch, encode_valid
from stream.columnar import SchemaMismatchError, gather, opened, to_bytes
from stream.events import ClickEvent, Fault, Reason, explain
from stream.log.api import Headers, Record, StoredRecord
from stream.messages import DeadLetter, Position
from stream.schema import FeatureSchema

KIND: Final = "kind"
JSON: Final = b"json"
COLUMNAR: Final = b"columnar"
RAW: Final = b"raw"
END: Final = b"end"
_LINE_DIGITS: Final = 18


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


@dataclass(frozen=True, slots=True)
class Decoded:
    """The events of one record, or of several in a row, valid and invalid."""

    batch: ClickBatch
    """The ``n`` valid events."""
    offsets: NDArray[np.int64]
    """Shape (n,), the record that each stands in."""
    rows: NDArray[np.int64]
    """Shape (n,), the row inside its record."""
    invalid: tuple[Invalid, ...] = ()
    """In the order of the log."""
    end: bool = False
    """The input ends after these."""


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
    why = (("reason", reason.encode()), ("detail", detail.encode("utf-8", "backslashreplace")))
    return Record(value, ((KIND, RAW), *why, *headers), time_ms)


def end_record(time_ms: int = 0, headers: Headers = ()) -> Record:
    """Make the record that ends an input."""
    return Record(b"", ((KIND, END), *headers), time_ms)


def kind_of(stored: StoredRecord) -> bytes:
    """Say what a record holds."""
    return stored.header(KIND) or JSON


def decode_record(stored: StoredRecord, schema: FeatureSchema) -> Decoded:
    """Decode one record of any kind.

    >>> from stream.schema import NumericFeature
    >>> schema = FeatureSchema(numeric=(NumericFeature(name="price"),))
    >>> stored = StoredRecord(0, 7, 8, Record(b"{"))
    >>> decode_record(stored, schema).invalid[0].reason.value
    'unparsable'
    """
    kind = kind_of(stored)
    if kind == JSON:
        return decode_json([stored], schema)
    if kind == COLUMNAR:
        return decode_columnar([stored], schema)
    nothing = _nothing(schema)
    if kind == END:
        return replace(nothing, end=True)
    if kind == RAW:
        return replace(nothing, invalid=(_raw(stored),))
    detail = f"unknown kind {kind.decode(errors='replace')!r}; known: json, columnar, raw, end"
    return replace(nothing, invalid=(_whole(stored, Reason.UNPARSABLE, detail),))


def decode_json(records: Sequence[StoredRecord], schema: FeatureSchema) -> Decoded:
    """Decode records of one JSON event each, all together, which is much the faster way."""
    events, rows, faults = [], [], []
    for row, stored in enumerate(records):
        try:
            events.append(ClickEvent.model_validate_json(stored.record.value))
            rows.append(row)
        except ValidationError as error:
            faults.append(Fault(row, *explain(error)))
    batch, bad = encode_valid(events, schema)
    faults += [Fault(rows[fault.row], fault.reason, fault.detail) for fault in bad]
    skipped = {fault.row for fault in bad}
    kept = [records[row].offset for at, row in enumerate(rows) if at not in skipped]
    return Decoded(
        batch=batch,
        offsets=np.array(kept, np.int64),
        rows=np.zeros(len(kept), np.int64),
        invalid=tuple(_whole(records[f.row], f.reason, f.detail) for f in sorted(faults)),
    )


def decode_columnar(records: Sequence[StoredRecord], schema: FeatureSchema) -> Decoded:
    """Decode columnar records all together, which is much the faster way."""
    found, sources, invalid = [], [], []
    for stored in records:
        try:
            found.append(opened(stored.record.value, schema))
            sources.append(stored)
        except SchemaMismatchError as error:
            invalid.append(_whole(stored, Reason.SCHEMA, str(error)))
        except ValueError as error:
            invalid.append(_whole(stored, Reason.UNPARSABLE, str(error)))
    if not found:
        return replace(_nothing(schema), invalid=tuple(invalid))
    batch = gather(found, schema)
    sizes = [len(one.columns["label"]) for one in found]
    source = np.repeat(np.arange(len(sources)), sizes)
    offsets = np.array([stored.offset for stored in sources], np.int64)[source]
    rows = np.concatenate([np.arange(size) for size in sizes])
    faults = _faults(batch, schema)
    if faults:
        good = np.ones(len(batch), np.bool_)
        for fault in faults:
            good[fault.row] = False
            stored, row = sources[source[fault.row]], int(rows[fault.row])
            invalid.append(_row(stored, row, batch[fault.row : fault.row + 1], fault))
        batch, offsets, rows = batch[good], offsets[good], rows[good]
    return Decoded(batch, offsets, rows, tuple(sorted(invalid, key=lambda one: one.place)))


def _faults(batch: ClickBatch, schema: FeatureSchema) -> list[Fault]:
    """Check every row of a columnar record, all at once."""
    buckets = batch.categorical
    checks = {
        Reason.LABEL: (batch.label == 0) | (batch.label == 1),
        Reason.WEIGHT: np.isfinite(batch.weight) & (batch.weight > 0),
        Reason.NUMERIC: np.isfinite(batch.numeric),
        Reason.CATEGORICAL: (buckets >= 0) & (buckets < schema.column_buckets),
    }
    first: dict[int, Fault] = {}
    for reason, passed in checks.items():
        if not passed.all():
            for row in np.unique(np.argwhere(~passed)[:, 0]).tolist():
                first.setdefault(row, Fault(row, reason, _DETAILS[reason]))
    return [first[row] for row in sorted(first)]


_DETAILS = {
    Reason.LABEL: "label is not 0 or 1",
    Reason.WEIGHT: "weight is not a finite number above 0",
    Reason.NUMERIC: "a numeric feature is not finite",
    Reason.CATEGORICAL: "a bucket is outside its feature",
}


def _nothing(schema: FeatureSchema) -> Decoded:
    batch = ClickBatch.empty(schema.numeric_count, schema.column_count)
    return Decoded(batch, np.empty(0, np.int64), np.empty(0, np.int64))


def _whole(stored: StoredRecord, reason: Reason, detail: str) -> Invalid:
    """Call a whole record invalid."""
    record = stored.record
    return Invalid(
        stored.partition, stored.offset, 0, reason, detail, record.value, headers=record.headers
    )


def _row(stored: StoredRecord, row: int, click: ClickBatch, fault: Fault) -> Invalid:
    """Call one row of a columnar record, given as a batch of one, invalid."""
    values = {
        "label": float(click.label[0]),
        "weight": float(click.weight[0]),
        "time_ms": int(click.time_ms[0]),
        "numeric": click.numeric[0].tolist(),
        "categorical": click.categorical[0].tolist(),
    }
    whole = _whole(stored, fault.reason, fault.detail)
    return replace(whole, row=row, raw=json.dumps(values).encode())


def _raw(stored: StoredRecord) -> Invalid:
    """Take the reason, file and line of a raw record from its headers."""
    reason = _text(stored, "reason")
    line = _text(stored, "line")
    known = reason in Reason.__members__.values()
    return replace(
        _whole(stored, Reason(reason) if known else Reason.UNPARSABLE, _text(stored, "detail")),
        file=_text(stored, "file") or None,
        line=int(line) if line.isdecimal() and len(line) <= _LINE_DIGITS else None,
    )


def _text(stored: StoredRecord, name: str) -> str:
    return (stored.header(name) or b"").decode(errors="replace")


_DETAIL: Final = 500
"""Characters of a detail at most: it may quote a name that the event itself brings."""


def dead_letter(invalid: Invalid) -> DeadLetter:
    """Turn an invalid event into the message that the ``deadletters`` log keeps.

    >>> from stream.events import Reason
    >>> letter = dead_letter(Invalid(0, 7, 2, Reason.LABEL, "label is not 0 or 1", b"2"))
    >>> letter.key, letter.reason, letter.raw
    ('dead_letter/0/7/2', 'label', 'Mg==')
    """
    detail = invalid.detail
    return DeadLetter(
        reason=invalid.reason.value,
        detail=detail if len(detail) <= _DETAIL else f"{detail[: _DETAIL - 1]}…",
        partition=invalid.partition,
        offset=invalid.offset,
        row=invalid.row,
        file=invalid.file,
        line=invalid.line,
        raw=_base64(invalid.raw),
        headers=tuple((name, _base64(value)) for name, value in invalid.headers),
    )


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
