"""A record of ours as a record of Kafka, and back."""

from __future__ import annotations

from typing import Any, Final

from stream.log import Headers, Record, StoredRecord

TIME_HEADER: Final = "resprout-time-ms"
"""Holds an event time that Kafka cannot: one before 1970."""
_RECORD_BYTES: Final = 61 + 36
"""The heads of a batch and of a record, at most."""
_HEADER_BYTES: Final = 10
"""The lengths of a header's name and value, at most."""


def to_kafka(record: Record) -> tuple[int, list[tuple[str, bytes]]]:
    """Return the timestamp and the headers with which a record is sent.

    >>> to_kafka(Record(b"", (("kind", b"json"),), time_ms=-7))
    (0, [('kind', b'json'), ('resprout-time-ms', b'-7')])
    """
    headers = list(record.headers)
    if record.time_ms >= 0:
        return record.time_ms, headers
    return 0, [*headers, (TIME_HEADER, b"%d" % record.time_ms)]


def from_kafka(one: Any, partition: int) -> StoredRecord:
    """Turn a record of a consumer into ours; what is null to Kafka is empty to us."""
    headers: Headers = tuple((name, value or b"") for name, value in one.headers)
    time_ms = one.timestamp
    if headers and headers[-1][0] == TIME_HEADER:
        time_ms = int(headers[-1][1])
        headers = headers[:-1]
    record = Record(one.value or b"", headers, time_ms)
    return StoredRecord(partition, one.offset, one.offset + 1, record)


def wire_bytes(record: Record) -> int:
    """Return at most how large a record is on the wire, alone in its batch and not compressed.

    >>> wire_bytes(Record(b"x" * 1000, (("kind", b"json"),)))
    1115
    """
    headers = sum(_HEADER_BYTES + len(name.encode()) + len(value) for name, value in record.headers)
    return _RECORD_BYTES + len(record.value) + headers
